"""ONNX files through ONNX Runtime: decoders with or without a cache of keys and values, and embedding models.

Inputs and outputs are named as Hugging Face's optimum names them: ``input_ids``, ``attention_mask``, ``position_ids``,
``past_key_values.0.key`` and so on in, ``logits`` and ``present.0.key`` and so on out, or ``last_hidden_state``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from llamafarm_ray.errors import InputError, UnsupportedError
from llamafarm_ray.models.embedding import pooled
from llamafarm_ray.models.folder import onnx_file
from llamafarm_ray.models.foreign import first_line
from llamafarm_ray.models.loading import Task, inspect_architecture
from llamafarm_ray.models.sentence_files import gives_vectors, pooling_of
from llamafarm_ray.models.tokenizer import load_tokenizer, quiet_libraries
from llamafarm_ray.serving.engines.causal import CausalModel
from llamafarm_ray.serving.engines.in_process import InProcessEngine, LanguageModel

__all__ = ["layer_outputs", "onnx_decoder", "onnx_engine"]

_PAST = re.compile(r"past_key_values\.(\d+\.\w+)")
_PLAIN = frozenset({"input_ids", "attention_mask", "position_ids", "token_type_ids"})
_VECTORS = ("last_hidden_state", "token_embeddings")
"""Names that exporters give to the vectors of a text's tokens."""
_HIDDEN = "hidden_states."
_FLOATS = {"tensor(float)": np.float32, "tensor(float16)": np.float16}
_QUIET = 3
"""ONNX Runtime's level of logging for errors only."""


def onnx_engine(
    base_name: str, folder: Path, *, max_model_len: int | None = None, n_threads: int | None = None
) -> InProcessEngine:
    """The engine for a model exported to ONNX: on the GPU where ONNX Runtime has one, else on the CPU.

    Args:
        folder: its files: the ONNX file, config.json and the tokenizer.
        max_model_len: the longest prompt with its answer, in tokens; by default what the model was made for.
        n_threads: CPU threads; by default one a core.

    Raises:
        InputError: the folder can't be read, or the file is nothing that ONNX Runtime can load.
        UnsupportedError: the model has inputs or outputs that are not known here, or ONNX Runtime is not installed.
    """
    quiet_libraries()

    def load(version: Path | None) -> LanguageModel:
        if version is not None:
            _check_tokenizer(version, folder)
        return _open(version or folder, max_model_len, n_threads)

    return InProcessEngine(base_name, load_tokenizer(folder), load)


def onnx_decoder(folder: Path) -> CausalModel:
    """Load a causal language model's ONNX file as the engine does.

    Args:
        folder: its files: the ONNX file, config.json and the tokenizer.

    Raises:
        InputError: the file is nothing that ONNX Runtime can load, or gives vectors.
        UnsupportedError: the model has inputs or outputs that are not known here, or ONNX Runtime is not installed.
    """
    model = _open(folder, None, None)
    if not isinstance(model, _Decoder):
        raise InputError(f"The model in {str(folder)!r} gives vectors, and writes no text.")
    return model


def layer_outputs(file: Path, tokens: Sequence[int]) -> list[torch.Tensor]:
    """Return the outputs ``hidden_states.0`` and so on of a file that has them, each of shape (tokens, width).

    Raises:
        InputError: ONNX Runtime can't load or compute the file.
        UnsupportedError: the model has inputs or outputs that are not known here, or ONNX Runtime is not installed.
    """
    session = _Session(file, None)
    names = [name for name in session.outputs if name.startswith(_HIDDEN)]
    cache = _Decoder(session, frozenset(), None).new_cache()
    return [_tensor(one)[0].float() for one in session.run(names, {**session.texts(tokens), **cache.past})]


def _check_tokenizer(version: Path, folder: Path) -> None:
    """Texts become tokens by the base model's tokenizer, so a version must have been made with the same one."""
    own, known = version / "tokenizer.json", folder / "tokenizer.json"
    if own.is_file() and known.is_file() and own.read_bytes() != known.read_bytes():
        raise InputError("The version has another tokenizer than the base model.", hint="Deploy it as base_model.")


def _open(folder: Path, max_model_len: int | None, n_threads: int | None) -> LanguageModel:
    file = onnx_file(folder)
    session = _Session(file, n_threads)
    is_embedding = gives_vectors(folder) or "logits" not in session.outputs
    task: Task = "embedding" if is_embedding else "causal-lm"
    made_for = None
    with suppress(InputError):  # transformers need not know every architecture that was exported
        made_for = inspect_architecture(folder, task=task).max_positions
    longest = min((bound for bound in (max_model_len, made_for) if bound is not None), default=None)
    if is_embedding:
        return _Encoder(session, folder, longest)
    return _Decoder(session, _eos_ids(folder), longest)


class _Session:
    """A loaded file.

    Args:
        n_threads: CPU threads; ``None``: one a core.
    """

    def __init__(self, file: Path, n_threads: int | None) -> None:
        try:
            import onnxruntime
        except ImportError as error:
            raise UnsupportedError(
                "Engine onnx needs ONNX Runtime, which is not installed.", hint="pip install 'llamafarm_ray[onnx]'"
            ) from error
        options = onnxruntime.SessionOptions()
        options.log_severity_level = _QUIET
        options.intra_op_num_threads = n_threads or 0
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # between tokens others compute
        wanted = ("CUDAExecutionProvider", "CPUExecutionProvider")
        providers = [name for name in wanted if name in onnxruntime.get_available_providers()]
        try:
            self._session = onnxruntime.InferenceSession(str(file), options, providers=providers)
        except Exception as error:  # its errors have no class in common
            raise InputError(
                f"ONNX Runtime can't load {str(file)!r}: {first_line(error)}", hint="Export the model again."
            ) from error
        self.inputs = {one.name: one for one in self._session.get_inputs()}
        self.outputs = [one.name for one in self._session.get_outputs()]
        self._file = file
        self._value = onnxruntime.OrtValue.ortvalue_from_numpy

    def check_inputs(self, known: frozenset[str]) -> None:
        """Refuse a model with an unknown required input."""
        unknown = sorted(set(self.inputs) - known)
        if unknown or "input_ids" not in self.inputs:
            raise UnsupportedError(
                f"{str(self._file)!r} has the inputs {', '.join(unknown) or 'of no text'}, which engine onnx does not "
                "know.",
                hint="Export it as optimum does, without a cache branch.",
            )

    def shape_of(self, name: str) -> tuple[int, int, Any]:
        """Of an input of keys or values: heads, width and type."""
        shape, kind = self.inputs[name].shape, self.inputs[name].type
        sizes = [size for size in shape[1::2] if isinstance(size, int)]
        if len(shape) != 4 or len(sizes) != 2 or kind not in _FLOATS:
            raise UnsupportedError(
                f"{str(self._file)!r} has the input {name} of shape {shape} and type {kind}; (batch, heads, length, "
                "width) of 16 or 32 bit floats is known."
            )
        return sizes[0], sizes[1], _FLOATS[kind]

    def run(self, outputs: Sequence[str], inputs: Mapping[str, Any]) -> list[Any]:
        """Compute; arrays are taken in as they are, and so is what an earlier call gave."""
        values = {name: self._value(one) if isinstance(one, np.ndarray) else one for name, one in inputs.items()}
        try:
            return list(self._session.run_with_ort_values(list(outputs), values))
        except Exception as error:  # its errors have no class in common
            raise InputError(f"ONNX Runtime can't compute {self._file.name}: {first_line(error)}") from error

    def texts(self, tokens: Sequence[int], num_before: int = 0) -> dict[str, Any]:
        """The inputs that tell of a text's tokens, of those that the model has."""
        ids, end = np.array([list(tokens)], dtype=np.int64), num_before + len(tokens)
        told = {
            "input_ids": ids,
            "attention_mask": np.ones((1, end), dtype=np.int64),
            "position_ids": np.arange(num_before, end, dtype=np.int64)[None],
            "token_type_ids": np.zeros_like(ids),
        }
        return {name: value for name, value in told.items() if name in self.inputs}


@dataclass(slots=True)
class _Cache:
    """Keys, values and tokens of an answer.

    Attributes:
        past: keys and values, by the inputs that take them.
        tokens: all so far.
    """

    past: dict[str, Any]
    tokens: list[int] = field(default_factory=list)


class _Decoder(CausalModel):
    """A model that writes; without inputs for keys and values it computes the whole text anew for each token."""

    def __init__(self, session: _Session, eos_ids: frozenset[int], longest: int | None) -> None:
        self._session = session
        self.eos_ids = eos_ids
        self.max_model_len = longest
        past = {name: match[1] for name in session.inputs if (match := _PAST.fullmatch(name))}
        session.check_inputs(_PLAIN | past.keys())
        self._present = {name: f"present.{place}" for name, place in past.items()}
        missing = sorted(set(self._present.values()) - set(session.outputs))
        if missing:
            raise UnsupportedError(f"The model takes {len(past)} keys and values, and does not give {missing[0]}.")
        self._empty = {name: session.shape_of(name) for name in past}

    def new_cache(self) -> _Cache:
        """See `CausalModel.new_cache`."""
        return _Cache(
            {name: np.zeros((1, heads, 0, width), kind) for name, (heads, width, kind) in self._empty.items()}
        )

    def logits(self, tokens: Sequence[int], cache: _Cache, *, all_of_them: bool) -> torch.Tensor:
        """See `CausalModel.logits`."""
        del all_of_them
        num_before = len(cache.tokens)
        cache.tokens += tokens
        if not self._present:
            (logits,) = self._session.run(["logits"], self._session.texts(cache.tokens))
            return _tensor(logits)[0, num_before:]
        inputs = {**self._session.texts(tokens, num_before), **cache.past}
        logits, *kept = self._session.run(["logits", *self._present.values()], inputs)
        cache.past = dict(zip(self._present, kept, strict=True))
        return _tensor(logits)[0]


class _Encoder(LanguageModel):
    """A model that gives texts vectors."""

    writes = False

    def __init__(self, session: _Session, folder: Path, longest: int | None) -> None:
        self._session = session
        session.check_inputs(_PLAIN)
        self._output = next((name for name in _VECTORS if name in session.outputs), "")
        if not self._output:
            raise UnsupportedError(
                f"The model gives {', '.join(session.outputs)}, and neither logits nor {' nor '.join(_VECTORS)}.",
                hint="Export it for text generation or feature extraction.",
            )
        self._pooling = pooling_of(folder)
        self.max_model_len = longest

    def embed(self, tokens: Sequence[int]) -> Sequence[float]:
        """See `LanguageModel.embed`."""
        (hidden,) = self._session.run([self._output], self._session.texts(tokens))
        vector: list[float] = pooled(_tensor(hidden), torch.ones(1, len(tokens)).long(), self._pooling)[0].tolist()
        return vector


def _tensor(value: Any) -> torch.Tensor:
    return torch.from_numpy(value.numpy())


def _eos_ids(folder: Path) -> frozenset[int]:
    """The tokens that end a text, as ``generate`` of transformers takes them from the model's files."""
    for name in ("generation_config.json", "config.json"):
        path = folder / name
        ids = json.loads(path.read_text(encoding="utf-8")).get("eos_token_id") if path.is_file() else None
        if ids is not None:
            return frozenset([ids] if isinstance(ids, int) else ids)
    return frozenset()
