"""Versions under a serving root: the rules, the journal, and the renames."""
