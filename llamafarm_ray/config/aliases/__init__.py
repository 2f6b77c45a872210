"""The table of other spellings: keys of widely used tools, and the older places of our own keys.

Every row is data; :mod:`llamafarm_ray.config.alias` says what its columns mean. A plain name is read at the root and in
every section around its target, so ``lora_r`` works at the top of a file and inside of ``fine_tuning``.
"""

from __future__ import annotations

from typing import Any, Final

from llamafarm_ray.config.alias import NOTHING, Alias, AliasRefusalError, Undecided

__all__ = ["ALIASES"]

_OWN = "earlier configurations"
_AXOLOTL = "Axolotl"
_FACTORY = "LLaMA-Factory"
_HF = "transformers, TRL"
_PEFT = "PEFT, TRL"
_TORCHTUNE = "torchtune"
_UNSLOTH = "Unsloth"
_LUDWIG = "Ludwig"
_RAY = "Ray"
_VLLM = "vLLM"

_METHOD = "fine_tuning.method"
_OBJECTIVE = "fine_tuning.objective"
_PARAMETERS = "fine_tuning.parameters"
_TRAINING = "fine_tuning.training"
_DISTRIBUTED = "fine_tuning.distributed"

_NOT_4_BIT = Undecided(
    "rules out 4-bit weights, and not more: set fine_tuning.method to lora or full",
    ("lora", "full", "adapter", "prefix_tuning", "hybrid_lora_adapter"),
)
_EVERY_OTHER_PRECISION = ("auto", "bf16", "fp16")
_NO_8_BIT = "8-bit base weights are not available; use 4 bits (method qlora), or none (method lora)"
_NO_PACKING = (
    "filling sequences up to the longest length, which makes fewer and larger steps, is not available; "
    "fine_tuning.training.padding_free leaves out padding, and batch_size says how many rows a step has"
)
_NO_PATH = "must name a ZeRO stage such as zero2 (fine_tuning.distributed.strategy); a DeepSpeed file is not read"


def _layer_names(value: Any) -> Any:
    """LLaMA-Factory writes lists of layers as one text with commas, and ``all`` for every linear layer."""
    if not isinstance(value, str):
        return value
    if value in ("all", "all-linear", "auto"):
        return "all-linear" if value == "all" else value
    names = [name.strip() for name in value.split(",")]
    if not all(names):
        raise AliasRefusalError(f"must be 'all' or layer names with commas between them, not {value[:80]!r}")
    return names


def _stage(value: Any) -> Any:
    """DeepSpeed's stages have many names, which all end in the stage's number."""
    known = {
        f"{form}{stage}" for form in ("zero", "zero_", "stage", "stage_", "deepspeed_stage_") for stage in (1, 2, 3)
    }
    own = {f"deepspeed_zero{stage}" for stage in (1, 2, 3)}
    if isinstance(value, str) and value.lower() in known | own:
        return f"deepspeed_zero{value[-1]}"
    raise AliasRefusalError(f"{_NO_PATH}; it is {ascii(value)[:80]}")


_LAYERS_SCHEMA: Final = {"anyOf": [{"type": "string", "minLength": 1}, {"type": "array", "items": {"type": "string"}}]}

_PLACES = (
    Alias(name="model_config", target="", within=("",), tools=_OWN),
    Alias(name="training_job", target="fine_tuning", within=("",), tools=_OWN),
    Alias(name="base_model", target="base_model", within=("fine_tuning",), tools=_OWN),
    Alias(name="dataset", target="dataset", within=("fine_tuning",), tools=_OWN),
    Alias(name="evaluation", target="evaluation", within=("fine_tuning",), tools=_OWN),
    Alias(name="monitoring", target="monitoring", within=("fine_tuning",), tools=_OWN),
    Alias(name="quality_control", target="dataset.quality_control", within=("",), tools=_OWN),
    Alias(name="trainer", target=_TRAINING, within=("",), tools=_LUDWIG),
    Alias(name="adapter", target=_PARAMETERS, within=("",), tools=_LUDWIG),
    Alias(name="autoscaling_config", target="deployment.auto_scaling", within=("deployment",), tools=f"{_RAY} Serve"),
)

_MODEL = (
    Alias(name="model_name_or_path", target="base_model", tools=f"{_HF}, {_FACTORY}"),
    Alias(name="base_model_name", target="base_model", tools="various"),
    Alias(name="base_model_name_or_path", target="base_model", tools=_PEFT),
    Alias(name="model_name", target="base_model", tools=_UNSLOTH),
    Alias(name="pretrained_model_name_or_path", target="base_model", tools="transformers"),
    Alias(name="data_seed", target="seed", tools=_HF),
    Alias(name="random_state", target="seed", tools=_UNSLOTH),
    Alias(name="random_seed", target="seed", tools=_LUDWIG),
    Alias(name="ray_address", target="cluster.address", tools=_RAY),
)

_METHODS = (
    Alias(name="method", target=_METHOD, tools="various"),
    Alias(
        name="adapter",
        target=_METHOD,
        tools=_AXOLOTL,
        values={"lora": "lora", "qlora": "qlora", None: "full"},
        yields_to={"lora": ("qlora",)},
    ),
    Alias(
        name="type",
        target=_METHOD,
        within=(_PARAMETERS,),
        tools=_LUDWIG,
        values={"lora": "lora"},
        refused={"adalora": "only lora is available", "ia3": "only lora is available"},
        yields_to={"lora": ("qlora",)},
    ),
    Alias(
        name="finetuning_type",
        target=_METHOD,
        tools=_FACTORY,
        values={"lora": "lora", "full": "full"},
        refused={
            "freeze": "training some layers and freezing the others is not available; use lora or full",
            "oft": "orthogonal fine-tuning is not available; use lora or full",
        },
        yields_to={"lora": ("qlora",)},
    ),
    Alias(
        name="use_peft",
        target=_METHOD,
        tools="TRL",
        values={True: "lora", False: "full"},
        yields_to={"lora": ("qlora",)},
    ),
    Alias(
        name="load_in_4bit",
        target=_METHOD,
        tools=f"{_AXOLOTL}, {_UNSLOTH}, TRL",
        values={True: "qlora", False: _NOT_4_BIT},
    ),
    Alias(
        name="load_in_8bit",
        target=_METHOD,
        tools=f"{_AXOLOTL}, TRL",
        values={False: NOTHING},
        refused={True: _NO_8_BIT},
    ),
    Alias(name="quantization_bit", target=_METHOD, tools=_FACTORY, values={4: "qlora"}, refused={8: _NO_8_BIT}),
    Alias(name="objective", target=_OBJECTIVE, tools="various"),
    Alias(
        name="stage",
        target=_OBJECTIVE,
        tools=_FACTORY,
        values={"sft": "sft", "dpo": "dpo", "kto": "kto", "pt": "pretraining"},
        refused={"rm": "reward models are not trained here", "ppo": "online reinforcement learning is not available"},
    ),
    Alias(name="rl", target=_OBJECTIVE, tools=_AXOLOTL, values={"dpo": "dpo", "kto": "kto"}),
)

_LORA = (
    Alias(name="r", target=f"{_PARAMETERS}.r", tools=_UNSLOTH),
    Alias(name="lora_r", target=f"{_PARAMETERS}.r", tools=f"{_AXOLOTL}, TRL"),
    Alias(
        name="lora_rank",
        target=f"{_PARAMETERS}.r",
        tools=f"{_FACTORY}, {_TORCHTUNE}",
    ),
    Alias(name="rank", target=f"{_PARAMETERS}.r", within=(_PARAMETERS,), tools="various"),
    Alias(
        name="lora_alpha", target=f"{_PARAMETERS}.lora_alpha", tools=f"{_AXOLOTL}, {_FACTORY}, {_PEFT}, {_TORCHTUNE}"
    ),
    Alias(name="alpha", target=f"{_PARAMETERS}.lora_alpha", within=(_PARAMETERS,), tools=_LUDWIG),
    Alias(name="lora_dropout", target=f"{_PARAMETERS}.lora_dropout", tools=f"{_AXOLOTL}, {_FACTORY}, {_PEFT}"),
    Alias(name="dropout", target=f"{_PARAMETERS}.lora_dropout", within=(_PARAMETERS,), tools=_LUDWIG),
    Alias(name="target_modules", target=f"{_PARAMETERS}.target_modules", tools=f"PEFT, {_UNSLOTH}"),
    Alias(
        name="lora_target_modules",
        target=f"{_PARAMETERS}.target_modules",
        tools=f"{_AXOLOTL}, TRL",
    ),
    Alias(
        name="lora_target",
        target=f"{_PARAMETERS}.target_modules",
        tools=_FACTORY,
        convert=_layer_names,
        accepts=_LAYERS_SCHEMA,
    ),
    Alias(
        name="lora_target_linear",
        target=f"{_PARAMETERS}.target_modules",
        tools=_AXOLOTL,
        values={True: "all-linear", False: NOTHING},
    ),
    Alias(name="lora_attn_modules", target=f"{_PARAMETERS}.target_modules", tools=_TORCHTUNE),
    Alias(name="use_rslora", target=f"{_PARAMETERS}.use_rslora", tools=f"{_PEFT}, {_FACTORY}, {_UNSLOTH}"),
    Alias(name="use_dora", target=f"{_PARAMETERS}.use_dora", tools=f"{_PEFT}, {_FACTORY}"),
    Alias(name="double_quantization", target=f"{_PARAMETERS}.double_quantization", tools=_FACTORY),
    Alias(name="use_bnb_nested_quant", target=f"{_PARAMETERS}.double_quantization", tools="TRL"),
    Alias(name="bnb_4bit_use_double_quant", target=f"{_PARAMETERS}.double_quantization", tools="transformers"),
    Alias(name="quantization_type", target=f"{_PARAMETERS}.quantization_type", tools=_FACTORY),
    Alias(name="bnb_4bit_quant_type", target=f"{_PARAMETERS}.quantization_type", tools=_HF),
)

_LOOP_NAMES = (
    # name, key in fine_tuning.training, tools
    ("epochs", "epochs", f"{_TORCHTUNE}, {_LUDWIG}"),
    ("num_epochs", "epochs", _AXOLOTL),
    ("num_train_epochs", "epochs", f"{_HF}, {_FACTORY}, {_UNSLOTH}"),
    ("n_epochs", "epochs", "OpenAI"),
    ("batch_size", "batch_size", f"{_TORCHTUNE}, {_LUDWIG}"),
    ("micro_batch_size", "batch_size", _AXOLOTL),
    ("per_device_train_batch_size", "batch_size", f"{_HF}, {_FACTORY}, {_UNSLOTH}"),
    ("train_micro_batch_size_per_gpu", "batch_size", "DeepSpeed"),
    ("gradient_accumulation_steps", "gradient_accumulation_steps", f"{_AXOLOTL}, {_HF}, {_FACTORY}, {_TORCHTUNE}"),
    ("gradient_accumulation", "gradient_accumulation_steps", "various"),
    ("learning_rate", "learning_rate", f"{_AXOLOTL}, {_HF}, {_FACTORY}, {_LUDWIG}"),
    ("lr", "learning_rate", _TORCHTUNE),
    ("warmup_steps", "warmup_steps", f"{_AXOLOTL}, {_HF}, {_FACTORY}"),
    ("num_warmup_steps", "warmup_steps", _TORCHTUNE),
    ("warmup_ratio", "warmup_ratio", f"{_AXOLOTL}, {_HF}, {_FACTORY}"),
    ("weight_decay", "weight_decay", f"{_AXOLOTL}, {_HF}, {_FACTORY}"),
    ("max_grad_norm", "max_grad_norm", f"{_AXOLOTL}, {_HF}, {_FACTORY}"),
    ("clip_grad_norm", "max_grad_norm", _TORCHTUNE),
    ("max_length", "max_length", "TRL"),
    ("cutoff_len", "max_length", _FACTORY),
    ("sequence_len", "max_length", _AXOLOTL),
    ("max_seq_length", "max_length", f"TRL, {_UNSLOTH}"),
    ("max_seq_len", "max_length", _TORCHTUNE),
    ("model_max_length", "max_length", "transformers"),
    ("precision", "precision", "various"),
    ("gradient_checkpointing", "gradient_checkpointing", f"{_AXOLOTL}, {_HF}, {_FACTORY}"),
    ("enable_activation_checkpointing", "gradient_checkpointing", _TORCHTUNE),
    ("padding_free", "padding_free", "TRL"),
    ("save_steps", "checkpoint_every_steps", f"{_HF}, {_FACTORY}, {_AXOLOTL}"),
    ("save_total_limit", "keep_checkpoints", f"{_HF}, {_FACTORY}, {_AXOLOTL}"),
)


_LOOP = (
    *(Alias(name=name, target=f"{_TRAINING}.{key}", tools=tools) for name, key, tools in _LOOP_NAMES),
    *(
        Alias(
            name=name,
            target=f"{_TRAINING}.padding_free",
            within=("", "fine_tuning", _TRAINING),
            tools=tools,
            values={False: NOTHING},
            refused={True: _NO_PACKING},
        )
        for name, tools in (
            ("packing", f"TRL, {_FACTORY}, {_UNSLOTH}"),
            ("sample_packing", _AXOLOTL),
            ("packed", _TORCHTUNE),
        )
    ),
    Alias(
        name="max_steps",
        target=f"{_TRAINING}.max_steps",
        tools=f"{_HF}, {_AXOLOTL}, {_UNSLOTH}",
        values={-1: NOTHING},
        others_pass=True,
    ),
    Alias(name="lr_scheduler", target=f"{_TRAINING}.lr_scheduler", tools=_AXOLOTL),
    Alias(
        name="lr_scheduler_type",
        target=f"{_TRAINING}.lr_scheduler",
        tools=f"{_HF}, {_FACTORY}",
        values={"constant_with_warmup": "constant"},
        others_pass=True,
    ),
    Alias(
        name="bf16",
        target=f"{_TRAINING}.precision",
        tools=f"{_HF}, {_AXOLOTL}, {_FACTORY}",
        values={True: "bf16", False: "fp32", "auto": "auto", "full": "bf16"},
        yields_to={"fp32": ("auto", "fp16")},
    ),
    Alias(
        name="fp16",
        target=f"{_TRAINING}.precision",
        tools=f"{_HF}, {_AXOLOTL}, {_FACTORY}",
        values={True: "fp16", False: "fp32"},
        yields_to={"fp32": ("auto", "bf16")},
    ),
    Alias(
        name="torch_dtype",
        target=f"{_TRAINING}.precision",
        tools="TRL",
        values={"auto": "auto", "bfloat16": "bf16", "float16": "fp16", "float32": "fp32"},
    ),
    Alias(
        name="dtype",
        target=f"{_TRAINING}.precision",
        tools=f"{_TORCHTUNE}, {_UNSLOTH}",
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
        target=f"{_TRAINING}.precision",
        tools="accelerate",
        values={"bf16": "bf16", "fp16": "fp16", "no": "fp32"},
    ),
    Alias(
        name="use_gradient_checkpointing",
        target=f"{_TRAINING}.gradient_checkpointing",
        tools=_UNSLOTH,
        values={True: True, False: False, "unsloth": True},
    ),
    Alias(
        name="logging_steps",
        target=f"{_TRAINING}.log_every_s",
        tools=_HF,
        refused_always="is counted in steps; progress is written by time here: set fine_tuning.training.log_every_s",
    ),
)

_WORKERS = (
    Alias(name="distributed_strategy", target=f"{_DISTRIBUTED}.strategy", tools="various"),
    Alias(
        name="deepspeed",
        target=f"{_DISTRIBUTED}.strategy",
        tools=f"{_AXOLOTL}, {_HF}, {_FACTORY}",
        convert=_stage,
        accepts={"type": "string"},
    ),
    Alias(
        name="zero_stage",
        target=f"{_DISTRIBUTED}.strategy",
        tools="accelerate",
        values={1: "deepspeed_zero1", 2: "deepspeed_zero2", 3: "deepspeed_zero3"},
    ),
    Alias(name="num_workers", target=f"{_DISTRIBUTED}.workers", tools=_RAY),
    Alias(name="num_gpus", target=f"{_DISTRIBUTED}.gpus", within=(_DISTRIBUTED,), tools="various"),
    Alias(name="nproc_per_node", target=f"{_DISTRIBUTED}.gpus", tools="torchrun"),
    Alias(name="nnodes", target=f"{_DISTRIBUTED}.nodes", tools="torchrun"),
    Alias(name="num_nodes", target=f"{_DISTRIBUTED}.nodes", tools="Lightning"),
)

_DATA = (
    Alias(name="dataset_path", target="dataset.path", tools="various"),
    Alias(name="val_set_size", target="dataset.validation.split_ratio", tools=_AXOLOTL),
    Alias(name="val_size", target="dataset.validation.split_ratio", tools=_FACTORY),
    Alias(
        name="datasets",
        target="dataset",
        within=("",),
        tools=_AXOLOTL,
        refused_always="is read from the file that has it: set dataset.path to that Axolotl configuration",
    ),
)

_MEASURES = (
    Alias(name="tasks", target="evaluation.benchmarks", within=("evaluation",), tools="lm-eval"),
    Alias(name="limit", target="evaluation.max_examples", within=("evaluation",), tools="lm-eval"),
    Alias(name="max_eval_samples", target="evaluation.max_examples", tools="transformers"),
    Alias(name="mlflow_tracking_uri", target="monitoring.mlflow_uri", tools=_AXOLOTL),
    Alias(name="mlflow_uri", target="monitoring.mlflow_uri", tools="various"),
    Alias(name="wandb_project", target="monitoring.wandb_project", tools=_AXOLOTL),
    Alias(name="use_tensorboard", target="monitoring.tensorboard", tools=_AXOLOTL),
    Alias(
        name="report_to",
        target="monitoring.tensorboard",
        tools=_HF,
        values={"none": False, "tensorboard": True},
        refused={
            "wandb": "set monitoring.wandb_project instead, which names the project too",
            "mlflow": "set monitoring.mlflow_uri instead, which names the server too",
            "all": "name the trackers: monitoring.tensorboard, monitoring.wandb_project, monitoring.mlflow_uri",
        },
    ),
    Alias(
        name="logging_dir",
        target="monitoring.tensorboard",
        tools=_HF,
        refused_always="can't be chosen: TensorBoard events are written beside the trained model, in tensorboard/",
    ),
    Alias(
        name="output_dir",
        target="home",
        tools=f"{_HF}, {_AXOLOTL}",
        refused_always="belongs to the command line: give --output, or set home for everything that lasts",
    ),
)

_SERVING = (
    Alias(name="num_replicas", target="deployment.replicas", within=("deployment",), tools=f"{_RAY} Serve"),
    Alias(name="lora_modules", target="deployment.adapters", within=("deployment",), tools=_VLLM),
    Alias(
        name="gpu_memory_utilization",
        target="deployment.engine_kwargs.gpu_memory_utilization",
        within=("deployment",),
        tools=_VLLM,
    ),
    Alias(name="enforce_eager", target="deployment.engine_kwargs.enforce_eager", within=("deployment",), tools=_VLLM),
    Alias(name="max_model_len", target="deployment.max_model_len", tools=_VLLM),
    Alias(name="max_loras", target="deployment.max_loras", tools=_VLLM),
    Alias(name="max_lora_rank", target="deployment.max_lora_rank", tools=_VLLM),
)

ALIASES: Final = (
    *_PLACES,
    *_MODEL,
    *_METHODS,
    *_LORA,
    *_LOOP,
    *_WORKERS,
    *_DATA,
    *_MEASURES,
    *_SERVING,
)
"""Every other spelling that is read, in the order of the documentation."""
