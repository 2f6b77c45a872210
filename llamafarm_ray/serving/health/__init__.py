"""Health of versions in production: recent requests against a reference, from sketches alone.

``exact`` has the test, ``signals`` the compared values, ``looks`` the times of comparison, so that the chance of a
false alarm is known, and ``references`` keeps the figures that versions are compared with.
"""
