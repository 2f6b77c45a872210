"""Downloads of models: any source, in resumable pieces, into a node's cache."""
