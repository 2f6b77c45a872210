"""Transformers with peft: a base model and adapters of every type that peft supports, ours among them.

Each version has a tree of modules of its own around the base model's weights, which are in memory once: so peft's
loader treats it as it treats a model in training and evaluation, no version is ever switched on for another one's
tokens, and a version that is dropped leaves nothing behind.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import DynamicCache

from llamafarm_ray.errors import DeploymentError, InputError
from llamafarm_ray.models.adapters import load_adapter
from llamafarm_ray.models.embedding import pooled
from llamafarm_ray.models.foreign import UNREADABLE, first_line
from llamafarm_ray.models.loading import Task, inspect_architecture, load_model
from llamafarm_ray.models.processor import matmul_dtype
from llamafarm_ray.models.sentence_files import gives_vectors, pooling_of, read_pooling
from llamafarm_ray.models.tokenizer import load_tokenizer, quiet_libraries
from llamafarm_ray.serving.engines.causal import CausalModel
from llamafarm_ray.serving.engines.in_process import InProcessEngine, LanguageModel
from llamafarm_ray.serving.engines.shared_base import SharedWeights

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["transformers_engine"]

_ATTENTIONS = ("sdpa", "eager")
_CHUNK_TOKENS = 512
"""Prompt tokens computed in one step: other answers go on between the chunks of a long prompt."""


def transformers_engine(
    base_name: str,
    folder: Path,
    *,
    max_model_len: int | None = None,
    dtype: str | None = None,
    attn_implementation: str | None = None,
) -> InProcessEngine:
    """The engine for a base model and its adapters: on the GPU if there is one, else on the CPU.

    Args:
        max_model_len: the longest prompt with its answer, in tokens; by default what the model was made for.
        dtype: precision of the weights, as torch names it (``bfloat16``); by default bfloat16 on a GPU that computes in
            it, else float32.
        attn_implementation: ``sdpa`` or ``eager``; by default the model's own.

    Raises:
        InputError: the folder can't be read, the model keeps another state than keys and values, or there is no such
            dtype or attention.
    """
    quiet_libraries()
    if attn_implementation not in {None, *_ATTENTIONS}:
        raise InputError(
            f"deployment.engine_kwargs.attn_implementation is {attn_implementation!r}.",
            hint=f"Say one of {', '.join(_ATTENTIONS)}.",
        )
    shared = _SharedBase(folder, max_model_len, _dtype(dtype), attn_implementation)
    return InProcessEngine(base_name, load_tokenizer(folder), shared.version)


class _SharedBase:
    """A base model's weights, and the versions that share them."""

    def __init__(
        self, folder: Path, max_model_len: int | None, dtype: torch.dtype, attn_implementation: str | None = None
    ) -> None:
        task: Task = "embedding" if gives_vectors(folder) else "causal-lm"
        options = {} if attn_implementation is None else {"attn_implementation": attn_implementation}
        model = load_model(folder, dtype=dtype, task=task, **options).to(_device()).eval()
        if getattr(model, "_is_stateful", False):
            raise InputError(
                f"{model.config.model_type} models keep another state than keys and values, which engine transformers "
                "can't go on from.",
                hint="Set deployment.engine to vllm.",
            )
        self._folder = folder
        self._model = model
        self._shared = SharedWeights(model)
        self._dtype = dtype
        self._task: Task = task
        positions = inspect_architecture(folder, task=task).max_positions
        self._longest = min((bound for bound in (max_model_len, positions) if bound is not None), default=None)

    def version(self, folder: Path | None) -> LanguageModel:
        """The base model itself, or with the adapter in ``folder``.

        Raises:
            InputError: the adapter does not fit.
            DeploymentError: loading it changed the base's weights, which are put right again.
        """
        version = self._around(self._model, None) if folder is None else self._adapted(folder)
        version.num_tokens = self._model.get_input_embeddings().weight.shape[0]
        return version

    def _around(self, model: PreTrainedModel, folder: Path | None) -> LanguageModel:
        if self._task == "embedding":
            return _Encoder(model, read_pooling(folder) or pooling_of(self._folder), self._longest)
        return _Writer(model, self._longest)

    def _adapted(self, folder: Path) -> LanguageModel:
        """Put an adapter onto modules of its own, and see that the tensors that all versions share stay as they are.

        A token is computed, since some methods of peft write at their first computation only.
        """
        try:
            version = self._around(load_adapter(self._shared.twin(), folder, shared=True).eval(), folder)
            _compute_a_token(version)
            return version
        finally:
            if changed := self._shared.changed():
                self._shared.restore(lambda: load_model(self._folder, dtype=self._dtype, task=self._task))
                raise DeploymentError(
                    f"Loading the version changed the base model's weights ({changed[0]}, {len(changed)} in all), so "
                    "it is not served. They were read again.",
                    hint="Report this with the version's adapter_config.json.",
                )


class _Writer(CausalModel):
    """A causal language model, with an adapter or without."""

    def __init__(self, model: PreTrainedModel, longest: int | None) -> None:
        self._model = model
        config: Any = getattr(model, "active_peft_config", None)
        self._has_prefix = config is not None and config.is_prompt_learning
        if self._has_prefix and config.peft_type != "PREFIX_TUNING":
            raise InputError(
                f"The adapter is of type {config.peft_type.value}, which engine transformers can't serve.",
                hint="Of methods that put something before the prompt, prefix_tuning can be served.",
            )
        # A prefix is keys and values in the cache, and nothing else: what computes is the base model.
        self._forward = model.get_base_model() if self._has_prefix else model
        plain = model.get_base_model() if config is not None else model
        self._keeps_last = "logits_to_keep" in inspect.signature(plain.forward).parameters
        self.eos_ids = _eos_ids(plain)
        if longest is not None and self._has_prefix:
            longest -= config.num_virtual_tokens
        self.max_model_len = longest

    @property
    def chunk_tokens(self) -> int:
        """See `CausalModel.chunk_tokens`."""
        return _CHUNK_TOKENS

    def new_cache(self) -> DynamicCache:
        """See `CausalModel.new_cache`."""
        if self._has_prefix:
            return self._model.get_prompt(batch_size=1)
        return DynamicCache(config=self._model.config)

    def logits(self, tokens: Sequence[int], cache: DynamicCache, *, all_of_them: bool) -> torch.Tensor:
        """See `CausalModel.logits`."""
        options = {} if all_of_them or not self._keeps_last else {"logits_to_keep": 1}
        ids = torch.tensor([list(tokens)], device=self._model.device)
        computed: torch.Tensor = self._forward(input_ids=ids, past_key_values=cache, use_cache=True, **options).logits
        return computed[0]


class _Encoder(LanguageModel):
    """A model that gives texts vectors, with an adapter or without."""

    writes = False

    def __init__(self, model: PreTrainedModel, pooling: Any, longest: int | None) -> None:
        self._model = model
        self._pooling = pooling
        self.max_model_len = longest

    @torch.inference_mode()
    def embed(self, tokens: Sequence[int]) -> Sequence[float]:
        """See `LanguageModel.embed`."""
        ids = torch.tensor([list(tokens)], device=self._model.device)
        mask = torch.ones_like(ids)
        hidden = self._model(input_ids=ids, attention_mask=mask).last_hidden_state
        vector: list[float] = pooled(hidden, mask, self._pooling)[0].tolist()
        return vector


@torch.inference_mode()
def _compute_a_token(version: LanguageModel) -> None:
    """Run a version once.

    Raises:
        InputError: it can't compute.
    """
    try:
        if isinstance(version, _Writer):
            version.logits([0], version.new_cache(), all_of_them=False)
        elif isinstance(version, _Encoder):
            version.embed([0])
    except (torch.OutOfMemoryError, MemoryError):  # it says nothing of the adapter
        raise
    except UNREADABLE as error:
        raise InputError(
            f"The adapter can't be computed with: {first_line(error)}",
            hint="Check that the base model is the one it was trained on, and that peft computes with the adapter.",
        ) from error


def _eos_ids(model: PreTrainedModel) -> frozenset[int]:
    """The tokens that end a text, as ``generate`` of transformers takes them from the model's files."""
    known = getattr(model, "generation_config", None) or model.config
    ids = known.eos_token_id
    return frozenset([ids] if isinstance(ids, int) else ids or ())


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _dtype(name: str | None) -> torch.dtype:
    if name is None:
        return matmul_dtype(_device()) if torch.cuda.is_available() else torch.float32
    found = getattr(torch, name, None)
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise InputError(
            f"deployment.engine_kwargs.dtype: {name!r} is no format of torch.", hint="Say float32 or bfloat16."
        )
    return found
