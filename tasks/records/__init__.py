"""Every record that travels between steps, step parameters included: frozen, typed, JSON."""
