"""Records of requests: sketches and usage of each version, in bounded memory and small files below the home.

``sketch`` holds the counts of a block of requests, ``topics`` the fingerprint of a text, ``opening`` the beginning of
an answer, ``blocks`` the blocks of all versions, ``usage`` the requests of each key, ``samples`` redacted requests
where a configuration asks for them. ``journal`` takes in requests, and ``files`` writes and reads the home.
"""
