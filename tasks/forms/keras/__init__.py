"""Keras models in `.keras` archives and HDF5 files: check the archive, load it, compare configurations."""
