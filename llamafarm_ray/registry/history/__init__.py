"""The log's past: snapshots, validation and verification."""
