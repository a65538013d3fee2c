"""Commands about a serving root: what is promoted to it, which versions are served, and what they are."""
