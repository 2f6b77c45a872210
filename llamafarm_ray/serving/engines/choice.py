"""Choice of an application's engine by its base model and adapters, unless the user names one."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from llamafarm_ray.config.sections.deployment import EngineName
from llamafarm_ray.errors import UnsupportedError
from llamafarm_ray.models.adapters import read_adapter_config, why_not_vllm
from llamafarm_ray.models.folder import WeightFormat, weight_formats
from llamafarm_ray.models.packed_files import why_not_packed_in_vllm
from llamafarm_ray.models.sentence_files import gives_vectors, pools_otherwise
from llamafarm_ray.registry import BaseModel, RegistryApi, VersionRecord

__all__ = ["choose_engine"]


def choose_engine(
    asked: EngineName, base: BaseModel, adapters: Iterable[str], registry: RegistryApi, *, on_gpu: bool = False
) -> EngineName:
    """The engine for a base model and the adapters that are deployed with it.

    One application has one engine. ``auto`` goes by the base model's files: ``gguf`` and ``onnx`` for those. For
    safetensors it is vLLM, which is the fastest, unless one of the adapters is nothing that it can serve; transformers,
    which serves LoRA too, serves all of them then, and embedding models, whose adapters may be pooled otherwise. It
    also serves quantized weights that vLLM can't compute with.

    Args:
        asked: the configuration's ``deployment.engine``.
        on_gpu: True if replicas have GPUs.

    Returns:
        An engine, never ``auto``.

    Raises:
        UnsupportedError: the engine that is asked for can't serve one of them.
        NotFoundError: an adapter is not registered.
    """
    if asked == "custom":
        return asked
    formats = weight_formats(base.folder) or ("safetensors",)
    wanted = _format_of(asked) or formats[0]
    if wanted not in formats:
        raise UnsupportedError(
            f"deployment.engine is {asked}, and the base model {base.reference!r} holds no {wanted} file.",
            hint="Set deployment.engine to auto.",
        )
    match wanted:
        case "openvino" | "mlx":
            raise UnsupportedError(
                f"The base model {base.reference!r} is in the format of {wanted}, which no engine serves.",
                hint="Deploy the model that it was converted from, or set deployment.engine to custom.",
            )
        case "gguf" | "onnx":
            _check_files(wanted, adapters, registry)
            return wanted
    records = [registry.resolve(reference) for reference in adapters]
    if asked == "transformers" or (asked == "auto" and gives_vectors(base.folder)):
        return "transformers"
    reasons = [reason for reason in (_of_adapter(one, base, registry) for one in records) if reason]
    if packed := why_not_packed_in_vllm(base.folder, on_gpu=on_gpu):
        where = "" if on_gpu else " on a CPU"
        reasons.append(f"the base model {base.reference!r} has {packed}, which vLLM is not used for{where}")
    if asked == "vllm" and reasons:
        raise UnsupportedError(
            f"deployment.engine is vllm, and {reasons[0]}.", hint="Set deployment.engine to auto or transformers."
        )
    return "transformers" if reasons else "vllm"


def _format_of(asked: EngineName) -> WeightFormat | None:
    """Return the file format that an engine reads, or None if the files decide."""
    match asked:
        case "gguf" | "onnx":
            return asked
        case "vllm" | "transformers":
            return "safetensors"
    return None


def _check_files(engine: Literal["gguf", "onnx"], adapters: Iterable[str], registry: RegistryApi) -> None:
    """Check that all that is deployed beside a base model is in its format.

    Raises:
        UnsupportedError: it isn't.
    """
    for reference in adapters:
        if engine not in weight_formats(registry.pull(reference)):
            raise UnsupportedError(
                f"The application's engine is {engine}, and {reference} holds no {engine} file.",
                hint="Convert it, or deploy a base model in safetensors.",
            )


def _of_adapter(record: VersionRecord, base: BaseModel, registry: RegistryApi) -> str:
    """Return the reason that vLLM can't serve an adapter; empty if it can."""
    if gives_vectors(base.folder) and pools_otherwise(registry.pull(record.ref), base.folder):
        return f"{record.ref} is pooled otherwise than its base model, which vLLM can't do"
    facts = record.registered.adapter
    lack = facts.not_for_vllm if facts is not None else why_not_vllm(read_adapter_config(registry.pull(record.ref)))
    return f"{record.ref} has {lack}, which vLLM can't serve" if lack else ""
