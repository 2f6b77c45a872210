"""A judge: a model that compares and rates answers, as far as its verdicts agree with those of people."""
