"""The build of a dataset: gather, check and assemble examples."""
