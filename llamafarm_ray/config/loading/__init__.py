"""Load a configuration: files, overrides and the report of mistakes."""
