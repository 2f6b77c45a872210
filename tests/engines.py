"""Engines of models that need no weights, for tests of what is around them."""

import json
import time
from pathlib import Path

from fake_gateway import BOT, Server

from llamafarm_ray.serving.engines.app import ROUTES, EngineApp
from llamafarm_ray.serving.engines.base import Output, ScoredToken
from llamafarm_ray.serving.engines.custom import CustomModel
from llamafarm_ray.serving.engines.in_process import InProcessEngine, LanguageModel

WORDS = "The capital of France is Paris."


class Parrot(LanguageModel):
    """Says the prompt again and again; counts its steps, and how often it was ended early."""

    max_model_len = 256

    def __init__(self, pace_s=0.0):
        self._pace_s = pace_s
        self.num_steps = self.num_closed = 0
        self.asked = []

    def generate(self, prompt, params):
        self.asked.append(params)
        try:
            if params.max_tokens == 0:
                yield Output(finish_reason="length")
            for index in range(params.max_tokens):
                self.num_steps += 1
                time.sleep(self._pace_s)
                reason = "length" if index + 1 == params.max_tokens else None
                yield Output(ScoredToken(prompt[index % len(prompt)], -0.5, ((1, -0.25), (2, float("-inf")))), reason)
        except GeneratorExit:
            self.num_closed += 1
            raise


class Lengths(LanguageModel):
    """Gives a text's length as its vector."""

    writes = False

    def embed(self, tokens):
        return [float(len(tokens)), 0.5]


class Failing(LanguageModel):
    """Breaks after its first token, in a way that nobody foresaw."""

    def generate(self, prompt, params):  # noqa: ARG002
        yield Output(ScoredToken(prompt[0]))
        raise ZeroDivisionError(f"secret {prompt}")


class Constant(CustomModel):
    """What a user might write: answers with the token that its file names."""

    def __init__(self, token):
        self._token = token

    @classmethod
    def load(cls, base: Path, version: Path | None):
        return cls(json.loads(((version or base) / "token.json").read_text())["token"])

    def generate(self, prompt, params):  # noqa: ARG002
        for index in range(params.max_tokens):
            yield Output(ScoredToken(self._token), "length" if index + 1 == params.max_tokens else None)


class Slow(CustomModel):
    """Takes half a second for each token."""

    @classmethod
    def load(cls, base: Path, version: Path | None):  # noqa: ARG003
        return cls()

    def generate(self, prompt, params):
        for index in range(params.max_tokens):
            time.sleep(0.5)
            yield Output(ScoredToken(prompt[0]), "length" if index + 1 == params.max_tokens else None)


def engine_of(model, tokenizer):
    """An engine in which the base ``tiny`` and the adapter ``bot`` are this model."""
    engine = InProcessEngine("tiny", tokenizer, lambda _: model)
    engine._models[BOT] = model
    return engine


def server_of(model, tokenizer, **options):
    """A gate over that engine's app."""
    app = EngineApp(engine_of(model, tokenizer))
    return Server(engine=app, routes=ROUTES, token_bound=app.token_bound, **options)
