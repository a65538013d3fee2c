"""The probe: read it from files, fit it to signatures, or draw it from the graph."""
