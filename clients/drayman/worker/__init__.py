"""Workers: programs that take files from a project and run something on each."""
