"""Questions and a corpus: a model asked closed book, with retrieved and with gold passages."""
