"""Facts of models, read before the models are used."""
