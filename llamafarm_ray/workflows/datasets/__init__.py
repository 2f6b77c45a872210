"""Use cases of datasets: look at them, compare, check, convert and merge them."""
