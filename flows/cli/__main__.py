"""`python -m flows.cli`: the console script where it is not installed."""

from flows.cli import main

main()
