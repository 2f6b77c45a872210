"""Fixtures of the long tests."""

from s3 import s3_server  # noqa: F401  (a fixture)
