"""Records that travel between steps, step parameters included: frozen, typed, JSON."""
