"""Speed is measured in the engines that serve, with prompts that none of them has seen."""

import asyncio

import pytest
from gguf_files import write_gguf
from tiny_model import make_tiny_model

from llamafarm_ray.errors import DeploymentError
from llamafarm_ray.serving.engines.speed_trial import _measure, prompts
from llamafarm_ray.serving.optimize.speed import SpeedTrial, measure_speed

SHORT = {"num_threads": 1, "prompt_tokens": 16, "new_tokens": 4, "num_rounds": 1}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return make_tiny_model(tmp_path_factory.mktemp("speed") / "base")


def test_prompts_differ_and_leave_room_for_their_answers():
    trial = SpeedTrial("x", "gguf", num_parallel=3, prompt_tokens=100, new_tokens=20, num_rounds=2)
    rounds = prompts(range(400), trial, 64)
    assert [len(one) for one in rounds] == [3, 3, 3]
    every = [tuple(prompt) for given in rounds for prompt in given]
    assert {len(prompt) for prompt in every} == {44}
    assert len({prompt[0] for prompt in every}) == 9


def test_answers_at_the_same_time_are_timed_after_the_round_that_warms_up(base):
    trial = SpeedTrial(str(base), "transformers", num_parallel=2, **{**SHORT, "num_rounds": 2})
    rounds = asyncio.run(_measure(trial))
    assert len(rounds) == 2
    assert all(first > 0 and rate > 0 for first, rate in rounds)


def test_an_engine_is_measured_in_a_process_of_its_own_and_a_broken_file_is_told(base, tmp_path):
    write_gguf(base, tmp_path / "model.gguf")
    found = measure_speed(SpeedTrial(str(tmp_path / "model.gguf"), "gguf", **SHORT))
    assert found.first_token_s > 0
    assert found.tokens_per_s > 0
    (tmp_path / "broken.gguf").write_bytes(b"GGUF")
    with pytest.raises(DeploymentError, match=r"Engine gguf can't serve .*broken\.gguf"):
        measure_speed(SpeedTrial(str(tmp_path / "broken.gguf"), "gguf", **SHORT))
