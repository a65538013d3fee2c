"""Tables and pages of the terminal, built from records."""
