"""The command line, ``llamafarm``. One module a verb; Ray and torch are imported only when a verb needs them."""
