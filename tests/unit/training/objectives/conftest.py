"""A model that has learned something, beside the frozen one that it is compared with."""

import pytest
from objective_steps import make_strategy, moved


@pytest.fixture
def strategy(base_model):
    made = make_strategy(base_model)
    moved(made)
    return made
