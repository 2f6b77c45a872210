"""The tensors that an adapter of any method must have, by peft itself: put onto a base model without weights.

Importing torch, transformers and peft takes seconds; ask :mod:`.headers` first.
"""

from __future__ import annotations

import contextlib
import io
import re
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from llamafarm_ray.errors import InputError, did_you_mean
from llamafarm_ray.models.adapters.config import VECTORS, read_adapter_config
from llamafarm_ray.models.adapters.headers import PREFIX, Expected, Shape
from llamafarm_ray.models.adapters.patterns import check_patterns
from llamafarm_ray.models.foreign import UNREADABLE, first_line
from llamafarm_ray.models.sentence_files import gives_vectors

if TYPE_CHECKING:
    from peft import PeftConfig
    from transformers import PreTrainedModel

__all__ = ["expected_of_peft"]

_WITHOUT_WEIGHTS = re.compile(r"\bmeta tensors?\b", re.IGNORECASE)
"""Words of torch where a value is asked for of a tensor that has none."""
_EMBEDDINGS = ("embed_tokens", "lm_head", "wte", "word_embeddings", "embed_in", "embed_out")


def expected_of_peft(base: Path, adapter: Path) -> Expected:
    """Return the tensors that an adapter must have.

    Args:
        adapter: the adapter's folder; its configuration is read, not its weights.

    Raises:
        InputError: transformers can't make the base model, or peft can't put the adapter onto it.
    """
    import torch  # seconds
    from peft import PeftConfig, get_peft_model, get_peft_model_state_dict  # imports torch

    import llamafarm_ray.models.bottleneck  # noqa: F401 - makes its types known to peft
    from llamafarm_ray.models.loading import bare_model  # imports torch

    said = read_adapter_config(adapter)
    _check_type(said.peft_type)
    gives_tokens_vectors = gives_vectors(base) or said.values.get("task_type") == VECTORS
    try:
        model = bare_model(base, task="embedding" if gives_tokens_vectors else "causal-lm")
    except InputError as error:  # which names the folder
        raise InputError("transformers can't make the adapter's base model.", hint=error.hint) from error
    check_patterns(said, [name for name, _ in model.named_modules()])
    plain = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    try:
        # What peft and its methods print is about training.
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), torch.device("meta"):
            warnings.simplefilter("ignore")
            config = PeftConfig.from_pretrained(str(adapter))
            if hasattr(config, "init_lora_weights"):
                config.init_lora_weights = False  # some compute with the base's weights, and there are none
            if config.is_prompt_learning:
                return Expected(_of_prefix(model, config))
            wrapped = get_peft_model(model, config, low_cpu_mem_usage=True)
            state = get_peft_model_state_dict(wrapped, save_embedding_layers=False)
        _check_parameters(wrapped, config)
    except UNREADABLE as error:
        raise _as_input_error(error, said.peft_type) from error
    required = {name: tuple(tensor.shape) for name, tensor in state.items()}
    return Expected(required, _embeddings(plain))


def _as_input_error(error: Exception, peft_type: str) -> InputError:
    """Return the refusal for an error of peft, which may be of the adapter or of peft itself."""
    if isinstance(error, ImportError):
        return InputError(
            f"Adapters of type {peft_type} need a package that is not installed: {first_line(error)}",
            hint="Install it beside llamafarm, on every machine that serves the adapter.",
        )
    if _WITHOUT_WEIGHTS.search(str(error)):
        return InputError(
            f"The adapter is of type {peft_type}, which can't be proved: peft puts it onto no model without weights.",
            hint="Train one of the methods of `fine_tuning.method`.",
        )
    return InputError(
        f"Its adapter_config.json does not fit the base model: {first_line(error)}",
        hint="Check that the base model is the one it was trained on.",
    )


def _check_type(peft_type: str) -> None:
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    known = [str(one.value) for one in PEFT_TYPE_TO_CONFIG_MAPPING]
    if peft_type not in known:
        near = peft_type.upper() if peft_type.upper() in known else ""
        raise InputError(
            f"adapter_config.json: peft_type is {peft_type!r}, which peft does not know.",
            hint=f"Did you mean {near}?" if near else did_you_mean(peft_type, known),
        )


def _check_parameters(wrapped: PreTrainedModel, config: PeftConfig) -> None:
    """Check that peft found the parameters that a configuration claims; it only warns of those it did not."""
    claimed = getattr(config, "target_parameters", None)
    if claimed and not getattr(wrapped.base_model, "targeted_parameter_names", True):
        raise InputError(
            f"The adapter's target_parameters are of no module of its base model: {', '.join(sorted(claimed))}.",
            hint="Check that the base model is the one it was trained on.",
        )


def _embeddings(plain: dict[str, Shape]) -> dict[str, Shape]:
    """Return the base's own embeddings and heads, which peft saves along with an adapter on them."""
    found: dict[str, Shape] = {}
    for name, shape in plain.items():
        module, _, last = name.rpartition(".")
        if last == "weight" and module.rpartition(".")[2] in _EMBEDDINGS:
            found |= {f"{PREFIX}{module}.weight": shape, f"{PREFIX}{module}.base_layer.weight": shape}
    return found


def _of_prefix(model: PreTrainedModel, config: PeftConfig) -> dict[str, Shape]:
    """Return the shape of a prefix: keys and values of each layer, for each virtual token.

    The configuration holds the sizes of the base that it was made for, so the base's own are taken.
    """
    said = model.config.get_text_config()
    heads = getattr(said, "num_key_value_heads", None) or said.num_attention_heads
    width = (getattr(said, "head_dim", None) or said.hidden_size // said.num_attention_heads) * heads
    return {"prompt_embeddings": (int(config.num_virtual_tokens), int(said.num_hidden_layers) * 2 * int(width))}
