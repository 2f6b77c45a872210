"""Answers of a deployment, against real vLLM behind Ray's own HAProxy."""

import json
import os
import subprocess
import sys
from pathlib import Path

import httpx
import openai
import pytest
from adapters import prompt_logprobs
from served_answers import PROMPT, said

from llamafarm_ray.config import parse_config
from llamafarm_ray.errors import NotFoundError
from llamafarm_ray.evaluation.engines.completions import EndpointEngine
from llamafarm_ray.evaluation.engines.served import Endpoint
from llamafarm_ray.evaluation.engines.tokens import ScoredText
from llamafarm_ray.workflows.deployments.chat import ask, stream


def test_the_versions_answer_differently(served, oracle):
    assert len(set(oracle.values())) == 4


@pytest.mark.parametrize("model", ["bot", "bot@production", "bot:1.0.0", "bot:1.1.0"])
def test_each_name_answers_as_plain_peft_does_and_says_who_answered(served, oracle, model):
    response = served.complete(model)
    version = response.headers["x-llamafarm-model"]
    record = served.registry.resolve(version)
    assert version == served.registry.resolve(model).ref
    assert response.headers["x-llamafarm-digest"] == record.registered.manifest
    assert response.json()["model"] == f"{version}#{record.registered.manifest[7:19]}"
    assert said(response) == oracle[version]


def test_the_base_answers_as_plain_transformers_does(served, oracle):
    response = served.complete("tiny")
    assert response.headers["x-llamafarm-model"] == "tiny"
    assert said(response) == oracle["tiny"]


def test_the_openai_client_works_streaming_and_not(served):
    whole = ask(served.url, "bot:1.0.0", "How many legs?", max_tokens=8).text
    pieces = stream(served.url, "bot:1.0.0", [{"role": "user", "content": "How many legs?"}], max_tokens=8)
    assert "".join(pieces).strip() == whole
    client = openai.OpenAI(base_url=served.url, api_key="none")
    assert {"tiny", "bot", "bot@production", "bot:1.1.0"} <= {model.id for model in client.models.list()}
    assert client.models.retrieve("bot").id == "bot"
    with pytest.raises(NotFoundError, match="Did you mean bot"):
        ask(served.url, "bott", "?")


def test_the_responses_id_is_the_gates(served):
    response = served.complete("bot", headers_sent={"x-request-id": "mine"})
    assert response.json()["id"].startswith(f"cmpl-{response.headers['x-llamafarm-request-id']}")
    assert response.headers["x-request-id"] == "mine"
    assert "mine" not in response.text


def test_a_stream_has_no_usage_that_was_not_asked_for(served):
    assert '"usage":{' not in served.complete("bot", stream=True).text.replace(" ", "")
    assert '"usage":{' in served.complete("bot", stream=True, stream_options={"include_usage": True}).text.replace(
        " ", ""
    )


@pytest.mark.parametrize("model", ["tiny", "bot:1.1.0"])
def test_a_prompts_log_probabilities_are_those_of_plain_peft(served, model):
    """What lm-eval scores answers by."""
    tokens, expected = prompt_logprobs(served.base, served.adapters.get(model), PROMPT)
    echoed = served.complete(model, num_tokens=1, echo=True, logprobs=1).json()["choices"][0]["logprobs"]
    assert echoed["token_logprobs"][0] is None
    assert echoed["token_logprobs"][1 : len(tokens)] == pytest.approx(expected, abs=1e-3)
    told = served.complete(model, num_tokens=1, prompt_logprobs=1).json()["choices"][0]["prompt_logprobs"]
    found = [one[str(token)]["logprob"] for one, token in zip(told[1:], tokens[1:], strict=True)]
    assert found == pytest.approx(expected, abs=1e-3)
    asked = EndpointEngine(Endpoint(served.url, model), None, 256)
    (scores,) = asked.score([ScoredText(tuple(tokens), 3)], with_adapter=True)
    assert scores.total == pytest.approx(sum(expected[2:]), abs=5e-3), "benchmarks on the endpoint"


def test_another_terminal_reaches_a_local_deployment(served):
    """Ray asks for this user's token, which nobody says in a terminal."""
    command = [Path(sys.executable).with_name("llamafarm"), "models", "status", "--home", served.registry.home.uri]
    kept = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    done = subprocess.run([*command, "--json"], env=kept, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert "llamafarm" in [one["name"] for one in json.loads(done.stdout)["applications"]]


def test_feedback_on_an_answer_becomes_a_dataset(served, tmp_path):
    from llamafarm_ray.workflows.datasets.create_dataset import create_dataset

    answered = served.complete("bot:1.1.0")
    said = {
        "model": answered.json()["model"],
        "response_id": answered.json()["id"],
        "messages": [{"role": "user", "content": PROMPT}],
        "answer": answered.json()["choices"][0]["text"] or "?",
        "correction": "is Paris.",
    }
    response = httpx.post(f"{served.url}/feedback", json=said, timeout=60)
    assert response.status_code == 201, response.text
    assert response.json()["digest"] == answered.headers["x-llamafarm-digest"]
    output = tmp_path / "said.jsonl"
    dataset = {"source": {"type": "human_feedback"}, "path": str(output), "validation": {"split_ratio": 0.0}}
    create_dataset(parse_config({"dataset": dataset, "fine_tuning": {"objective": "dpo"}}), served.registry)
    assert '"chosen": "is Paris."' in output.read_text(encoding="utf-8")


def test_a_body_that_the_proxy_does_not_hold_whole_is_answered_alike(served, oracle):
    body = json.dumps({"model": "bot:1.0.0", "prompt": PROMPT, "max_tokens": 12, "temperature": 0})
    padded = body[:-1] + " " * 300_000 + "}"
    response = httpx.post(
        f"{served.url}/completions", content=padded, headers={"content-type": "application/json"}, timeout=60
    )
    assert said(response) == oracle["bot:1.0.0"]
    assert response.json()["model"].startswith("bot:1.0.0")
