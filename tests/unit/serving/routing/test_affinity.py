"""Of many adapters each is on one replica, popular ones are on as many as they need, and no replica has too much."""

import random
from collections import Counter, defaultdict

import pytest

from llamafarm_ray.serving.routing import affinity as module
from llamafarm_ray.serving.routing.affinity import Affinity

REPLICAS = ["k2x9", "p0a1", "z7qd", "m4te"]
NAMES = [f"bot-{number}:1.0.0#0123456789ab" for number in range(1000)]
ZIPF = [1 / (rank + 1) for rank in range(len(NAMES))]


class World:
    """An affinity, and the replicas that run."""

    def __init__(self, replicas=REPLICAS):
        self.replicas = list(replicas)
        self._affinity = Affinity()

    def ask(self, name):
        return self._affinity.pick(name, self.replicas)

    def ask_all(self, names):
        return [(name, self.ask(name)) for name in names]


def homes(replicas=REPLICAS, names=NAMES):
    """Where names go that nobody asked for before."""
    return {name: World(replicas).ask(name) for name in names}


def moved(before, after):
    return [name for name in NAMES if after[name] != before[name]]


def busiest(asked):
    """The most requests that one replica got, to the mean of all."""
    loads = Counter(replica for _, replica in asked)
    return max(loads.values()) / (len(asked) / len(loads))


def test_homes_are_even_and_the_same_for_every_router_whatever_the_order_of_the_replicas():
    assert homes(REPLICAS[::-1]) == homes()
    assert all(200 < number < 300 for number in Counter(homes().values()).values())


def test_a_replica_that_comes_takes_its_part_and_moves_nothing_else():
    before, after = homes(), homes([*REPLICAS, "n3wb"])
    assert {after[name] for name in moved(before, after)} == {"n3wb"}
    assert 150 < len(moved(before, after)) < 250  # a fifth


def test_of_a_replica_that_goes_only_its_own_names_move_and_they_scatter():
    before, after = homes(), homes([replica for replica in REPLICAS if replica != "p0a1"])
    gone = moved(before, after)
    assert gone == [name for name in NAMES if before[name] == "p0a1"]
    assert all(number > len(gone) / 5 for number in Counter(after[name] for name in gone).values())


def test_names_move_so_under_way_too_and_back():
    draw, world = random.Random(0), World()

    def settled():
        return dict(world.ask_all(draw.sample(NAMES, k=len(NAMES))))

    before = settled()
    assert len(moved(before, settled())) < 10  # a few because of chance: their homes just had more than the others
    world.replicas.insert(0, "n3wb")
    assert 150 < len(moved(before, settled())) < 260
    world.replicas.remove("n3wb")
    assert len(moved(before, settled())) < 10


def test_zipf_traffic_is_even_and_loads_nearly_each_adapter_once():
    names = random.Random(0).choices(NAMES, ZIPF, k=20_000)
    asked = World().ask_all(names)
    assert busiest(asked) < 1.3
    assert all(busiest(asked[begin : begin + 1000]) < 1.4 for begin in range(0, 20_000, 1000))
    num_pairs, num_names = len(set(asked)), len(set(names))
    in_turn = {(name, number % len(REPLICAS)) for number, name in enumerate(names)}
    assert num_pairs < 1.05 * num_names
    assert num_pairs < 0.4 * len(in_turn)


def test_a_thousand_adapters_asked_for_evenly_are_each_on_one_replica():
    asked = World().ask_all(random.Random(0).choices(NAMES, k=20_000))
    assert len(set(asked)) < 1.02 * len(NAMES)
    assert busiest(asked) < 1.3


def test_at_the_start_first_requests_go_to_their_homes():
    expected = homes(names=NAMES[:20])
    assert dict(World().ask_all(NAMES[:20])) == expected


def test_a_name_that_is_asked_for_alone_has_all_replicas_in_turn():
    asked = [replica for _, replica in World().ask_all(["tiny"] * 400)]
    assert all(len(set(asked[place : place + 4])) == 4 for place in range(4, 397))


def test_requests_without_a_name_go_to_all_replicas_in_turn():
    asked = [replica for _, replica in World().ask_all([""] * 400)]
    assert all(len(set(asked[place : place + 4])) == 4 for place in range(397))


def test_a_popular_name_has_as_many_replicas_as_its_share_asks_for():
    draw, world = random.Random(0), World([f"r{number}" for number in range(20)])
    names = draw.choices(["half", "tenth", "rest"], [0.5, 0.1, 0.4], k=20_000)
    asked = world.ask_all(draw.choice(NAMES) if name == "rest" else name for name in names)
    had = defaultdict(set)
    for name, replica in asked[10_000:]:
        had[name].add(replica)
    assert len(had["half"]) == 20
    assert 2 <= len(had["tenth"]) <= 9  # it would fill two; thrice that, and what chance adds
    assert busiest(asked) < 1.4


def test_what_was_popular_has_one_replica_again():
    draw, world = random.Random(0), World()
    world.ask_all(["hot"] * 100)
    world.ask_all(draw.sample(NAMES, k=500))
    rarely = [name for other in draw.sample(NAMES, k=500) for name in (other, *["hot"] * (draw.random() < 0.02))]
    asked = [replica for name, replica in world.ask_all(rarely) if name == "hot"]
    assert len(asked) > 5
    assert set(asked) == set(homes(names=["hot"]).values())


def test_a_swap_under_load_leaves_no_replica_with_much_more_than_the_others():
    """All requests have another name from one to the next."""
    world = World()
    world.ask_all(["bot:1.0.0#a"] * 1000)
    asked = world.ask_all(["bot:1.1.0#b"] * 1000)
    assert busiest(asked[:100]) < 1.6
    assert busiest(asked[100:]) < 1.05


def test_names_that_all_have_one_home_are_not_all_sent_there():
    two = REPLICAS[:2]
    names = [name for name, home in homes(two).items() if home == two[0]][:12]
    draw, num = random.Random(0), 10_000
    loads = Counter(replica for _, replica in World(two).ask_all(draw.choices(names, k=num)))
    assert 1.1 * num / 2 < loads[two[0]] < 1.4 * num / 2, "no more than it takes are sent elsewhere"


@pytest.mark.parametrize("name", ["tiny", ""])
def test_a_new_replica_gets_its_part_at_once_and_no_more(name):
    world = World(REPLICAS[:1])
    world.ask_all([name] * 1000)
    world.replicas.append(REPLICAS[1])
    assert Counter(replica for _, replica in world.ask_all([name] * 100)) == {REPLICAS[0]: 50, REPLICAS[1]: 50}


def test_all_replicas_may_be_others_from_one_request_to_the_next():
    world = World()
    world.ask_all(["tiny"] * 100)
    world.replicas = ["a", "b"]
    assert Counter(replica for _, replica in world.ask_all(["tiny"] * 100)) == {"a": 50, "b": 50}


def test_what_a_replica_had_long_ago_is_not_held_against_it():
    """It got more than the other for a long time."""
    two = REPLICAS[:2]
    world = World(two)
    names = [name for name, home in homes(two).items() if home == two[0]]
    world.ask_all(names * 10)
    asked = [replica for _, replica in world.ask_all([""] * 200)]
    assert set(asked[-10:]) == set(two)


def test_names_beyond_what_is_remembered_are_new_again(monkeypatch):
    def most_replicas():
        return max(Counter(name for name, _ in set(World().ask_all(["a", "b"] * 4))).values())

    assert most_replicas() > 1
    monkeypatch.setattr(module, "_MAX_NAMES", 1)
    assert most_replicas() == 1


def test_what_is_asked_for_again_and_again_is_remembered(monkeypatch):
    monkeypatch.setattr(module, "_MAX_NAMES", 2)
    asked = World().ask_all(name for other in NAMES[:50] for name in ("hot", other))
    assert {replica for name, replica in asked if name == "hot"} == set(REPLICAS)
