"""Files to workers: projects, handles, and where the files are."""
