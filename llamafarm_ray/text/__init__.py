"""Plain text in any script: character ranges, and the lexical support of an answer by a passage."""
