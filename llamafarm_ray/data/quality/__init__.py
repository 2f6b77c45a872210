"""Quality control: one filter a file, each a step that counts and samples the rows it drops."""
