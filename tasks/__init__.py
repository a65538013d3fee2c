"""The steps of the pipeline, one verb a file, and the packages that they stand on."""
