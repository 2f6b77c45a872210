"""Aliases of the training loop and of its workers."""

from __future__ import annotations

from llamafarm_ray.config.aliases.alias import NOTHING, Alias, AliasRefusalError
from llamafarm_ray.config.aliases.names import (
    AXOLOTL,
    DISTRIBUTED,
    FACTORY,
    HF,
    LUDWIG,
    RAY,
    TORCHTUNE,
    TRAINING,
    UNSLOTH,
)

__all__ = ["LOOP", "WORKERS"]

_NO_PACKING = (
    "filling sequences up to the longest length, which makes fewer and larger steps, is not available; "
    "fine_tuning.training.padding_free leaves out padding, and batch_size says how many rows a step has"
)
_NO_PATH = "must name a ZeRO stage such as zero2 (fine_tuning.distributed.strategy); a DeepSpeed file is not read"


def _stage(value: object) -> object:
    """DeepSpeed's stages have many names, which all end in the stage's number."""
    known = {
        f"{form}{stage}" for form in ("zero", "zero_", "stage", "stage_", "deepspeed_stage_") for stage in (1, 2, 3)
    }
    own = {f"deepspeed_zero{stage}" for stage in (1, 2, 3)}
    if isinstance(value, str) and value.lower() in known | own:
        return f"deepspeed_zero{value[-1]}"
    raise AliasRefusalError(f"{_NO_PATH}; it is {ascii(value)[:80]}")


_LOOP_NAMES = (
    # name, key in fine_tuning.training, tools
    ("epochs", "epochs", f"{TORCHTUNE}, {LUDWIG}"),
    ("num_epochs", "epochs", AXOLOTL),
    ("num_train_epochs", "epochs", f"{HF}, {FACTORY}, {UNSLOTH}"),
    ("n_epochs", "epochs", "OpenAI"),
    ("batch_size", "batch_size", f"{TORCHTUNE}, {LUDWIG}"),
    ("micro_batch_size", "batch_size", AXOLOTL),
    ("per_device_train_batch_size", "batch_size", f"{HF}, {FACTORY}, {UNSLOTH}"),
    ("train_micro_batch_size_per_gpu", "batch_size", "DeepSpeed"),
    ("gradient_accumulation_steps", "gradient_accumulation_steps", f"{AXOLOTL}, {HF}, {FACTORY}, {TORCHTUNE}"),
    ("gradient_accumulation", "gradient_accumulation_steps", "various"),
    ("learning_rate", "learning_rate", f"{AXOLOTL}, {HF}, {FACTORY}, {LUDWIG}"),
    ("lr", "learning_rate", TORCHTUNE),
    ("warmup_steps", "warmup_steps", f"{AXOLOTL}, {HF}, {FACTORY}"),
    ("num_warmup_steps", "warmup_steps", TORCHTUNE),
    ("warmup_ratio", "warmup_ratio", f"{AXOLOTL}, {HF}, {FACTORY}"),
    ("weight_decay", "weight_decay", f"{AXOLOTL}, {HF}, {FACTORY}"),
    ("max_grad_norm", "max_grad_norm", f"{AXOLOTL}, {HF}, {FACTORY}"),
    ("clip_grad_norm", "max_grad_norm", TORCHTUNE),
    ("max_length", "max_length", "TRL"),
    ("cutoff_len", "max_length", FACTORY),
    ("sequence_len", "max_length", AXOLOTL),
    ("max_seq_length", "max_length", f"TRL, {UNSLOTH}"),
    ("max_seq_len", "max_length", TORCHTUNE),
    ("model_max_length", "max_length", "transformers"),
    ("precision", "precision", "various"),
    ("gradient_checkpointing", "gradient_checkpointing", f"{AXOLOTL}, {HF}, {FACTORY}"),
    ("enable_activation_checkpointing", "gradient_checkpointing", TORCHTUNE),
    ("padding_free", "padding_free", "TRL"),
    ("save_steps", "checkpoint_every_steps", f"{HF}, {FACTORY}, {AXOLOTL}"),
    ("save_total_limit", "keep_checkpoints", f"{HF}, {FACTORY}, {AXOLOTL}"),
)


LOOP = (
    *(Alias(name=name, target=f"{TRAINING}.{key}", tools=tools) for name, key, tools in _LOOP_NAMES),
    *(
        Alias(
            name=name,
            target=f"{TRAINING}.padding_free",
            within=("", "fine_tuning", TRAINING),
            tools=tools,
            values={False: NOTHING},
            refused={True: _NO_PACKING},
        )
        for name, tools in (
            ("packing", f"TRL, {FACTORY}, {UNSLOTH}"),
            ("sample_packing", AXOLOTL),
            ("packed", TORCHTUNE),
        )
    ),
    Alias(
        name="max_steps",
        target=f"{TRAINING}.max_steps",
        tools=f"{HF}, {AXOLOTL}, {UNSLOTH}",
        values={-1: NOTHING},
        others_pass=True,
    ),
    Alias(name="lr_scheduler", target=f"{TRAINING}.lr_scheduler", tools=AXOLOTL),
    Alias(
        name="lr_scheduler_type",
        target=f"{TRAINING}.lr_scheduler",
        tools=f"{HF}, {FACTORY}",
        values={"constant_with_warmup": "constant"},
        others_pass=True,
    ),
    Alias(
        name="bf16",
        target=f"{TRAINING}.precision",
        tools=f"{HF}, {AXOLOTL}, {FACTORY}",
        values={True: "bf16", False: "fp32", "auto": "auto", "full": "bf16"},
        yields_to={"fp32": ("auto", "fp16")},
    ),
    Alias(
        name="fp16",
        target=f"{TRAINING}.precision",
        tools=f"{HF}, {AXOLOTL}, {FACTORY}",
        values={True: "fp16", False: "fp32"},
        yields_to={"fp32": ("auto", "bf16")},
    ),
    Alias(
        name="torch_dtype",
        target=f"{TRAINING}.precision",
        tools="TRL",
        values={"auto": "auto", "bfloat16": "bf16", "float16": "fp16", "float32": "fp32"},
    ),
    Alias(
        name="dtype",
        target=f"{TRAINING}.precision",
        tools=f"{TORCHTUNE}, {UNSLOTH}",
        values={
            "auto": "auto",
            "bf16": "bf16",
            "fp16": "fp16",
            "fp32": "fp32",
            "bfloat16": "bf16",
            "float16": "fp16",
            "float32": "fp32",
        },
    ),
    Alias(
        name="mixed_precision",
        target=f"{TRAINING}.precision",
        tools="accelerate",
        values={"bf16": "bf16", "fp16": "fp16", "no": "fp32"},
    ),
    Alias(
        name="use_gradient_checkpointing",
        target=f"{TRAINING}.gradient_checkpointing",
        tools=UNSLOTH,
        values={True: True, False: False, "unsloth": True},
    ),
    Alias(
        name="logging_steps",
        target=f"{TRAINING}.log_every_s",
        tools=HF,
        refused_always="is counted in steps; progress is written by time here: set fine_tuning.training.log_every_s",
    ),
)

WORKERS = (
    Alias(name="distributed_strategy", target=f"{DISTRIBUTED}.strategy", tools="various"),
    Alias(
        name="deepspeed",
        target=f"{DISTRIBUTED}.strategy",
        tools=f"{AXOLOTL}, {HF}, {FACTORY}",
        convert=_stage,
        accepts={"type": "string"},
    ),
    Alias(
        name="zero_stage",
        target=f"{DISTRIBUTED}.strategy",
        tools="accelerate",
        values={1: "deepspeed_zero1", 2: "deepspeed_zero2", 3: "deepspeed_zero3"},
    ),
    Alias(name="num_workers", target=f"{DISTRIBUTED}.workers", tools=RAY),
    Alias(name="num_gpus", target=f"{DISTRIBUTED}.gpus", within=(DISTRIBUTED,), tools="various"),
    Alias(name="nproc_per_node", target=f"{DISTRIBUTED}.gpus", tools="torchrun"),
    Alias(name="nnodes", target=f"{DISTRIBUTED}.nodes", tools="torchrun"),
    Alias(name="num_nodes", target=f"{DISTRIBUTED}.nodes", tools="Lightning"),
)
