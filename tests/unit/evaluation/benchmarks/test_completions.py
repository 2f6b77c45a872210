"""Log-probabilities from an endpoint's completions: read at the right places, tried again, and never guessed."""

import json
import math
from contextlib import contextmanager

import pytest
from http_server import QuietHandler, http_server

from llamafarm_ray.errors import AccessDeniedError, InfrastructureError, InputError, NotFoundError, UnsupportedError
from llamafarm_ray.evaluation.engines.completions import EndpointEngine
from llamafarm_ray.evaluation.engines.served import Endpoint
from llamafarm_ray.evaluation.engines.tokens import Ends, ScoredText

CONTEXT, RIGHT, WRONG = (5, 6, 7), (1, 2), (1, 3)


def told(tokens, *, extra=1):
    """Log-probabilities of a model that takes token 2 after 1, and gives each token minus its id."""
    values = [None, *(-float(token) for token in tokens[1:]), *[-99.0] * extra]
    tops = [None, *({"top": -2.0 if token == 3 else -float(token)} for token in tokens[1:])]
    return {"token_logprobs": values, "top_logprobs": [*tops, *[{"x": -0.1}] * extra]}


@contextmanager
def server(answer):
    """Answer each request by ``answer(number, body, headers)``: a status and a body."""
    asked = []

    class Handler(QuietHandler):
        def do_POST(self):
            body = json.loads(self.read_body())
            asked.append((self.path, body, dict(self.headers)))
            status, found = answer(len(asked), body)
            self.reply(status, (found if isinstance(found, str) else json.dumps(found)).encode())

    with http_server(Handler) as url:
        yield f"{url}/v1", asked


def engine(url, **options):
    endpoint = Endpoint(url, "bot:1.0.0", **{"max_attempts": 2, "concurrency": 1, **options})
    return EndpointEngine(endpoint, None, 100, first_wait_s=0)


def completion(_, body, **options):
    return 200, {"choices": [{"index": 0, "text": "", "logprobs": told(body["prompt"], **options)}]}


def scores(url, *texts, **options):
    asked = [ScoredText(text, len(CONTEXT)) for text in texts]
    return engine(url, **options).score(asked, with_adapter=True)


@pytest.mark.parametrize("extra", [0, 1])
def test_the_continuation_alone_is_scored_whether_or_not_a_token_follows(extra):
    with server(lambda number, body: completion(number, body, extra=extra)) as (url, asked):
        found = scores(url, (*CONTEXT, *RIGHT), (*CONTEXT, *WRONG))
    assert [(one.total, one.is_greedy) for one in found] == [(-3.0, True), (-4.0, False)]
    path, body, _ = asked[0]
    assert path == "/v1/completions"
    assert (body["prompt"], body["model"], body["echo"]) == ([*CONTEXT, *RIGHT], "bot:1.0.0", True)
    assert body["temperature"] == 0


def test_many_requests_keep_their_order():
    texts = [(*CONTEXT, number) for number in range(1, 30)]
    with server(completion) as (url, _):
        assert [one.total for one in scores(url, *texts, concurrency=4)] == [-float(one[-1]) for one in texts]


@pytest.mark.parametrize("fault", [(503, "busy"), (429, "slow down"), (200, "not json"), (200, {"choices": []})])
def test_a_failure_that_passes_is_tried_again_and_one_that_lasts_is_named(fault):
    with server(lambda number, body: fault if number == 1 else completion(number, body)) as (url, asked):
        assert scores(url, (*CONTEXT, *RIGHT))[0].total == -3
        assert len(asked) == 2
    with server(lambda *_: fault) as (url, _), pytest.raises(InfrastructureError, match="no answer in 2 attempts"):
        scores(url, (*CONTEXT, *RIGHT))


@pytest.mark.parametrize(
    ("status", "error", "message"),
    [
        (401, AccessDeniedError, "does not accept the key"),
        (404, NotFoundError, "no model 'bot:1.0.0'"),
        (400, InputError, "refuses a request"),
    ],
)
def test_a_refusal_is_raised_at_once(status, error, message):
    with server(lambda *_: (status, "no")) as (url, asked), pytest.raises(error, match=message):
        scores(url, (*CONTEXT, *RIGHT))
    assert len(asked) == 1


@pytest.mark.parametrize(
    "logprobs",
    [
        None,
        {"token_logprobs": [-1.0], "top_logprobs": [{"x": -1.0}]},  # of the answer alone: `echo` was not understood
        {"token_logprobs": [None] * 5, "top_logprobs": [None] * 5},
        {"token_logprobs": [math.nan] * 5, "top_logprobs": [{}] * 5},
        {"token_logprobs": [-1.0] * 9, "top_logprobs": [{}] * 9},  # it has other tokens than the model's tokenizer
    ],
)
def test_an_endpoint_that_does_not_tell_of_the_prompt_is_refused_and_never_guessed(logprobs):
    body = {"choices": [{"index": 0, "text": "", "logprobs": logprobs}]}
    with server(lambda *_: (200, body)) as (url, _), pytest.raises(UnsupportedError, match="log-probabilit"):
        scores(url, (*CONTEXT, *RIGHT))


def test_the_key_is_sent_and_answers_are_written(monkeypatch):
    monkeypatch.setenv("MY_KEY", "secret")
    choice = {"text": " Paris", "logprobs": {"token_logprobs": [math.log(0.5), math.log(0.125)]}}
    with server(lambda *_: (200, {"choices": [choice]})) as (url, asked):
        made = engine(url, api_key_env="MY_KEY")
        found = made.write([[1], [2]], Ends(7, ["\n", ""], [3]), with_adapter=True)
    assert [(one.text, one.num_tokens) for one in found] == [(" Paris", 2), (" Paris", 2)]
    assert found[0].confidence == pytest.approx(0.25)
    assert asked[0][2]["Authorization"] == "Bearer secret"
    assert (asked[0][1]["max_tokens"], asked[0][1]["stop"], asked[0][1]["stop_token_ids"]) == (7, ["\n"], [3])


def test_a_server_that_tells_no_log_probabilities_of_an_answer_still_answers():
    with server(lambda *_: (200, {"choices": [{"text": "one two"}]})) as (url, asked):
        endpoint = Endpoint(url, "bot", max_attempts=1, concurrency=1)
        made = EndpointEngine(endpoint, lambda text, **_: {"input_ids": text.split()}, 100, first_wait_s=0)
        (found,) = made.write([[1]], Ends(7), with_adapter=True)
    assert (found.text, found.num_tokens, found.confidence) == ("one two", 2, None)
    assert "stop_token_ids" not in asked[0][1]


def test_another_version_than_the_one_that_is_evaluated_is_refused():
    def answer(name):
        return lambda number, body: (200, {**completion(number, body)[1], "model": name})

    for name in ("bot:1.0.0#1234abcd", "bot:1.0.0", "/models/llama", "bot", ""):
        with server(answer(name)) as (url, _):
            assert scores(url, (*CONTEXT, *RIGHT), version="bot:1.0.0")[0].total == -3
    with server(answer("bot:1.1.0#1234abcd")) as (url, _), pytest.raises(InputError, match=r"answers as bot:1\.1\.0"):
        scores(url, (*CONTEXT, *RIGHT), version="bot:1.0.0")
