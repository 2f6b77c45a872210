"""``method: auto``: the decision tree, from the hardware found, the model, the data and the purpose of the result.

::

    less than 24 GiB of GPU memory  more than 13B parameters: qlora, else lora
    bf16 weights alone don't fit    qlora
    many tasks or domains           lora, an adapter each: hot-swapped if requests switch, else served side by side
    quality at any cost             more than 100,000 rows and all GPUs together hold it: full
                                    fewer than 10,000 rows: lora of rank 64
    quality for its cost            more than 100,000 rows and one GPU holds it: full; else lora
    production                      one domain: merge it into the base; many: adapters in the registry

Memory comes first, since what does not fit can't be trained; what stands below adds to it. Without a GPU the method is
lora: the optimizer stays small, and 4-bit weights gain no speed on a CPU.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from llamafarm_ray.config import MethodParameters
from llamafarm_ray.config.sections.fine_tuning import Intent

__all__ = ["Choice", "Hardware", "choose_method"]

_GIB = 1024**3
_LIMITED_GPU_BYTES = 24 * _GIB
_LARGE_MODEL = 13_000_000_000
_LARGE_DATASET = 100_000
_SMALL_DATASET = 10_000
_FULL_BYTES_PER_PARAMETER = 16
"""Weights, gradient and AdamW's two moments in fp32; activations come on top."""
_LORA_BYTES_PER_PARAMETER = 2
"""Frozen weights in bf16; the adapter's share is small."""
_HEADROOM = 1.25
"""For activations and fragmentation."""
_CLOSE = "LoRA comes within 95-98% of full quality"
_HIGHER_RANK = 64
"""The highest that a deployment serves without being told to reserve memory for more."""


@dataclass(frozen=True, slots=True)
class Hardware:
    """Hardware for the workers.

    Args:
        gpu_memory_bytes: memory of one GPU; 0 without.
        has_bf16: True if the GPUs, or without one the CPUs of every node, compute fast in bf16.
    """

    num_cpus: float
    num_gpus: int = 0
    gpu_memory_bytes: int = 0
    has_bf16: bool = False


@dataclass(frozen=True, slots=True)
class Choice:
    """Choice of a method, with its reasons.

    Args:
        name: the method's or strategy's name.
        reasons: sentences for people.
        changes: parameters of the method that should have other values.
    """

    name: str
    reasons: list[str]
    changes: Mapping[str, object] = field(default_factory=dict)

    def apply(self, parameters: MethodParameters) -> MethodParameters:
        """The parameters with the changes; never one that the user set."""
        changes = {key: value for key, value in self.changes.items() if key not in parameters.model_fields_set}
        return parameters.model_copy(update=changes) if changes else parameters


def choose_method(
    hardware: Hardware,
    *,
    num_parameters: int,
    num_rows: int,
    intent: Intent | None = None,
    parameters: MethodParameters | None = None,
) -> Choice:
    """Walk the decision tree that this module begins with. A pure function: it looks at its arguments only.

    Args:
        intent: purpose of the result; by default quality for its cost.
        parameters: the method's parameters that the user set, which are kept.
    """
    intent = intent or Intent()
    method, reason = _fitting(hardware, num_parameters=num_parameters, num_rows=num_rows, goal=intent.goal)
    reasons, changes = [reason], dict[str, object]()
    if intent.goal == "quality" and method != "full":
        more, changes = _higher_rank(num_rows, parameters or MethodParameters())
        reasons += more
    if intent.goal == "many_tasks":
        reasons.append(_many_tasks(method, intent))
    if intent.production:
        reasons.append(_production(method, intent))
    return Choice(method, reasons, changes)


def _fitting(hardware: Hardware, *, num_parameters: int, num_rows: int, goal: str) -> tuple[str, str]:
    """The method that memory, model and data call for."""
    size = f"the model has {num_parameters / 1e9:.2f}B parameters"
    if hardware.num_gpus == 0:
        return "lora", "There is no GPU: LoRA keeps the optimizer small, and 4-bit weights gain no speed."
    memory = f"GPU has {hardware.gpu_memory_bytes / _GIB:.0f} GiB"
    if hardware.gpu_memory_bytes < _LIMITED_GPU_BYTES:
        if num_parameters > _LARGE_MODEL:
            return "qlora", f"A {memory} (less than 24) and {size} (more than 13B)."
        return "lora", f"A {memory} (less than 24) and {size} (13B or less)."
    lora_bytes = num_parameters * _LORA_BYTES_PER_PARAMETER * _HEADROOM
    if lora_bytes > hardware.gpu_memory_bytes:
        return "qlora", f"A {memory}, and {size}: bf16 weights alone would need {lora_bytes / _GIB:.0f} GiB."
    if num_rows > _LARGE_DATASET and goal != "many_tasks":
        return _large_dataset(hardware, num_parameters=num_parameters, num_rows=num_rows, goal=goal)
    return "lora", f"A {memory}, {size}, and there are {num_rows} rows: {_CLOSE}."


def _large_dataset(hardware: Hardware, *, num_parameters: int, num_rows: int, goal: str) -> tuple[str, str]:
    """Full fine-tuning where it fits: on one GPU, or where quality is the goal on all of them."""
    needed = num_parameters * _FULL_BYTES_PER_PARAMETER * _HEADROOM
    rows, full = f"{num_rows} rows (more than 100,000)", f"full fine-tuning needs about {needed / _GIB:.0f} GiB"
    if needed <= hardware.gpu_memory_bytes:
        return "full", f"{rows}, and a GPU has {hardware.gpu_memory_bytes / _GIB:.0f} GiB, enough for all."
    total = hardware.num_gpus * hardware.gpu_memory_bytes
    if goal == "quality" and needed <= total:
        return "full", f"{rows} and quality is the goal; {full}, which {hardware.num_gpus} GPUs have together."
    have = f"the GPUs have {total / _GIB:.0f} GiB together" if goal == "quality" else "one GPU has less"
    return "lora", f"{rows} would be worth full fine-tuning, but {full} and {have}; {_CLOSE}."


def _higher_rank(num_rows: int, parameters: MethodParameters) -> tuple[list[str], dict[str, object]]:
    if num_rows >= _SMALL_DATASET:
        return [], {}
    small = f"Quality is the goal and {num_rows} rows are few (less than 10,000)"
    if "r" in parameters.model_fields_set:
        return [f"{small}: a higher rank would be taken, but r is set to {parameters.r}, so it is kept."], {}
    if parameters.r >= _HIGHER_RANK:
        return [], {}
    changes: dict[str, object] = {"r": _HIGHER_RANK}
    if "lora_alpha" not in parameters.model_fields_set:
        # The update's weight alpha/r stays what it was.
        changes["lora_alpha"] = parameters.lora_alpha * _HIGHER_RANK // parameters.r
    return [f"{small}: rank {_HIGHER_RANK} instead of {parameters.r}."], changes


def _many_tasks(method: str, intent: Intent) -> str:
    one_each = f"There are many tasks: train an adapter for each ({method}) over this one base model"
    if intent.task_switching == "static":
        return f"{one_each}, and serve them side by side (deployment.adapters), since the tasks stay the same."
    return f"{one_each}, and hot-swap them, since requests switch between tasks."


def _production(method: str, intent: Intent) -> str:
    if method == "full":
        return "For production: what is trained is a whole model, so it is served as it is."
    if intent.goal == "many_tasks":
        return "For production with many domains: register each adapter and serve them from the registry."
    return "For production with one domain: merge the adapter into its base (`llamafarm models merge`) and serve that."
