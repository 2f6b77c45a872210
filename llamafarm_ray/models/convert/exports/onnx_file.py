"""A transformers model as an ONNX file with a cache of keys and values, exported by torch in a process of its own.

Inputs and outputs have the names that Hugging Face's optimum gives them: https://huggingface.co/docs/optimum-onnx.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import DynamicCache

from llamafarm_ray.errors import UnsupportedError
from llamafarm_ray.models.convert.conversion import read_model
from llamafarm_ray.models.convert.exports.libraries import check_libraries
from llamafarm_ray.models.foreign import first_line

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["LAYERS_NAME", "ONNX_NAME", "check_can_export", "export_onnx", "write_onnx_model"]

ONNX_NAME = "model.onnx"
"""The file of a folder that a model was converted to ONNX in; its weights are in ``model.onnx.data``."""

LAYERS_NAME = "layers.onnx"
"""The same graph on the same weights, which also gives the output of each layer."""

_MODULE = "llamafarm_ray.models.convert.exports.onnx_file"
_LIBRARIES = ("onnx", "onnxscript", "onnxruntime")
_HIDDEN = "hidden_states."
_TEXTS = ("input_ids", "attention_mask", "position_ids")
_NUM_PAST, _NUM_NEW = 3, 2
"""Sizes of the example that is traced. Both are dynamic; 0 and 1 would be taken for constants."""


def check_can_export() -> None:
    """Check that the libraries for the export and its check are installed.

    Raises:
        UnsupportedError: one is missing.
    """
    check_libraries(_LIBRARIES, target="ONNX", extra="onnx")


def write_onnx_model(source: Path, folder: Path, precision: str) -> None:
    """Export a model in a process of its own, whose memory is free again afterwards.

    Args:
        source: a GGUF file, or a folder in transformers' layout.
        folder: gets `ONNX_NAME`, its weights and `LAYERS_NAME`.
        precision: ``fp32`` or ``fp16``.

    Raises:
        UnsupportedError: torch can't export the model; the message has its reason.
    """
    done = subprocess.run(
        [sys.executable, "-m", _MODULE, str(source.absolute()), str(folder.absolute()), precision],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        check=False,
    )
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        reason = lines[-1].rstrip(".")[:300] if lines else f"the process ended with status {done.returncode}"
        raise UnsupportedError(
            f"The model can't be exported to ONNX: {reason}.", hint="Serve it with vLLM or transformers instead."
        )


def main(arguments: Sequence[str]) -> int:
    """Export the model that the command line names.

    Args:
        arguments: source, folder and precision.
    """
    source, folder, precision = arguments
    try:
        model, _, _ = read_model(Path(source))
        export_onnx(model.half() if precision == "fp16" else model, Path(folder))
    except Exception as error:  # noqa: BLE001 - the process boundary: the parent reads the last line
        sys.stderr.write(f"\n{first_line(error)}\n")
        return 1
    return 0


def export_onnx(model: PreTrainedModel, folder: Path) -> None:
    """Write a causal language model as `ONNX_NAME` and `LAYERS_NAME`.

    Args:
        model: the model, in 32 or 16 bits.
        folder: an existing folder.

    Raises:
        UnsupportedError: a layer keeps something else than keys and values.
    """
    import onnx

    model.eval().set_attn_implementation("eager")  # the one that gives the same numbers with all sizes of texts
    shapes = _cache_shapes(model)
    places = [f"{layer}.{kind}" for layer in range(len(shapes)) for kind in ("key", "value")]
    dynamic = torch.export.Dim.DYNAMIC
    past = [
        tuple(torch.zeros(1, heads, _NUM_PAST, width, dtype=model.dtype) for width in widths)
        for heads, *widths in shapes
    ]
    first, end = _NUM_PAST, _NUM_PAST + _NUM_NEW
    example = (
        torch.ones(1, _NUM_NEW, dtype=torch.long),
        torch.ones(1, end, dtype=torch.long),
        torch.arange(first, end)[None],
        past,
    )
    with warnings.catch_warnings(), tempfile.TemporaryDirectory(dir=folder) as scratch:
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            _Decoder(model),
            example,
            dynamic_shapes=({1: dynamic}, {1: dynamic}, {1: dynamic}, [({2: dynamic}, {2: dynamic})] * len(shapes)),
            input_names=[*_TEXTS, *(f"past_key_values.{place}" for place in places)],
            output_names=["logits", *(f"present.{place}" for place in places), *_hidden_names(model)],
            dynamo=True,
            verbose=False,
        )
        assert program is not None  # as with all exports by dynamo
        program.save(Path(scratch, ONNX_NAME), external_data=True)
        for path in Path(scratch).iterdir():
            shutil.move(path, folder / path.name)
    shutil.copyfile(folder / ONNX_NAME, folder / LAYERS_NAME)
    graph = onnx.load(folder / ONNX_NAME, load_external_data=False)
    kept = [output for output in graph.graph.output if not output.name.startswith(_HIDDEN)]
    del graph.graph.output[:]
    graph.graph.output.extend(kept)
    (folder / ONNX_NAME).write_bytes(graph.SerializeToString())


def _hidden_names(model: PreTrainedModel) -> list[str]:
    return [f"{_HIDDEN}{layer}" for layer in range(model.config.num_hidden_layers)]


@torch.no_grad()
def _cache_shapes(model: PreTrainedModel) -> list[tuple[int, int, int]]:
    """Return heads, width of keys and width of values of each layer.

    Raises:
        UnsupportedError: a layer has none.
    """
    cache = DynamicCache()
    model(input_ids=torch.ones(1, 1, dtype=torch.long), past_key_values=cache, use_cache=True)
    found = [(layer.keys, layer.values) for layer in cache.layers if getattr(layer, "keys", None) is not None]
    if len(found) != model.config.num_hidden_layers or any(one.dim() != 4 for pair in found for one in pair):
        raise UnsupportedError(
            f"Of the {model.config.num_hidden_layers} layers of the model, {len(found)} keep keys and values"
        )
    return [(keys.shape[1], keys.shape[3], values.shape[3]) for keys, values in found]


class _Decoder(torch.nn.Module):
    """A model with keys and values as plain inputs and outputs.

    The cache has no configuration: layers with a sliding window keep all keys, and their mask hides the old ones.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        position_ids: torch.Tensor,
        past: Sequence[tuple[torch.Tensor, torch.Tensor]],
    ) -> tuple[torch.Tensor, ...]:
        cache = DynamicCache()
        for layer, (keys, values) in enumerate(past):
            cache.update(keys, values, layer)
        output: Any = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=cache,
            use_cache=True,
            output_hidden_states=True,
        )
        kept = [one for layer in cache.layers for one in (layer.keys, layer.values)]
        return (output.logits.float(), *kept, *output.hidden_states[1:])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
