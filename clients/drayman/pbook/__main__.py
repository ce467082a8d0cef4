"""`python -m drayman.pbook` is the command `pbook`."""

from drayman.pbook import main

main()
