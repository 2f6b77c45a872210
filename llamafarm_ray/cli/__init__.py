"""The command line, ``llamafarm``: a module a verb or family. Ray and torch are imported when a verb needs them."""
