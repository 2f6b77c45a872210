"""Use cases, one a file: what the command line, the jobs and the tests call."""
