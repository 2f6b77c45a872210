"""One process and a tiny model: everything but Ray."""

import numpy as np
import pytest
from tiny_model import make_rows, make_tiny_model

from llamafarm_ray.config import MethodParameters
from llamafarm_ray.models.tokenizer import load_tokenizer
from llamafarm_ray.training.decided import DecidedTraining
from llamafarm_ray.training.objectives import SftObjective
from llamafarm_ray.training.rows import Row


@pytest.fixture(scope="session")
def base_model(tmp_path_factory):
    return make_tiny_model(tmp_path_factory.mktemp("model") / "base")


@pytest.fixture(scope="session")
def tokenizer(base_model):
    return load_tokenizer(base_model)


@pytest.fixture(scope="session")
def token_rows(tokenizer):
    """Eleven rows of different lengths."""
    made = [SftObjective().tokenise(tokenizer, row, 256) for row in make_rows(11)]
    return [as_row(row) for rows in made for row in rows]


def as_row(row):
    """A tokenised row as workers read it."""
    ids, labels, lengths = (np.array(part, dtype=np.int32) for part in (row.input_ids, row.labels, row.parts))
    return Row(ids, labels, lengths, row.tag)


@pytest.fixture
def make_strategy(base_model):
    """A function that loads the model for a method, on one worker."""
    import torch

    from llamafarm_ray.training.methods import Precision, find_method
    from llamafarm_ray.training.strategies import Place, find_strategy

    def make(method="full", parameters=None, precision="fp32", **training):
        torch.manual_seed(0)
        place = Place(rank=0, num_workers=1, device=torch.device("cpu"))
        made = find_method(method)(parameters or MethodParameters())
        strategy = find_strategy("single")(place, Precision(precision), DecidedTraining(**training))
        model = made.wrap(
            made.load(base_model, precision=strategy.precision, device=place.device), base_model=base_model
        )
        strategy.prepare(model)
        return made, strategy

    return make
