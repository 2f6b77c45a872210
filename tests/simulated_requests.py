"""Requests in production, drawn at random: sketches without a server."""

import dataclasses
import datetime as dt
import json

import numpy as np

from llamafarm_ray.serving.journal.blocks import BLOCK_REQUESTS
from llamafarm_ray.serving.journal.files import day_name, page_bytes
from llamafarm_ray.serving.journal.sketch import Observation, Sketch
from llamafarm_ray.serving.journal.topics import topic_signs
from llamafarm_ray.serving.journal.usage import UsageTable
from llamafarm_ray.serving.telemetry.outcome import End

COMMON = ("which", "where", "when", "what", "have", "this", "that", "with", "from", "your", "more", "tell")
TOPICS = {
    "shop": ("order", "parcel", "delivery", "refund", "invoice", "payment", "basket", "discount", "shipping"),
    "garden": ("tomato", "seeds", "watering", "compost", "pruning", "lavender", "hedge", "greenhouse", "roses"),
}


def question(topic, rng):
    """Return a question of some fifteen words, half of them on a topic."""
    words = [*rng.choice(COMMON, 8), *rng.choice(TOPICS[topic], 6)]
    return " ".join(rng.permutation(words))


def request(
    rng,
    *,
    topic="shop",
    failed=0.01,
    empty=0.002,
    declined=0.03,
    latency_s=0.5,
    german=0.05,
    signs=None,
    loss=None,
    sampled=0.2,
):
    """Draw a request; where there is a loss, a share of the answers is sampled and has one."""
    is_failed = rng.random() < failed
    return Observation(
        end=End.FAILED if is_failed else End.ANSWERED,
        latency_s=latency_s * rng.lognormal(0, 0.6),
        wait_s=0.01 * rng.lognormal(0, 1),
        prompt_tokens=1 + int(30 * rng.lognormal(0, 0.7)),
        answer_tokens=1 + int(80 * rng.lognormal(0, 0.8)),
        language="de" if rng.random() < german else "en",
        signs=signs if signs is not None else topic_signs(question(topic, rng)),
        is_empty=bool(rng.random() < empty),
        declines=bool(rng.random() < declined),
        answer_loss=loss * rng.lognormal(0, 0.4) if loss is not None and rng.random() < sampled else None,
    )


def blocks_of(requests, *, start_s=0.0, every_s=1.0, rate=None):
    """Sketch requests in blocks, as a replica does, one each ``every_s`` seconds."""
    made = []
    for number, seen in enumerate(requests):
        if not made or made[-1].num_requests >= BLOCK_REQUESTS:
            made.append(Sketch())
        made[-1].add(seen, start_s + number * every_s)
        if rate is not None:
            made[-1].rate(rate, start_s + number * every_s)
    return made


def drawn_block(rng, start_s, end_s, signs, *, disliked=0.1):
    """Draw the sketch of a block at once; ``signs`` are the chances of each sign, shape (64,)."""
    num_failed = int(rng.binomial(BLOCK_REQUESTS, 0.01))
    num_answered = BLOCK_REQUESTS - num_failed
    sketch = Sketch(start_s, end_s, num_answered, num_failed, num_checked=num_answered)
    sketch.num_empty, sketch.num_declined = (int(rng.binomial(num_answered, share)) for share in (0.002, 0.03))
    sketch.num_rated = int(rng.binomial(BLOCK_REQUESTS, 0.05))
    sketch.num_disliked = int(rng.binomial(sketch.num_rated, disliked))
    shares = (0.7, 0.15, 0.1, 0.05)
    for code, count in zip(("en", "de", "fr", "es"), rng.multinomial(BLOCK_REQUESTS, shares), strict=True):
        sketch.languages[code] += int(count)
    for histogram, center in (
        (sketch.prompt_tokens, 18),
        (sketch.answer_tokens, 24),
        (sketch.latency, -4),
        (sketch.wait, -25),
    ):
        for number in np.round(rng.normal(center, 4, BLOCK_REQUESTS)).astype(int).tolist():
            histogram[number] += 1
    sketch.num_signed = BLOCK_REQUESTS
    sketch.signs = rng.binomial(BLOCK_REQUESTS, signs).astype(np.int64)
    return sketch


def drawn_week(rng, num_requests, *, signs=None):
    """Draw the sketches of a week in which nothing changes."""
    chances = rng.uniform(0.1, 0.9, 64) if signs is None else signs
    num_blocks = num_requests // BLOCK_REQUESTS
    width_s = 7 * 86400 / num_blocks
    return [drawn_block(rng, at * width_s, (at + 1) * width_s - 1, chances) for at in range(num_blocks)]


def write_page(home, blocks, *, usage=None, samples=(), day=None, replica="r1", application="app", **fields):
    """Write what a replica would have written on a day."""
    table = usage or UsageTable()
    written = json.dumps({ref: [block.to_dict() for block in made] for ref, made in blocks.items()})
    values = {
        "application": application,
        "replica": replica,
        "start_s": 0.0,
        "end_s": 86400.0,
        "num_cpus": 1,
        "num_gpus": 0,
        "usage": table.to_dict(),
        "samples": [dataclasses.asdict(sample) for sample in samples],
    }
    home.write(day_name(day or dt.datetime.now(dt.UTC).date(), replica), page_bytes({**values, **fields}, written))
