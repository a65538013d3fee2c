"""The docker runtime: engine, image, container, and what is copied into it."""
