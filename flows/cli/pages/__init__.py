"""What a command prints for people: tables and pages built from records."""
