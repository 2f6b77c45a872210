"""A model in OpenVINO's intermediate representation, read from an ONNX file of the same model.

Inputs and outputs keep the names of the ONNX file, which are those of Hugging Face's optimum.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from llamafarm_ray.errors import InputError, UnsupportedError
from llamafarm_ray.models.convert.exports.libraries import check_libraries
from llamafarm_ray.models.convert.exports.onnx_file import LAYERS_NAME, ONNX_NAME
from llamafarm_ray.models.folder import OPENVINO_NAME
from llamafarm_ray.models.foreign import first_line

__all__ = ["OPENVINO_LAYERS_NAME", "OpenvinoModel", "check_has_openvino", "write_openvino_model"]

OPENVINO_LAYERS_NAME = "layers.xml"
"""The same model, which also gives the output of each layer."""

_LIBRARIES = ("openvino",)
_DEVICE = "CPU"
_EXACT = {"INFERENCE_PRECISION_HINT": "f32"}
"""OpenVINO computes in 16 bits on CPUs that can, unless it is told not to."""
_PAST, _PRESENT, _HIDDEN = "past_key_values.", "present.", "hidden_states."


def check_has_openvino() -> None:
    """Check that OpenVINO is installed.

    Raises:
        UnsupportedError: it is not.
    """
    check_libraries(_LIBRARIES, target="OpenVINO", extra="openvino")


def write_openvino_model(exported: Path, folder: Path, precision: str) -> None:
    """Write the two ONNX files of `write_onnx_model` as `OPENVINO_NAME` and `OPENVINO_LAYERS_NAME`.

    OpenVINO's reader is used instead of its converter, which reports its use to the vendor.

    Args:
        exported: a folder that `write_onnx_model` wrote, in fp32.
        folder: gets the files, and their weights beside them.
        precision: ``fp32``, or ``fp16`` to store the weights in half the bits.

    Raises:
        UnsupportedError: OpenVINO can't read the ONNX file; the message has its reason.
    """
    import openvino

    core = openvino.Core()
    for source, target in ((ONNX_NAME, OPENVINO_NAME), (LAYERS_NAME, OPENVINO_LAYERS_NAME)):
        try:
            model = core.read_model(exported / source)
            openvino.save_model(model, folder / target, compress_to_fp16=precision == "fp16")
        except Exception as error:  # its errors have no class in common
            raise UnsupportedError(
                f"OpenVINO can't read the model: {first_line(error)}", hint="Convert it to onnx or gguf instead."
            ) from error


class OpenvinoModel:
    """A model in OpenVINO's runtime, on the CPU and in 32 bits.

    Args:
        file: a file that `write_openvino_model` wrote.

    Raises:
        InputError: OpenVINO can't load the file.
    """

    def __init__(self, file: Path) -> None:
        import openvino

        self._file = file
        try:
            self._model = openvino.Core().compile_model(file, _DEVICE, _EXACT)
        except Exception as error:  # its errors have no class in common
            raise self._fails("load", error) from error
        self._empty = {
            one.any_name: _no_tokens(one.partial_shape) for one in self._model.inputs if one.any_name.startswith(_PAST)
        }

    def logits(self, parts: Sequence[Sequence[int]]) -> torch.Tensor:
        """Return the logits of a text that is computed part by part, each on the keys and values of those before it.

        Raises:
            InputError: OpenVINO can't compute the file.
        """
        past, found, before = self._empty, [], 0
        for part in parts:
            outputs = self._run(part, before, past)
            past = {name: np.array(outputs[_PRESENT + name.removeprefix(_PAST)]) for name in past}
            found.append(_tensor(outputs["logits"]))
            before += len(part)
        return torch.cat(found)

    def layer_outputs(self, tokens: Sequence[int]) -> list[torch.Tensor]:
        """Return the outputs of each layer, of `OPENVINO_LAYERS_NAME`.

        Raises:
            InputError: OpenVINO can't compute the file.
        """
        names = [one.any_name for one in self._model.outputs if one.any_name.startswith(_HIDDEN)]
        outputs = self._run(tokens, 0, self._empty)
        return [_tensor(outputs[name]) for name in names]

    def _run(self, tokens: Sequence[int], before: int, past: Mapping[str, Any]) -> Any:
        end = before + len(tokens)
        inputs = {
            "input_ids": np.array([list(tokens)], np.int64),
            "attention_mask": np.ones((1, end), np.int64),
            "position_ids": np.arange(before, end, dtype=np.int64)[None],
        }
        try:
            return self._model({**inputs, **past})
        except Exception as error:  # its errors have no class in common
            raise self._fails("compute", error) from error

    def _fails(self, verb: str, error: Exception) -> InputError:
        return InputError(
            f"OpenVINO can't {verb} {self._file.name}: {first_line(error)}",
            hint="Convert the model to onnx or gguf instead.",
        )


def _no_tokens(shape: Any) -> NDArray[np.float32]:
    """Return the keys or values of an empty text: (batch, heads, length, width)."""
    return np.zeros((1, shape[1].get_length(), 0, shape[3].get_length()), np.float32)


def _tensor(value: Any) -> torch.Tensor:
    return torch.from_numpy(np.array(value[0]))
