"""`python -m flanlite` is `flanlite`."""

from flanlite.cli import main

main()
