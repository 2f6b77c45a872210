"""The engine for everything that answers in this process: transformers with peft, and classes that users write."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from pathlib import Path

from llamafarm_ray.errors import DeploymentError, InputError, LlamaFarmError, UserError
from llamafarm_ray.serving.adapters.protocols import NotNumbersError, TakenOut
from llamafarm_ray.serving.engines.base import Output, SamplingParams
from llamafarm_ray.serving.engines.named_models import NamedModels, NamedModelsEngine
from llamafarm_ray.serving.engines.worker import Worker
from llamafarm_ray.serving.http.errors import ContextLengthError

__all__ = ["InProcessEngine", "LanguageModel", "check_least", "check_length"]


class LanguageModel:
    """One version of a model, in memory."""

    writes: bool = True
    """True if :meth:`generate` works; otherwise :meth:`embed` must."""
    max_model_len: int | None = None
    """The most tokens that a prompt and its answer may have together; ``None``: there is no bound."""
    num_tokens: int | None = None
    """The tokens that the model has embeddings for; ``None``: all tokens of its tokenizer."""

    def generate(self, prompt: Sequence[int], params: SamplingParams) -> Iterator[Output]:
        """Write an answer, a step a token; the last step has a ``finish_reason``.

        Closed early when the client goes away.

        Args:
            prompt: token ids, one at least; with ``params.max_tokens`` no more than ``max_model_len``.
            params: sampling parameters; refuse those that can't be followed.

        Raises:
            UserError: it can't be answered as asked.
        """
        del prompt, params
        raise InputError("This model writes no text.", hint="Ask /v1/embeddings.")

    def embed(self, tokens: Sequence[int]) -> Sequence[float]:
        """The vector of a text of these token ids.

        Raises:
            UserError: this model has none.
        """
        del tokens
        raise InputError("This model gives no vectors; it writes text.", hint="Ask /v1/chat/completions.")


class InProcessEngine(NamedModelsEngine[LanguageModel]):
    """An :class:`~llamafarm_ray.serving.engines.base.Engine` of models in this process.

    Args:
        load: loads the version in a folder, or with ``None`` the base model, which is loaded at once.
    """

    def __init__(self, base_name: str, tokenizer: object, load: Callable[[Path | None], LanguageModel]) -> None:
        self._load = load
        super().__init__(NamedModels(base_name, load(None)))
        self._worker = Worker("engine")
        self._taken_out = TakenOut()
        self.tokenizer = tokenizer

    @property
    def writes(self) -> bool:
        """See ``Engine.writes``."""
        return self._models.base.writes

    def check_health(self) -> None:
        """Do nothing while answers can be computed.

        Raises:
            DeploymentError: they can't, and never will again in this process.
        """
        if self._worker.is_dead:
            raise DeploymentError("The engine's thread has ended.", hint="The replica's log says why.")

    async def load_adapter(self, name: str, folder: Path) -> None:
        """See ``Engine.load_adapter``.

        Raises:
            UserError: the version does not fit the base model, or this engine.
            NotNumbersError: it was taken out before.
        """
        self.check_adapter(name)
        try:
            self._models[name] = await asyncio.to_thread(self._load, folder)
        except LlamaFarmError:
            raise
        except Exception as error:  # a user's class may raise anything
            raise UserError(f"The engine can't load {name}: {type(error).__name__}: {error}") from error

    async def generate(self, name: str, prompt: Sequence[int], params: SamplingParams) -> AsyncGenerator[Output, None]:
        """See ``Engine.generate``.

        Raises:
            NotFoundError: nothing of that name is loaded.
            InputError: the prompt is empty, too long with its answer, or has a token that the model does not know.
            NotNumbersError: the version computes NaN; it is taken out.
        """
        self.check_adapter(name)
        model = self._models.find(name)
        check_length(len(prompt), params.max_tokens, model.max_model_len)
        _check_known(prompt, model.num_tokens)
        steps = self._worker.run(lambda: model.generate(prompt, params))
        try:
            async for step in steps:
                yield step
        except NotNumbersError as error:
            raise self._take_out(name, error) from error
        finally:
            await steps.aclose()

    async def embed(self, name: str, tokens: Sequence[int]) -> Sequence[float]:
        """See ``Engine.embed``.

        Raises:
            NotFoundError: nothing of that name is loaded.
            InputError: there are no tokens, too many, or one that the model does not know.
            NotNumbersError: the version computes NaN; it is taken out.
        """
        self.check_adapter(name)
        model = self._models.find(name)
        check_length(len(tokens), 0, model.max_model_len)
        _check_known(tokens, model.num_tokens)
        vectors = self._worker.run(lambda: iter([model.embed(tokens)]))
        try:
            vector = await anext(vectors)
        finally:
            await vectors.aclose()
        if not all(map(math.isfinite, vector)):
            raise self._take_out(name, NotNumbersError("It computed a vector that is no numbers."))
        return vector

    def check_adapter(self, name: str) -> None:
        """See ``Engine.check_adapter``.

        Raises:
            NotNumbersError: the version was taken out.
        """
        self._taken_out.check(name)

    def _take_out(self, name: str, error: NotNumbersError) -> NotNumbersError:
        """Answer nothing with a version any more, and return the error that says so; the base model stays."""
        return error if name == self._models.base_name else self._taken_out.add(name, error.message)


def check_length(num_prompt: int, max_tokens: int, longest: int | None) -> None:
    """Refuse a prompt without tokens, and one that is too long with its answer.

    Raises:
        InputError: it is.
    """
    if num_prompt == 0:
        raise InputError("The prompt has no tokens.", hint="Send a text.")
    if longest is not None and num_prompt + max_tokens > longest:
        answer = f" and its answer may have {max_tokens}" if max_tokens else ""
        raise ContextLengthError(
            f"The prompt has {num_prompt} tokens{answer}; {longest} is the most that the model has room for.",
            hint="Shorten the prompt, or set a smaller max_tokens." if max_tokens else "Shorten it.",
        )


def check_least(num_least: int, longest: int) -> None:
    """Refuse a prompt that is too long by the fewest tokens that it can have.

    Raises:
        InputError: it is.
    """
    if num_least > longest:
        raise ContextLengthError(
            f"The prompt has {num_least} tokens or more; {longest} is the most that the model has room for.",
            hint="Shorten it.",
        )


def _check_known(tokens: Sequence[int], num_known: int | None) -> None:
    """Refuse tokens that a tokenizer has and its model does not."""
    if num_known is not None and max(tokens) >= num_known:
        raise InputError(
            f"The prompt has the token {max(tokens)}, and the model knows those below {num_known}.",
            hint="Leave it out: the tokenizer has tokens that the model was not made with.",
        )
