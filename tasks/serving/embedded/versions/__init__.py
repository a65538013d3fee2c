"""Versions of a servable: aspired, loaded, warmed up, available, unloaded."""
