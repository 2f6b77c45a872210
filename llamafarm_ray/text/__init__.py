"""Plain text in any script: words, languages, refusals, personal data, lexical support of an answer by a passage."""
