"""Prefix tuning: trained keys and values before every sequence, in every layer (https://arxiv.org/abs/2101.00190).

peft hands them over as a filled cache. So rows can't be packed (one cache would serve the first row only), and
activations can't be computed twice (transformers drops the cache of a layer that does, and with it the prefix).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, NoReturn

import torch

from llamafarm_ray.errors import UnsupportedError, UserError
from llamafarm_ray.models.loading import Architecture, Task
from llamafarm_ray.training.methods.base import Server
from llamafarm_ray.training.methods.peft_method import PeftMethod

if TYPE_CHECKING:
    from peft import PeftConfig
    from transformers import PreTrainedModel

__all__ = ["PrefixTuningMethod"]

_INIT_STD = 0.02
"""Of the prefix. peft's default, 1, starts far from the base model: attention is drawn to random keys at once."""


class PrefixTuningMethod(PeftMethod):
    """Saves a plain peft adapter that holds the prefix itself; a projection is needed for training only."""

    name: ClassVar[str] = "prefix_tuning"
    packable: ClassVar[bool] = False
    checkpointable: ClassVar[bool] = False

    @property
    def served_by(self) -> Server:
        """See `Method.served_by`: vLLM has no prefixes."""
        return "peft"

    @property
    def num_reserved_positions(self) -> int:
        """See `Method.num_reserved_positions`: the prefix stands before every sequence."""
        return self.parameters.num_virtual_tokens

    def check(self, architecture: Architecture) -> None:
        """See `Method.check`.

        Raises:
            UserError: the model is an encoder, which keeps no cache, its layers take no prefix, or the prefix leaves
                no room for a text.
        """
        if not architecture.is_causal:
            raise UserError(
                "The base model is an encoder: it keeps no keys and values, so no prefix can come before a text.",
                hint="Use method lora or adapter.",
            )
        if not architecture.takes_prefix:
            raise UserError(
                "The base model has no attention layers of a kind whose keys and values a prefix can be put before.",
                hint="Use method lora.",
            )
        limit, taken = architecture.max_positions, self.num_reserved_positions
        if limit is not None and taken >= limit:
            raise UserError(
                f"fine_tuning.parameters.num_virtual_tokens is {taken}, but the base model was made for {limit} tokens "
                "in all.",
                hint="Lower it; 10 to 200 are usual.",
            )

    def adapter_config(self, model: PreTrainedModel, **common: object) -> PeftConfig:
        """See `PeftMethod.adapter_config`."""
        from peft import PrefixTuningConfig  # see PeftMethod.wrap

        parameters = self.parameters
        hidden_size = model.config.get_text_config().hidden_size
        return PrefixTuningConfig(
            **common,
            num_virtual_tokens=parameters.num_virtual_tokens,
            prefix_projection=parameters.prefix_projection,
            encoder_hidden_size=(parameters.encoder_hidden_size or hidden_size)
            if parameters.prefix_projection
            else None,
        )

    def wrap(self, model: PreTrainedModel, *, base_model: Path, task: Task = "causal-lm") -> PreTrainedModel:
        """See `Method.wrap`."""
        wrapped = super().wrap(model, base_model=base_model, task=task)
        torch.nn.init.normal_(wrapped.prompt_encoder["default"].embedding.weight, std=_INIT_STD)
        wrapped.gradient_checkpointing_enable = _refuse_checkpointing
        return wrapped

    def adapter_state(self, model: PreTrainedModel, weights: Mapping[str, torch.Tensor]) -> Mapping[str, torch.Tensor]:
        """See `PeftMethod.adapter_state`: the prefix, computed from the whole weights."""
        from peft import PrefixEncoder  # see PeftMethod.wrap

        start = "prompt_encoder.default."
        trained = {name.removeprefix(start): tensor for name, tensor in weights.items() if name.startswith(start)}
        embedding = trained["embedding.weight"]
        if not self.parameters.prefix_projection or embedding.numel() == 0:
            return {"prompt_embeddings": embedding}
        # Not the model's own encoder: its weights may be shards.
        encoder = PrefixEncoder(model.peft_config["default"])
        encoder.load_state_dict(trained)
        with torch.no_grad():
            return {"prompt_embeddings": encoder.float()(torch.arange(self.parameters.num_virtual_tokens))}


def _refuse_checkpointing(*_: object, **__: object) -> NoReturn:
    raise UnsupportedError(
        "Method prefix_tuning can't be combined with fine_tuning.training.gradient_checkpointing: a layer that "
        "computes its activations twice drops the prefix.",
        hint="Switch gradient_checkpointing off; the prefix itself needs little memory.",
    )
