import random

import pytest

from llamafarm_ray.errors import InputError
from llamafarm_ray.evaluation.load.replay import read_prompts, read_replay
from llamafarm_ray.evaluation.load.traffic import SessionShape, parse_lengths, synthesize


def test_prompts_and_answers_have_the_lengths_of_the_mix():
    lengths = parse_lengths("80%:20/64, 20%:400/256")
    sessions = synthesize(range(2000), lengths=lengths, shape=SessionShape(), rng=random.Random(1))
    turns = [turn for session in sessions for turn in session.turns]
    words = [len(turn.messages[0]["content"].split()) for turn in turns]
    long = [number for number in words if number > 100]
    assert len(long) / len(words) == pytest.approx(0.2, abs=0.03)
    assert sum(long) / len(long) == pytest.approx(400, rel=0.05)
    assert {turn.max_tokens > 100 for turn, number in zip(turns, words, strict=True) if number > 100} == {True}
    assert sum(number for number in words if number <= 100) / (len(words) - len(long)) == pytest.approx(20, rel=0.05)


def test_sessions_have_turns_with_time_to_think_between():
    shape = SessionShape(1, 4, think_s=2.0)
    sessions = synthesize(range(1000), lengths=parse_lengths("8/8"), shape=shape, rng=random.Random(1))
    assert {len(session.turns) for session in sessions} == {1, 2, 3, 4}
    assert all(session.turns[0].think_s == 0 for session in sessions)
    later = [turn.think_s for session in sessions for turn in session.turns[1:]]
    assert sum(later) / len(later) == pytest.approx(2, rel=0.1)


@pytest.mark.parametrize("text", ["", "32", "80:32/64", "80%:0/64", "80%:32/64;20%:1/1", "0%:32/64"])
def test_a_mix_that_means_nothing_is_refused(text):
    with pytest.raises(InputError):
        parse_lengths(text)


def replay(tmp_path, text, **options):
    path = tmp_path / "log.jsonl"
    path.write_text(text, encoding="utf-8")
    return read_replay(path, **options)


def test_a_replay_keeps_the_distances_of_its_times_whatever_the_order_and_the_zone(tmp_path):
    text = (
        '{"time": "2026-11-29T12:00:02+01:00", "messages": [{"role": "user", "content": "b"}], "model": "bot"}\n\n'
        '{"time": "2026-11-29T11:00:01Z", "prompt": "a\u2028", "max_tokens": 9, "status": 200}\n'
    )
    first, second = replay(tmp_path, text, speed=2)
    assert (first.at_s, second.at_s) == (0, 0.5)
    assert first.turns[0].messages == ({"role": "user", "content": "a\u2028"},)
    assert (first.turns[0].max_tokens, second.turns[0].max_tokens, second.model) == (9, None, "bot")


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("", "has no requests"),
        ("[1]", "line 1, is no object"),
        ("{oops", "line 1, is no JSON"),
        ('{"prompt": "a"}', "line 1, has no usable time: None"),
        ('{"prompt": "a", "time": "yesterday"}', "no usable time: 'yesterday'"),
        ('{"prompt": "a", "time": NaN}', "no usable time"),
        ('{"time": 1}', "has no prompt and no messages"),
        ('{"time": 1, "messages": []}', "has no prompt and no messages"),
        ('{"time": 1, "prompt": "a", "max_tokens": 0}', "max_tokens 0"),
        ('{"time": 1, "prompt": "a"}\n{"time": "2026-11-29", "prompt": "b"}', "times in seconds and times of day"),
    ],
)
def test_a_line_that_cant_be_sent_is_named(tmp_path, line, named):
    with pytest.raises(InputError, match=named):
        replay(tmp_path, line)


def test_prompts_are_lines_or_objects(tmp_path):
    plain, objects = tmp_path / "a.txt", tmp_path / "b.jsonl"
    plain.write_text("One?\n\n Two? \n", encoding="utf-8")
    objects.write_text('{"question": "One?"}\n{"prompt": "Two?"}\n', encoding="utf-8")
    assert read_prompts(plain) == read_prompts(objects) == ["One?", "Two?"]
    objects.write_text('{"text": "One?"}\n', encoding="utf-8")
    with pytest.raises(InputError, match="line 1, has no prompt"):
        read_prompts(objects)
