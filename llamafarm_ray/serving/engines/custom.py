"""Models that no other engine loads: a class of the user's own, behind the same routes, keys, limits and rollouts."""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Self

from llamafarm_ray.errors import InputError
from llamafarm_ray.models.tokenizer import load_tokenizer, quiet_libraries
from llamafarm_ray.serving.engines.in_process import InProcessEngine, LanguageModel

__all__ = ["CustomModel", "custom_engine"]


class CustomModel(LanguageModel, ABC):
    """The class to write: :meth:`load`, and ``generate`` or ``embed`` of :class:`LanguageModel`.

    ``load`` is called for the base model and for each version, in threads. The steps of ``generate`` are computed on
    one thread, taking turns with those of other requests, so a step should be one token. A bigram model::

        from llamafarm_ray.serving.engines.base import Output
        from llamafarm_ray.serving.engines.custom import CustomModel
        from llamafarm_ray.serving.engines.sampling import Sampler, score
        from safetensors.torch import load_file

        class Bigrams(CustomModel):
            def __init__(self, table):  # (vocabulary, vocabulary)
                self._table = table

            @classmethod
            def load(cls, base, version):
                return cls(load_file((version or base) / "model.safetensors")["logits"])

            def generate(self, prompt, params):
                sample, token = Sampler(params), prompt[-1]
                for index in range(params.max_tokens):
                    logits = self._table[token]
                    token = sample(logits)
                    is_last = index + 1 == params.max_tokens
                    yield Output(score(token, logits, params.logprobs), "length" if is_last else None)

    It is named as ``module:Class``, in the environment of the cluster's nodes::

        deployment: {engine: custom, engine_kwargs: {model: "my_package.models:Bigrams"}}
    """

    @classmethod
    @abstractmethod
    def load(cls, base: Path, version: Path | None) -> Self:
        """Read a model's files; they were checked against their digests.

        Args:
            base: the base model's folder, which holds the tokenizer too.
            version: the folder of a version of it; ``None``: the base model itself.

        Raises:
            UserError: the files are not what this class reads; the message reaches who asked for the version.
        """


def custom_engine(base_name: str, folder: Path, *, model: object = None) -> InProcessEngine:
    """The engine for a user's class.

    Args:
        folder: files of the base model, the tokenizer among them.
        model: path of the class, as ``module:Class``.

    Raises:
        InputError: there is no such class, or it is no `CustomModel`, or the tokenizer can't be read.
    """
    found = _find_class(model)
    quiet_libraries()
    return InProcessEngine(base_name, load_tokenizer(folder), lambda version: found.load(folder, version))


def _find_class(name: object) -> type[CustomModel]:
    """The class that ``deployment.engine_kwargs.model`` names.

    Raises:
        InputError: there is none of that name, or it is no `CustomModel`.
    """
    hint = f"Set deployment.engine_kwargs.model to module:Class, a subclass of {CustomModel.__module__}.CustomModel."
    module, _, attribute = str(name or "").partition(":")
    if not module or not attribute:
        raise InputError(f"Engine custom needs a class, and {name!r} names none.", hint=hint)
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise InputError(f"The class {name!r} can't be imported: {error}.", hint=hint) from error
    if not (isinstance(found, type) and issubclass(found, CustomModel)):
        raise InputError(f"{name!r} is no CustomModel.", hint=hint)
    return found
