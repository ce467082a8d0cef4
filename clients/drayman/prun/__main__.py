"""`python -m drayman.prun` is the command `prun`."""

from drayman.prun import main

main()
