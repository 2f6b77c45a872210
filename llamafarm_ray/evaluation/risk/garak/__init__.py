"""garak, a scanner of language models' weaknesses: its process and its report."""
