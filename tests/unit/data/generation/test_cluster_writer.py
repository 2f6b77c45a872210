"""A model in vLLM on the cluster: prompts, limits of answers, what is stored."""

import itertools
import json

import pytest
from tiny_model import LLAMA2, make_tiny_tokenizer

from llamafarm_ray.config import QaGeneration
from llamafarm_ray.data.generation import Choice
from llamafarm_ray.data.generation.cluster import VllmPlan
from llamafarm_ray.data.generation.cluster.prompts import prompt_ids
from llamafarm_ray.data.generation.cluster.schemas import limited_schema, whole_items
from llamafarm_ray.data.generation.cluster.stage import write_in_cluster
from llamafarm_ray.data.generation.endpoint.cache import Answer
from llamafarm_ray.data.generation.endpoint.client import RefusedError
from llamafarm_ray.data.generation.endpoint.examples import requests_of
from llamafarm_ray.data.parsed import Passage
from llamafarm_ray.errors import InputError
from llamafarm_ray.models.tokenizer import load_tokenizer
from llamafarm_ray.types import Digest

MESSAGES = [{"role": "system", "content": "Write pairs."}, {"role": "user", "content": "Water boils."}]


def passage(number):
    text = f"The house {number} opens at {number}:30."
    return Passage(f"{number}.md", Digest.of(b""), f"House {number}", (), text, 0, 1, language="en")


@pytest.fixture
def plan(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    make_tiny_tokenizer().save_pretrained(str(folder))
    (folder / "config.json").write_text("{}")
    qa = QaGeneration.model_validate({"model": "vllm", "phrasings": 1, "vllm": {"model": str(folder)}})
    choice = Choice("vllm", str(folder), "")
    return VllmPlan.of(choice, qa, num_cpus=1.0, num_gpus=0.0, cache=str(tmp_path / "cache"))


class Engine:
    """Answers prompts with a pair about their house, the last prompt first."""

    def __init__(self, plan, faults=None):
        self.tokenizer = load_tokenizer(plan.folder)
        self.faults = faults or {}
        self.asked = []

    def __call__(self, _plan, requests):
        for index, request in reversed([*enumerate(requests)]):
            number = self.tokenizer.decode(request.tokens).rpartition("The house ")[2].partition(" ")[0]
            self.asked.append(number)
            pair = {"questions": [f"When does house {number} open?"], "answer": f"House {number} opens at {number}:30."}
            fault = self.faults.get(number)
            yield index, fault or Answer(json.dumps({"pairs": [pair]}), "stop", 10, 10)


def write(plan, batches, engine):
    return list(write_in_cluster(plan, batches, lambda _: None, engine=engine))


def questions(written):
    return [[example.question for one in batch for example in one.examples] for batch in written]


def test_pairs_come_in_the_order_of_passages_whenever_they_are_answered(plan):
    written = write(plan, [[passage(1), passage(2)], [passage(3)]], Engine(plan))
    assert questions(written) == [["When does house 1 open?", "When does house 2 open?"], ["When does house 3 open?"]]
    (example,) = written[1][0].examples
    assert (example.provenance.generator, example.provenance.model) == ("vllm", "model")


def test_a_killed_build_asks_again_for_nothing_that_was_answered(plan):
    batches = [[passage(number)] for number in range(1, 6)]
    killed = Engine(plan)

    def dies(plan, requests):
        yield from itertools.islice(killed(plan, requests), 3)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write(plan, batches, dies)
    resumed = Engine(plan)
    written = write(plan, batches, resumed)
    assert sorted(killed.asked + resumed.asked) == ["1", "2", "3", "4", "5"]
    assert questions(written) == questions(write(plan, batches, None))  # no engine starts: all of it is stored


def test_an_answer_of_another_form_is_counted_and_not_stored(plan):
    faults = {"1": Answer("The house", "length", 9, 9), "2": RefusedError("too long")}
    written = write(plan, [[passage(1), passage(2), passage(3)]], Engine(plan, faults))
    assert [dict(one.dropped) for one in written[0]] == [
        {"answer is not the JSON that was asked for": 1},
        {"request refused by the model": 1},
        {},
    ]
    again = Engine(plan)
    write(plan, [[passage(1), passage(2), passage(3)]], again)
    assert sorted(again.asked) == ["1", "2"]


def test_control_characters_that_a_grammar_lets_through_are_spaces(plan):
    answer = '{"pairs":[{"questions":["When does\x04house 1\nopen?"],"answer":"The house 1 opens at 1:30."}]}'
    written = write(plan, [[passage(1)]], Engine(plan, {"1": Answer(answer, "stop", 9, 9)}))
    assert questions(written) == [["When does house 1 open?"]]


def test_an_engine_that_refuses_everything_stops_the_build_with_its_reason(plan):
    with pytest.raises(InputError, match=r"refuses all requests.*too long"):
        write(plan, [[passage(1), passage(2)]], Engine(plan, dict.fromkeys("12", RefusedError("too long"))))


def test_a_refusal_beside_stored_answers_stops_no_build(plan):
    batches, refused = [[passage(1), passage(2)]], {"2": RefusedError("too long")}
    written = write(plan, batches, Engine(plan, refused))
    again = Engine(plan, refused)
    assert questions(write(plan, batches, again)) == questions(written) == [["When does house 1 open?"]]
    assert again.asked == ["2"]


def test_every_list_and_text_of_an_answer_has_a_limit(plan):
    (asked,) = requests_of(passage(1), plan.asking)
    pairs = limited_schema(asked.body, 3)["properties"]["pairs"]
    assert pairs["maxItems"] == 3
    fields = pairs["items"]["properties"]
    assert fields["answer"]["maxLength"] == fields["questions"]["items"]["maxLength"]
    assert fields["questions"]["maxItems"] < 10
    assert "maxItems" not in json.dumps(asked.body)


@pytest.mark.parametrize(
    ("cut", "whole"),
    [
        ('{"pairs":[{"answer":"A"},{"answer":"B', '{"pairs": [{"answer": "A"}]}'),
        ('{ "pairs": [ {"answer":"A"} , {"answer":"B"} ,', '{"pairs": [{"answer": "A"}, {"answer": "B"}]}'),
        ('{"pairs":[{"answer":"A', '{"pairs":[{"answer":"A'),
        ('{"pairs":[{"answer":"A\x04\nB"},{"answer":"C', '{"pairs": [{"answer": "A  B"}]}'),
        ("The house", "The house"),
    ],
)
def test_a_cut_answer_keeps_the_elements_that_are_whole(cut, whole):
    assert whole_items(cut) == whole


def test_a_prompt_is_written_by_any_template_and_by_none(plan):
    chat = make_tiny_tokenizer()
    assert chat.decode(prompt_ids(chat, MESSAGES)).startswith("<|im_start|>system\nWrite pairs.<|im_end|>")
    alternating = make_tiny_tokenizer(LLAMA2)
    ids = prompt_ids(alternating, MESSAGES)
    assert alternating.decode(ids) == "<s>[INST] Write pairs.\n\nWater boils. [/INST]"
    assert ids.count(alternating.bos_token_id) == 1
    plain = make_tiny_tokenizer(None)
    assert plain.decode(prompt_ids(plain, MESSAGES)) == "Write pairs.\n\nWater boils.\n\nJSON:\n"


def test_other_weights_or_options_are_another_model(plan):
    def digest(**changes):
        qa = QaGeneration.model_validate({"model": "vllm", "vllm": {"model": str(plan.folder), **changes}})
        return VllmPlan.of(Choice("vllm", str(plan.folder), ""), qa, num_cpus=1.0, num_gpus=0.0, cache="x").digest

    assert digest() == digest(replicas=3)
    first = digest()
    assert first != digest(engine_kwargs={"dtype": "float32"})
    (plan.folder / "model.safetensors").write_bytes(b"other")
    assert digest() != first
