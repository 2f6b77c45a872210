"""GGUF files through llama.cpp: whole models, and low-rank updates of them, each in a process of its own.

llama.cpp's stream leaves out tokens that end within a letter, so tokens are asked for one by one: what it computed of
an answer so far stays in the answer's slot, and answers that are written at the same time share its batches.
"""

from __future__ import annotations

import asyncio
import importlib.util
import os
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

from llamafarm_ray.config.sections.deployment import DEFAULT_N_PARALLEL
from llamafarm_ray.errors import InputError, UnsupportedError
from llamafarm_ray.models.folder import gguf_file
from llamafarm_ray.serving.engines.base import Output, SamplingParams
from llamafarm_ray.serving.engines.gguf.answer import LlamaAnswer, Slot
from llamafarm_ray.serving.engines.gguf.server import LlamaServer, LlamaSettings
from llamafarm_ray.serving.engines.gguf.tokenizer import GgufTokenizer
from llamafarm_ray.serving.engines.in_process import check_length
from llamafarm_ray.serving.engines.named_models import NamedModels, NamedModelsEngine
from llamafarm_ray.storage.formats.gguf import GgufHeader, read_gguf

__all__ = ["GgufEngine"]

_RANKING = 4
"""llama.cpp's number for models that compare two texts."""


CACHE_TYPES: Final = {"f16": 2.0, "bf16": 2.0, "q8_0": 34 / 32}
"""Types of keys and values, and their bytes a number."""


class GgufEngine(NamedModelsEngine["_Model"]):
    """An :class:`~llamafarm_ray.serving.engines.base.Engine` of GGUF files.

    Args:
        path: its file, or the folder that holds it.
        max_model_len: the longest prompt with its answer, in tokens; by default what the model was made for.
        n_parallel: answers written at the same time; each has memory for ``max_model_len`` tokens.
        n_threads: CPU threads; by default llama.cpp's choice.
        n_batch: prompt tokens that are given to llama.cpp at once; by default its own number.
        n_ubatch: prompt tokens that it computes at once, likewise.
        flash_attention: whether it computes attention in blocks; by default its choice.
        cache_type: type of keys and values: ``f16``, ``bf16``, or ``q8_0``, which needs flash attention.

    Raises:
        InputError: the file is no model, or llama.cpp can't load it.
        UnsupportedError: its tokenizer is of a kind that is not known here, or llama.cpp is not installed.
    """

    def __init__(
        self,
        base_name: str,
        path: Path,
        *,
        max_model_len: int | None = None,
        n_parallel: int = DEFAULT_N_PARALLEL,
        n_threads: int | None = None,
        n_batch: int | None = None,
        n_ubatch: int | None = None,
        flash_attention: bool | None = None,
        cache_type: str = "f16",
    ) -> None:
        if importlib.util.find_spec("xllamacpp") is None:
            raise UnsupportedError(
                "Engine gguf needs llama.cpp, which is not installed.", hint="pip install 'llamafarm_ray[gguf]'"
            )
        numbers = {"n_parallel": n_parallel, "n_threads": n_threads, "n_batch": n_batch, "n_ubatch": n_ubatch}
        _check_options(numbers, flash_attention, cache_type)
        self._own: dict[str, Any] = {"n_batch": n_batch, "n_ubatch": n_ubatch, "flash_attention": flash_attention}
        self._cache_type = cache_type
        self._file = gguf_file(path)
        self._header = read_gguf(self._file)
        self._max_model_len, self._n_parallel, self._n_threads = max_model_len, n_parallel, n_threads
        if self._header.is_adapter:
            raise InputError(f"{str(self._file)!r} is an adapter.", hint="Name the model it belongs to as base_model.")
        base = self._open(self._header, self._file, None)
        super().__init__(NamedModels(base_name, base))

        def encode(text: str, add_special: bool) -> list[int]:
            asked = {"content": text, "add_special": add_special, "parse_special": True}
            return list(base.server.ask("/tokenize", asked)["tokens"])

        self.tokenizer = GgufTokenizer(self._header.facts, str(self._file), encode)

    @property
    def writes(self) -> bool:
        """See ``Engine.writes``."""
        return not self._header.gives_vectors

    async def load_adapter(self, name: str, folder: Path) -> None:
        """See ``Engine.load_adapter``; a version is a low-rank update, or a whole model with the base's tokens.

        Raises:
            InputError: the file is nothing of the sort, or llama.cpp can't load it.
        """
        self._models[name] = await asyncio.to_thread(self._version, gguf_file(folder))

    def check_health(self) -> None:
        """See ``Engine.check_health``: a server that died is started anew by the next request."""

    def check_adapter(self, name: str) -> None:
        """See ``Engine.check_adapter``: llama.cpp returns no logits, so none is taken out."""

    async def generate(self, name: str, prompt: Sequence[int], params: SamplingParams) -> AsyncGenerator[Output, None]:
        """See ``Engine.generate``.

        Raises:
            NotFoundError: nothing of that name is loaded.
            InputError: the prompt is empty, or too long with its answer, or the model writes no text.
        """
        model = self._models.find(name)
        check_length(len(prompt), params.max_tokens, model.max_model_len)
        if not self.writes:
            raise InputError("This model writes no text.", hint="Ask /v1/embeddings.")
        async with model.slot(prompt) as slot, model.server.connection() as connection:
            answer = LlamaAnswer(connection, slot, params, self._end_of_text)
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
        model = self._models.find(name)
        check_length(len(tokens), 0, model.max_model_len)
        if self.writes:
            raise InputError("This model gives no vectors; it writes text.", hint="Ask /v1/chat/completions.")
        async with model.server.connection() as connection:
            found = await connection.ask("/v1/embeddings", {"input": list(tokens)})
        vector: list[float] = found["data"][0]["embedding"]
        return vector

    @property
    def _end_of_text(self) -> int:
        return self.tokenizer.eos_token_id or 0

    def _version(self, file: Path) -> _Model:
        if file == self._file:  # the base itself, under its version's name
            return self._models.base
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
        _check_memory(header, min(bounds) * self._n_parallel, CACHE_TYPES[self._cache_type])
        settings = LlamaSettings(
            model=str(model),
            lora=str(lora) if lora is not None else None,
            max_model_len=min(bounds),
            n_parallel=self._n_parallel,
            n_threads=self._n_threads,
            embedding=header.gives_vectors,
            cache_type=self._cache_type,
            **self._own,
        )
        return _Model(LlamaServer(settings), min(bounds), self._n_parallel)


class _Model:
    """A loaded file."""

    def __init__(self, server: LlamaServer, max_model_len: int, n_parallel: int) -> None:
        self.server = server
        self.max_model_len = max_model_len
        self._turns = asyncio.Semaphore(n_parallel)
        self._free = [Slot(number) for number in range(n_parallel)]

    @asynccontextmanager
    async def slot(self, prompt: Sequence[int]) -> AsyncGenerator[Slot, None]:
        """A slot of one's own, when there is one: that which has the most of the prompt."""
        async with self._turns:
            chosen = max(self._free, key=lambda slot: slot.num_shared(prompt))
            self._free.remove(chosen)
            try:
                yield chosen
            finally:
                self._free.append(chosen)


def _check_options(numbers: Mapping[str, object], flash_attention: object, cache_type: object) -> None:
    """Check the options of a configuration.

    Raises:
        InputError: one is of another type, or out of range.
    """
    for name, value in numbers.items():
        if value is not None and (not isinstance(value, int) or value < 1):
            raise InputError(f"deployment.engine_kwargs.{name} is {value!r}.", hint="Say 1 or more.")
    if flash_attention is not None and not isinstance(flash_attention, bool):
        raise InputError(
            f"deployment.engine_kwargs.flash_attention is {flash_attention!r}.",
            hint="Say true or false, or leave it out.",
        )
    if cache_type not in CACHE_TYPES:
        raise InputError(
            f"deployment.engine_kwargs.cache_type is {cache_type!r}.", hint=f"Say one of {', '.join(CACHE_TYPES)}."
        )
    if flash_attention is False and cache_type == "q8_0":
        raise InputError(
            "deployment.engine_kwargs.cache_type is 'q8_0', and flash_attention is false.",
            hint="llama.cpp keeps values in 8 bits with flash attention only: leave flash_attention out.",
        )


def _check_memory(header: GgufHeader, num_tokens: int, value_bytes: float) -> None:
    """Refuse to keep so many tokens that there can't be room for their keys and values.

    Raises:
        InputError: this machine has less memory.
    """
    heads, layers, width = (
        _number(header, name) for name in ("attention.head_count", "block_count", "embedding_length")
    )
    if not heads or not layers or not width:
        raise InputError("The file does not say how many layers and heads it has.", hint="Convert the model again.")
    per_layer = _number(header, "attention.head_count_kv") or heads
    per_head = _number(header, "attention.key_length") or width // heads
    needed = 2 * value_bytes * num_tokens * layers * per_layer * per_head
    there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > there:
        raise InputError(
            f"Keys and values of {num_tokens} tokens take {needed / 2**30:.1f} GiB; this machine has "
            f"{there / 2**30:.1f}.",
            hint="Set a smaller deployment.max_model_len, or engine_kwargs.n_parallel.",
        )


def _number(header: GgufHeader, name: str) -> int:
    """A number of the architecture, the greatest where each layer has its own; 0 where there is none."""
    said = header.of_architecture(name)
    return max((one for one in (said if isinstance(said, list) else [said]) if isinstance(one, int)), default=0)


def _vocabulary(header: GgufHeader) -> tuple[object, ...]:
    return tuple(header.facts.get(f"tokenizer.ggml.{name}") for name in ("model", "pre", "tokens", "merges"))
