"""Aliases of places in the file, of the model, data, measurements and serving."""

from __future__ import annotations

from llamafarm_ray.config.aliases.alias import Alias
from llamafarm_ray.config.aliases.names import (
    AXOLOTL,
    FACTORY,
    HF,
    LUDWIG,
    OWN,
    PARAMETERS,
    PEFT,
    RAY,
    TRAINING,
    UNSLOTH,
    VLLM,
)

__all__ = ["DATA", "MEASURES", "MODEL", "PLACES", "SERVING"]

PLACES = (
    Alias(name="model_config", target="", within=("",), tools=OWN),
    Alias(name="training_job", target="fine_tuning", within=("",), tools=OWN),
    Alias(name="base_model", target="base_model", within=("fine_tuning",), tools=OWN),
    Alias(name="dataset", target="dataset", within=("fine_tuning",), tools=OWN),
    Alias(name="evaluation", target="evaluation", within=("fine_tuning",), tools=OWN),
    Alias(name="monitoring", target="monitoring", within=("fine_tuning",), tools=OWN),
    Alias(name="quality_control", target="dataset.quality_control", within=("",), tools=OWN),
    Alias(name="trainer", target=TRAINING, within=("",), tools=LUDWIG),
    Alias(name="adapter", target=PARAMETERS, within=("",), tools=LUDWIG),
    Alias(name="autoscaling_config", target="deployment.auto_scaling", within=("deployment",), tools=f"{RAY} Serve"),
)

MODEL = (
    Alias(name="model_name_or_path", target="base_model", tools=f"{HF}, {FACTORY}"),
    Alias(name="base_model_name", target="base_model", tools="various"),
    Alias(name="base_model_name_or_path", target="base_model", tools=PEFT),
    Alias(name="model_name", target="base_model", tools=UNSLOTH),
    Alias(name="pretrained_model_name_or_path", target="base_model", tools="transformers"),
    Alias(name="data_seed", target="seed", tools=HF),
    Alias(name="random_state", target="seed", tools=UNSLOTH),
    Alias(name="random_seed", target="seed", tools=LUDWIG),
    Alias(name="ray_address", target="cluster.address", tools=RAY),
)

DATA = (
    Alias(name="dataset_path", target="dataset.path", tools="various"),
    Alias(name="val_set_size", target="dataset.validation.split_ratio", tools=AXOLOTL),
    Alias(name="val_size", target="dataset.validation.split_ratio", tools=FACTORY),
    Alias(
        name="datasets",
        target="dataset",
        within=("",),
        tools=AXOLOTL,
        refused_always="is read from the file that has it: set dataset.path to that Axolotl configuration",
    ),
)

MEASURES = (
    Alias(name="tasks", target="evaluation.benchmarks", within=("evaluation",), tools="lm-eval"),
    Alias(name="limit", target="evaluation.max_examples", within=("evaluation",), tools="lm-eval"),
    Alias(name="max_eval_samples", target="evaluation.max_examples", tools="transformers"),
    Alias(name="mlflow_tracking_uri", target="monitoring.mlflow_uri", tools=AXOLOTL),
    Alias(name="mlflow_uri", target="monitoring.mlflow_uri", tools="various"),
    Alias(name="wandb_project", target="monitoring.wandb_project", tools=AXOLOTL),
    Alias(name="use_tensorboard", target="monitoring.tensorboard", tools=AXOLOTL),
    Alias(
        name="report_to",
        target="monitoring.tensorboard",
        tools=HF,
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
        tools=HF,
        refused_always="can't be chosen: TensorBoard events are written beside the trained model, in tensorboard/",
    ),
    Alias(
        name="output_dir",
        target="home",
        tools=f"{HF}, {AXOLOTL}",
        refused_always="belongs to the command line: give --output, or set home for everything that lasts",
    ),
)

SERVING = (
    Alias(name="num_replicas", target="deployment.replicas", within=("deployment",), tools=f"{RAY} Serve"),
    Alias(name="lora_modules", target="deployment.adapters", within=("deployment",), tools=VLLM),
    Alias(
        name="gpu_memory_utilization",
        target="deployment.engine_kwargs.gpu_memory_utilization",
        within=("deployment",),
        tools=VLLM,
    ),
    Alias(name="enforce_eager", target="deployment.engine_kwargs.enforce_eager", within=("deployment",), tools=VLLM),
    Alias(name="max_model_len", target="deployment.max_model_len", tools=VLLM),
    Alias(name="max_loras", target="deployment.max_loras", tools=VLLM),
    Alias(name="max_lora_rank", target="deployment.max_lora_rank", tools=VLLM),
)
