"""Further forms of training rows: with passages, by heart, as keywords and as practice."""
