"""The command line, the configuration, and the order of the pipeline's steps."""
