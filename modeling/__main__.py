"""`python -m modeling`: the command line."""

from modeling.cli import main

main()
