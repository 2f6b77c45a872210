"""Parts of the benchmark of dataset builds."""
