"""The best model that meets all limits is chosen, always the same one, with a reason for each that is not."""

import pickle
import random
from dataclasses import replace

import pytest

from llamafarm_ray.errors import InputError, NotFoundError
from llamafarm_ray.serving.selection.model_selection import NoModelFitsError, Offer, Wanted, select

WRITES = ("chat", "completions")
BASE = Offer("tiny", "tiny", WRITES, WRITES, latency_ms=100, memory_bytes=1e9)
BOT = Offer("bot", "bot:1.0.0", WRITES, ("qa",), quality=0.8, quality_metric="accuracy", latency_ms=120)
SLOW = Offer("slow", "slow:2.0.0", WRITES, ("qa", "summarization"), quality=0.9, latency_ms=900, memory_bytes=9e9)
DRAFT = Offer("draft", "draft:0.1.0", WRITES, ("qa",), withheld="none of its versions is production", quality=0.99)
VECTORS = Offer("embed", "embed", ("embeddings",), ("embeddings",), latency_ms=5)
ALL = [BASE, BOT, SLOW, DRAFT, VECTORS]


@pytest.mark.parametrize(
    ("wanted", "model"),
    [
        ({"kind": "chat"}, "tiny"),
        ({"kind": "completions"}, "tiny"),
        ({"kind": "embeddings"}, "embed"),
        ({"task": "qa"}, "slow"),
        ({"task": "QA"}, "slow"),
        ({"kind": "chat", "task": "qa"}, "slow"),
        ({"task": "qa", "max_latency_ms": 500}, "bot"),
        ({"task": "qa", "max_latency_ms": 120}, "bot"),
        ({"task": "qa", "min_quality": 0.9}, "slow"),
        ({"task": "chat", "max_memory_bytes": 1e9}, "tiny"),
        ({"max_latency_ms": 50}, "embed"),
        ({}, "slow"),
    ],
)
def test_the_best_of_those_that_meet_all_limits_is_chosen(wanted, model):
    for seed in range(5):
        offers = random.Random(seed).sample(ALL, len(ALL))
        chosen = select(offers, Wanted(**wanted))
        assert chosen.model == model
        assert {one.model for one in chosen.left_out} == {offer.model for offer in ALL} - {model}


def test_what_is_as_good_elsewhere_is_no_reason_to_go_there():
    own, far = Offer("zoe", "zoe:1.0.0", WRITES), Offer("adam", "adam:1.0.0", WRITES, base_url="/far/v1")
    chosen = select([far, own], Wanted())
    assert (chosen.model, chosen.reason) == ("zoe", "the shorter way than the next, adam:1.0.0")
    better = replace(far, quality=0.1)
    assert select([own, better], Wanted()).base_url == "/far/v1"


def test_each_that_is_left_out_has_its_reason():
    chosen = select(ALL, Wanted(task="qa", max_latency_ms=500))
    assert (chosen.model, chosen.version, chosen.reason) == ("bot", "bot:1.0.0", "the only one that meets all limits")
    assert {one.model: one.reason for one in chosen.left_out} == {
        "draft": "none of its versions is production",
        "tiny": "is for chat, completions",
        "embed": "is for embeddings",
        "slow": "900 ms of latency, over 500 ms",
    }


def test_the_best_says_what_it_is_better_in():
    chosen = select(ALL, Wanted(task="qa"))
    assert chosen.reason == "a higher quality (0.9 against 0.8 accuracy) than the next, bot:1.0.0"
    assert "slow:2.0.0 has a higher quality (0.9 against 0.8 accuracy)" in {one.reason for one in chosen.left_out}


@pytest.mark.parametrize(
    ("wanted", "says"),
    [
        ({"task": "translation"}, "for the task 'translation'. There is: chat, completions, embeddings, qa, summariza"),
        ({"task": "summarisation"}, "Did you mean summarization?"),
        ({"kind": "embeddings", "task": "qa"}, "Of the models for embeddings requests and in production, none is for"),
        (
            {"task": "qa", "min_quality": 0.95},
            "none is known to have a quality of 0.95 or more. The nearest is slow:2.0.0 with 0.9.",
        ),
        (
            {"task": "qa", "min_quality": 0.85, "max_latency_ms": 500},
            "quality of 0.85 or more, none is known to keep to 500 ms of latency. The nearest is slow:2.0.0 with 900",
        ),
        (
            {"kind": "chat", "min_quality": 0.1},
            "Of the models for chat requests and in production and for chat in general",
        ),
        ({"task": "chat", "max_memory_bytes": 1e8}, "to 0.1 GB of memory. The nearest is tiny with 1 GB."),
        ({"task": "chat", "min_quality": 0.1}, "None of them was evaluated"),
    ],
)
def test_where_no_model_fits_the_limit_that_nobody_meets_is_named_and_who_came_nearest(wanted, says):
    with pytest.raises(NoModelFitsError) as caught:
        select(ALL, Wanted(**wanted))
    assert says in str(caught.value)
    assert {one.model for one in caught.value.left_out} == {offer.model for offer in ALL}
    assert isinstance(caught.value, NotFoundError)


def test_what_was_not_measured_keeps_to_no_limit():
    new = Offer("new", "new:1.0.0", WRITES, WRITES)
    assert select([new], Wanted(kind="chat")).model == "new"
    with pytest.raises(NoModelFitsError, match="before they have answered"):
        select([new], Wanted(kind="chat", max_latency_ms=1e9))
    with pytest.raises(NoModelFitsError, match="evaluated"):
        select([new], Wanted(min_quality=0))
    with pytest.raises(NoModelFitsError, match="No memory is known"):
        select([new], Wanted(max_memory_bytes=1e12))


def test_latencies_that_are_about_the_same_change_nothing():
    one, two = (Offer(name, name, latency_ms=ms) for name, ms in (("a", 110), ("b", 100)))
    assert select([one, two], Wanted()).model == "a"
    assert select([one, Offer("b", "b", latency_ms=20)], Wanted()).model == "b"


def test_the_same_model_in_two_applications_is_chosen_by_address():
    two = [Offer("bot", "bot:1.0.0", base_url=f"http://{host}/v1") for host in ("b", "a")]
    assert select(two, Wanted()).base_url == "http://a/v1"


def test_without_models_there_is_none():
    with pytest.raises(NoModelFitsError, match="no model to choose from"):
        select([], Wanted())


def test_the_error_survives_pickling_with_its_reasons():
    with pytest.raises(NoModelFitsError) as caught:
        select(ALL, Wanted(task="x"))
    again = pickle.loads(pickle.dumps(caught.value))  # noqa: S301  (its own)
    assert (str(again), again.left_out) == (str(caught.value), caught.value.left_out)


@pytest.mark.parametrize(
    "limits",
    [
        {"min_quality": 1.1},
        {"min_quality": -0.1},
        {"min_quality": float("nan")},
        {"min_quality": True},
        {"max_latency_ms": -1},
        {"max_latency_ms": float("inf")},
        {"max_latency_ms": "fast"},
        {"max_memory_bytes": -1},
    ],
)
def test_a_limit_that_is_none_is_refused(limits):
    with pytest.raises(InputError, match=next(iter(limits))):
        Wanted(**limits)
