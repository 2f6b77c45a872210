"""A judge: a model that compares and rates answers, used if its verdicts agree with people's."""
