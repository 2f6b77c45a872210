"""Points of comparison of a sweep whose epochs or batch size are left open."""

from llamafarm_ray.config import Domain, parse_config
from llamafarm_ray.tuning.space import Space
from llamafarm_ray.workflows.tuning.sizes import Points, with_sizes

EPOCHS, BATCH = "fine_tuning.training.epochs", "fine_tuning.training.batch_size"


def points(parameters, passes=1, **training):
    config = parse_config({"fine_tuning": {"training": training}})
    space = Space.of(config, {key: Domain("choice", tuple(values)) for key, values in parameters.items()})
    return Points.of(with_sizes(config, num_rows=100, passes=passes), space, num_rows=100)


def test_auto_among_the_values_is_what_it_stands_for():
    assert points({EPOCHS: ["auto", 1]}) == points({EPOCHS: [3, 1]})
    assert points({EPOCHS: ["auto", 1]}, passes=4) == points({EPOCHS: [1]})
    assert points({BATCH: ["auto", 8]}, max_steps=50) == points({BATCH: [2, 8]}, max_steps=50)


def test_a_trials_own_sizes_decide_its_steps():
    few = with_sizes(parse_config({}), num_rows=100, passes=1)
    assert (few.fine_tuning.training.epochs, few.fine_tuning.training.batch_size) == (3.0, 2)
    assert Points(rows=40.0, count=3).every_steps(few) == 20
