"""Tokens of a dataset: made on Ray Data, stored as shards and streamed to workers."""
