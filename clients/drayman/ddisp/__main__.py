"""`python -m drayman.ddisp` is the command `ddisp`."""

from drayman.ddisp import main

main()
