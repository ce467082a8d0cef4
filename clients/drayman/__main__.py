"""`python -m drayman` is the command `drayman`."""

from drayman.cli import main

main()
