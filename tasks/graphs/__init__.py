"""GraphDefs and MetaGraphDefs: index, validate, scan, rewrite and compare them without running them."""
