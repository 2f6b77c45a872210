"""GGUF files through llama.cpp: whole models, and low-rank updates of them, each in a process of its own.

llama.cpp's stream leaves out tokens that end within a letter, so tokens are asked for one by one: what it computed of an
answer so far stays in the answer's slot, and answers that are written at the same time share its batches.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llamafarm_ray.errors import InputError, LlamaFarmError, NotFoundError, UserError
from llamafarm_ray.models.folder import gguf_file
from llamafarm_ray.serving.engines.base import FinishReason, Output, SamplingParams, ScoredToken
from llamafarm_ray.serving.engines.gguf_tokenizer import GgufTokenizer
from llamafarm_ray.serving.engines.in_process import check_length
from llamafarm_ray.serving.engines.llama_server import Connection, LlamaServer, LlamaSettings
from llamafarm_ray.storage.gguf import GgufHeader, read_gguf

__all__ = ["GgufEngine"]

_RANKING = 4
"""llama.cpp's number for models that compare two texts."""
_FORCED = 1e6
"""What is added to a logit so that its token is taken; log-probabilities are told without it."""
_ANY_SEED = 2**32 - 1
"""llama.cpp's word for a seed of its own choice."""
_WIDTHS = (64, 4096, 2**31 - 1)


class GgufEngine:
    """An :class:`~llamafarm_ray.serving.engines.base.Engine` of GGUF files.

    Args:
        base_name: what requests call the base model by.
        path: its file, or the folder that holds it.
        max_model_len: the longest prompt with its answer, in tokens; by default what the model was made for.
        n_parallel: how many answers are written at the same time; each has memory for ``max_model_len`` tokens.
        n_threads: CPU threads; by default llama.cpp's choice.

    Raises:
        InputError: the file is no model, or llama.cpp can't load it.
        UnsupportedError: its tokenizer is of a kind that is not known here.
    """

    def __init__(
        self,
        base_name: str,
        path: Path,
        *,
        max_model_len: int | None = None,
        n_parallel: int = 4,
        n_threads: int | None = None,
    ) -> None:
        self._base_name = base_name
        self._file = gguf_file(path)
        self._header = read_gguf(self._file)
        self._max_model_len, self._n_parallel, self._n_threads = max_model_len, n_parallel, n_threads
        if self._header.is_adapter:
            raise InputError(f"{str(self._file)!r} is an adapter.", hint="Name the model it belongs to as base_model.")
        base = self._open(self._header, self._file, None)
        self._models = {base_name: base}

        def encode(text: str, add_special: bool) -> list[int]:
            asked = {"content": text, "add_special": add_special, "parse_special": True}
            return list(base.server.ask("/tokenize", asked)["tokens"])

        self.tokenizer = GgufTokenizer(self._header.facts, str(self._file), encode)

    @property
    def writes(self) -> bool:
        """See ``Engine.writes``."""
        return not self._header.gives_vectors

    @property
    def loaded(self) -> list[str]:
        """The names that answer, sorted."""
        return sorted(self._models)

    async def load_adapter(self, name: str, folder: Path) -> None:
        """See ``Engine.load_adapter``; a version is a low-rank update, or a whole model with the base's tokens.

        Raises:
            InputError: the file is nothing of the sort, or llama.cpp can't load it.
        """
        self._models[name] = await asyncio.to_thread(self._version, gguf_file(folder))

    async def unload_adapter(self, name: str) -> None:
        """See ``Engine.unload_adapter``.

        Raises:
            InputError: it is the base model.
        """
        if name == self._base_name:
            raise InputError(f"{name!r} is the base model.", hint="Stop the deployment to free it.")
        self._models.pop(name, None)  # answers under way hold it

    def max_model_len(self, name: str) -> int | None:
        """See ``Engine.max_model_len``."""
        return self._model(name).max_model_len

    async def generate(self, name: str, prompt: Sequence[int], params: SamplingParams) -> AsyncGenerator[Output, None]:
        """See ``Engine.generate``.

        Raises:
            NotFoundError: nothing of that name is loaded.
            InputError: the prompt is empty, or too long with its answer, or the model writes no text.
        """
        model = self._model(name)
        check_length(len(prompt), params.max_tokens, model.max_model_len)
        if not self.writes:
            raise InputError("This model writes no text.", hint="Ask /v1/embeddings.")
        async with model.slot(prompt) as slot, model.server.connection() as connection:
            answer = _Answer(connection, slot, params, self._end_of_text)
            told = await answer.prompt(prompt)
            if params.max_tokens == 0:
                yield Output(finish_reason="length", prompt=told)
            for index in range(params.max_tokens):
                token, reason = await answer.step(index)
                yield Output(token, reason, told if index == 0 else ())
                if reason is not None:
                    return

    async def embed(self, name: str, tokens: Sequence[int]) -> Sequence[float]:
        """See ``Engine.embed``.

        Raises:
            NotFoundError: nothing of that name is loaded.
            InputError: there are no tokens, or too many, or the model gives no vectors.
        """
        model = self._model(name)
        check_length(len(tokens), 0, model.max_model_len)
        if self.writes:
            raise InputError("This model gives no vectors; it writes text.", hint="Ask /v1/chat/completions.")
        async with model.server.connection() as connection:
            found = await connection.ask("/v1/embeddings", {"input": list(tokens)})
        vector: list[float] = found["data"][0]["embedding"]
        return vector

    @property
    def _end_of_text(self) -> int:
        return int(self._header.facts.get("tokenizer.ggml.eos_token_id", 0))

    def _model(self, name: str) -> _Model:
        if name not in self._models:
            raise NotFoundError(f"The model {name!r} is not loaded.")
        return self._models[name]

    def _version(self, file: Path) -> _Model:
        if file == self._file:  # the base itself, under its version's name
            return self._models[self._base_name]
        header = read_gguf(file)
        if header.architecture != self._header.architecture:
            raise InputError(
                f"{file.name} is for models of type {header.architecture}, and the base model is of type "
                f"{self._header.architecture}."
            )
        if header.is_adapter:
            return self._open(self._header, self._file, file)
        if _vocabulary(header) != _vocabulary(self._header):
            raise InputError(f"{file.name} has other tokens than the base model.", hint="Deploy it as base_model.")
        if header.gives_vectors == self.writes:
            raise InputError(f"Of {file.name} and the base model, one writes text and one gives vectors.")
        return self._open(header, file, None)

    def _open(self, header: GgufHeader, model: Path, lora: Path | None) -> _Model:
        if header.of_architecture("pooling_type") == _RANKING:
            raise InputError(f"{model.name} ranks texts, which engine gguf does not serve.")
        made_for = header.of_architecture("context_length")
        bounds = [bound for bound in (self._max_model_len, made_for) if isinstance(bound, int) and bound > 0]
        if not bounds:
            raise InputError(f"{model.name} does not say how long its texts may be.", hint="Set max_model_len.")
        settings = LlamaSettings(
            model=str(model),
            lora=str(lora) if lora is not None else None,
            max_model_len=min(bounds),
            n_parallel=self._n_parallel,
            n_threads=self._n_threads,
            embedding=header.gives_vectors,
        )
        return _Model(LlamaServer(settings), min(bounds), self._n_parallel)


@dataclass(eq=False, slots=True)
class _Slot:
    """Where llama.cpp keeps what it computed of one answer.

    Attributes:
        number: which.
        tokens: of what was computed in it last, and what an answer has so far.
    """

    number: int
    tokens: list[int] = field(default_factory=list)


class _Model:
    """A loaded file."""

    def __init__(self, server: LlamaServer, max_model_len: int, n_parallel: int) -> None:
        self.server = server
        self.max_model_len = max_model_len
        self._turns = asyncio.Semaphore(n_parallel)
        self._free = [_Slot(number) for number in range(n_parallel)]

    @asynccontextmanager
    async def slot(self, prompt: Sequence[int]) -> AsyncGenerator[_Slot, None]:
        """A slot of one's own, when there is one: that which has the most of the prompt."""
        async with self._turns:
            chosen = max(self._free, key=lambda slot: len(os.path.commonprefix([slot.tokens, list(prompt)])))
            self._free.remove(chosen)
            try:
                yield chosen
            finally:
                self._free.append(chosen)


class _Answer:
    """One answer, a token at a time.

    Args:
        connection: to the server.
        slot: the answer's.
        params: how tokens are drawn.
        end_of_text: a token without letters.
    """

    def __init__(self, connection: Connection, slot: _Slot, params: SamplingParams, end_of_text: int) -> None:
        self._connection = connection
        self._slot = slot
        self._params = params
        self._end_of_text = end_of_text

    async def prompt(self, tokens: Sequence[int]) -> tuple[ScoredToken, ...]:
        """Take the prompt; its tokens with their log-probabilities, where they were asked for."""
        self._slot.tokens = list(tokens)
        if self._params.prompt_logprobs is None:
            return ()
        scored = [ScoredToken(tokens[0])]
        for end in range(1, len(tokens)):
            scored.append(await self._score(tokens[:end], tokens[end], self._params.prompt_logprobs))
        return tuple(scored)

    async def step(self, index: int) -> tuple[ScoredToken, FinishReason | None]:
        """The next token, and why it is the last one."""
        params, before = self._params, self._slot.tokens
        drawn = await self._ask(
            before,
            temperature=params.temperature,
            top_k=params.top_k,
            top_p=params.top_p,
            seed=_ANY_SEED if params.seed is None else _seed_of(params.seed, index),
            n_probs=0 if params.logprobs is None else max(1, params.logprobs),
        )
        token_id: int = drawn["tokens"][0]
        token = ScoredToken(token_id)
        if params.logprobs is not None:
            scored = _told(drawn, token_id, params.logprobs)
            token = scored or await self._search(before, token_id, params.logprobs)
        before.append(token_id)
        ends = drawn["stop_type"] == "eos" and not params.ignore_eos
        if ends or token_id in params.stop_token_ids:
            return token, "stop"
        return token, "length" if index + 1 == params.max_tokens else None

    async def _score(self, before: Sequence[int], token_id: int, num_top: int) -> ScoredToken:
        """A token that is given: llama.cpp is made to choose it, and tells how probable it was."""
        forced = await self._ask(before, n_probs=max(1, num_top), logit_bias=[[token_id, _FORCED]])
        return _told(forced, token_id, num_top) or await self._search(before, token_id, num_top)

    async def _search(self, before: Sequence[int], token_id: int, num_top: int) -> ScoredToken:
        """A token that ends within a letter, of which llama.cpp tells only among the most probable ones."""
        for width in _WIDTHS:
            forced = await self._ask(before, n_probs=width, logit_bias=[[self._end_of_text, _FORCED]])
            found = _told(forced, self._end_of_text, width)
            logprob = dict(found.top).get(token_id) if found is not None else None
            if found is not None and logprob is not None:
                return ScoredToken(token_id, logprob, found.top[:num_top])
        raise UserError(f"llama.cpp does not tell how probable the token {token_id} is.", hint="Leave out logprobs.")

    async def _ask(self, before: Sequence[int], **options: Any) -> dict[str, Any]:
        asked = {
            "prompt": list(before),
            "n_predict": 1,
            "return_tokens": True,
            "id_slot": self._slot.number,
            "cache_prompt": True,
            "samplers": ["temperature", "top_k", "top_p"],  # in vLLM's order
            "temperature": 0.0,
            **options,
        }
        answer: dict[str, Any] = await self._connection.ask("/completion", asked)
        if not answer.get("tokens"):
            raise LlamaFarmError("llama.cpp gave no token.")
        return answer


def _told(answer: dict[str, Any], token_id: int, num_top: int) -> ScoredToken | None:
    """The log-probabilities in an answer of llama.cpp's, where it tells them."""
    for place in answer.get("completion_probabilities") or ():
        if place["id"] == token_id:
            top = tuple((other["id"], other["logprob"]) for other in place["top_logprobs"][:num_top])
            return ScoredToken(token_id, place["logprob"], top)
    return None


def _seed_of(seed: int, index: int) -> int:
    """A seed for each token, since each is drawn anew."""
    return int.from_bytes(hashlib.sha256(f"{seed} {index}".encode()).digest()[:8], "little") % _ANY_SEED


def _vocabulary(header: GgufHeader) -> tuple[Any, ...]:
    return tuple(header.facts.get(f"tokenizer.ggml.{name}") for name in ("model", "pre", "tokens", "merges"))
