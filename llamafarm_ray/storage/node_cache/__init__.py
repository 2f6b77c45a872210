"""The node-local cache of blobs and unpacked versions, and its eviction."""
