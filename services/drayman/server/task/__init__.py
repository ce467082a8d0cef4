"""The task service: tasks become jobs, jobs run."""
