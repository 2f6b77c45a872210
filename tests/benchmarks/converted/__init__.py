"""Parts of the benchmark of models that convert."""
