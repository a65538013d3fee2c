"""The report of a run: what is known (facts), what it comes to (verdict, chain), and the page that says so."""
