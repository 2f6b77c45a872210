"""The schema of a configuration, a module for each section."""
