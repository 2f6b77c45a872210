"""Population based training: who gives up, who takes the place, and that a killed sweep decides the same."""

import math

import pytest

from llamafarm_ray.config import parse_config
from llamafarm_ray.tuning.journal import Journal, Record, State, SweepFacts
from llamafarm_ray.tuning.plan import Planner
from llamafarm_ray.tuning.population import Population
from llamafarm_ray.tuning.search import make_search
from llamafarm_ray.tuning.space import Space

RATE = "fine_tuning.training.learning_rate"
DECAY = "fine_tuning.training.weight_decay"
FACTS = SweepFacts("bot", "validation_loss", True, {"scheduler": "pbt"})
PARAMETERS = {RATE: {"log_uniform": [1e-5, 1e-1]}, DECAY: [0.0, 0.01, 0.1]}


def population(**changes):
    settings = {"num_points": 8, "quantile": 0.25, "resample_probability": 0.25, "lower_is_better": True, "seed": 3}
    return Population(**(settings | changes))


def records(*points):
    return {number: Record(number, {RATE: 1e-3}, points=dict(found)) for number, found in enumerate(points)}


def space(parameters=PARAMETERS):
    return Space.of(parse_config({"tuning": {"parameters": parameters}}))


@pytest.mark.parametrize(
    ("value", "lower_is_better", "expected"),
    [
        (4.0, True, True),
        (2.5, True, False),
        (0.5, True, False),
        (math.nan, True, True),
        (3.0, True, False),
        (0.5, False, True),
        (4.0, False, False),
        (math.nan, False, True),
    ],
)
def test_the_worst_quarter_gives_up_and_ties_go_on(value, lower_is_better, expected):
    known = records({1: 1.0}, {1: 2.0}, {1: 3.0}, {})
    assert population(lower_is_better=lower_is_better).gives_up(3, 1, value, known) is expected


def test_nobody_gives_up_among_few_at_the_end_or_for_what_was_decided_before():
    few = records({1: 1.0}, {1: 2.0}, {})
    assert not population().gives_up(2, 1, 9.0, few)
    known = records(*({1: 1.0, 8: 1.0} for _ in range(5)), {1: 9.0, 2: 1.0})
    assert not population().gives_up(5, 8, 9.0, known), "there is nothing left to train"
    assert not population().gives_up(5, 1, 9.0, known), "it says again what it said before it was interrupted"


def test_a_place_is_taken_once_and_by_a_child_of_the_best():
    known = records({1: 1.0}, {1: 2.0}, {1: 3.0}, {1: 4.0})
    assert population().vacancy(known) is None
    known[3].state = State.STOPPED
    assert population().vacancy(known) is known[3]
    assert {population(seed=seed).parent(known[3], known).number for seed in range(20)} == {0}
    assert {population(seed=s, quantile=0.5).parent(known[3], known).number for s in range(20)} == {0, 1}
    known[4] = Record(4, {RATE: 1e-3}, parent=0, instead_of=3)
    assert population().vacancy(known) is None


def test_settings_are_changed_a_little_or_drawn_anew_and_stay_in_their_ranges():
    parent = Record(0, {RATE: 5e-2, DECAY: 0.01})
    a_little = [population(resample_probability=0.0).explore(parent, space(), number, 0) for number in range(40)]
    assert {found[RATE] for found in a_little} == {4e-2, 6.25e-2}
    assert {found[DECAY] for found in a_little} == {0.0, 0.1}, "a list's neighbours"
    anew = [population(resample_probability=1.0).explore(parent, space(), number, 0)[RATE] for number in range(40)]
    assert len(set(anew)) == 40
    at_the_end = Record(0, {RATE: 1e-1})
    assert max(population(resample_probability=0.0).explore(at_the_end, space(), n, 0)[RATE] for n in range(20)) == 1e-1
    steps = space({DECAY: {"quniform": [0.0, 0.35, 0.1]}})
    found = {
        population(resample_probability=0.0).explore(Record(0, {DECAY: 0.3}), steps, n, 0)[DECAY] for n in range(40)
    }
    assert found == {0.2, 0.3}, "on its steps"


class Simulation:
    """Trials whose loss falls fastest where the learning rate is near 1e-2 at first and near 1e-4 later.

    Up to ``concurrent`` take turns; the planner and the population see what they see in a sweep.
    """

    def __init__(self, folder, *, size=8, concurrent=8, **changes):
        self.population = population(**changes)
        self.journal = Journal(folder / "journal.jsonl")
        self.journal.begin(FACTS)
        search = make_search("random", space(), 5, lower_is_better=True)
        self.planner = Planner(self.journal, space(), search, num_trials=size, population=self.population)
        self.concurrent = concurrent
        self.loss = {}

    def run(self, *, most_points=10**9):
        running = []
        while most_points > 0:
            while len(running) < self.concurrent and (task := self.planner.next()) is not None:
                running.append(task.record)
            if not running:
                assert not self.planner.is_waiting
                return
            for record in list(running):
                most_points -= 1
                if self._step(record):
                    running.remove(record)

    def _step(self, record):
        """Train to the next point; whether it ended."""
        known = self.journal.records
        point = max(record.points, default=record.begins_at) + 1
        before = known[record.parent].points[record.begins_at] if record.parent is not None else 10.0
        before = record.points.get(point - 1, before)
        wanted = -2 if point <= 4 else -4
        value = before - max(0.0, 1.0 - abs(math.log10(record.values[RATE]) - wanted))
        gives_up = self.population.gives_up(record.number, point, value, known)
        self.journal.point(record.number, point, value)
        if gives_up:
            self.journal.ended(record.number, State.STOPPED, seconds=1)
        elif point == 8:
            self.journal.ended(record.number, State.FINISHED, seconds=1, value=value)
        else:
            return False
        self.planner.tell(record)
        return True


@pytest.mark.parametrize("concurrent", [1, 3, 8])
def test_a_population_ends_and_every_place_comes_to_the_end(tmp_path, concurrent):
    simulation = Simulation(tmp_path, concurrent=concurrent)
    simulation.run()
    found = simulation.journal.records.values()
    assert {record.state for record in found} == {State.FINISHED, State.STOPPED}
    assert sum(record.state is State.FINISHED for record in found) == 8
    assert simulation.planner.ended_because == "all 8 trials are done"
    children = [record for record in found if record.parent is not None]
    assert children
    for child in children:
        assert child.begins_at in simulation.journal.records[child.parent].points
        assert child.why.startswith(f"In place of {child.instead_of:04d}, from the weights of {child.parent:04d}")


def test_it_finds_a_schedule_that_no_single_setting_matches(tmp_path):
    """At most 4 can be gained with one rate, 8 with the right two."""
    best = []
    for seed in range(5):
        folder = tmp_path / str(seed)
        simulation = Simulation(folder, size=16, concurrent=16, seed=seed)
        simulation.run()
        best.append(min(r.value for r in simulation.journal.records.values() if r.value is not None))
    assert sorted(best)[2] < 6.0


def test_a_killed_sweep_goes_on_to_the_same_end_state(tmp_path):
    Simulation(tmp_path).run(most_points=30)
    cut = Journal(tmp_path / "journal.jsonl").records
    assert any(record.state is State.RUNNING for record in cut.values())
    again = Simulation(tmp_path)
    again.run()
    found = again.journal.records
    assert sum(record.state is State.FINISHED for record in found.values()) == 8
    assert all(found[number].values == record.values for number, record in cut.items())
    assert all(found[number].parent == record.parent for number, record in cut.items())
    assert Journal(tmp_path / "journal.jsonl").records == found
