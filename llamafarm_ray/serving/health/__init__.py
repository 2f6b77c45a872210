"""Health of versions in production: recent requests against a reference, from sketches alone.

``exact`` has the test, ``signals`` says what is compared, ``looks`` when, so that the chance of a false alarm is known,
and ``report`` puts the findings in words.
"""
