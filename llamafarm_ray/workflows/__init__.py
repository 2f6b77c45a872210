"""Use cases, one a file, for the command line, the jobs and the tests."""
