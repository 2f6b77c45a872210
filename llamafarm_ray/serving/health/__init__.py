"""Health of versions in production: recent requests against a reference, from sketches alone.

``exact`` has the test, ``signals`` says what is compared, ``looks`` when, so that the chance of a false alarm is known,
and ``references`` keeps what versions are compared with.
"""
