"""Every configuration block of the documents that this project implements is accepted as it stands."""

import json
from pathlib import Path
from typing import Any

import pytest

from llamafarm_ray.config import Comparison, Config, Gpu, MemorySize, load_config

SEEDS = Path(__file__).parents[1] / "data" / "seeds"


def seed(name: str) -> Config:
    return load_config(SEEDS / f"{name}.json")


def test_enhanced_configuration() -> None:
    config = seed("enhanced")
    assert config.base_model == "meta-llama/Llama-2-7b-hf"
    assert config.fine_tuning.method == "qlora"
    assert config.dataset.source.type == "rag_documents"
    assert config.dataset.format == "auto_generate_qa"
    assert config.dataset.augmentation.enabled
    assert config.evaluation.metrics == ("perplexity", "rag_accuracy")
    assert config.evaluation.holdout_ratio == 0.2
    assert config.dataset.validation.split_ratio == 0.2, "a held-out share is the split's share"


def test_advanced_features() -> None:
    config = seed("advanced")
    assert config.fine_tuning.method == "hybrid_lora_adapter"
    assert config.fine_tuning.distributed.strategy == "deepspeed_zero3"
    assert config.fine_tuning.distributed.num_workers == 16
    assert config.dataset.synthetic_generation.base_model == "gpt-4"
    assert config.dataset.quality_control.min_quality_score == 0.7
    assert config.dataset.quality_control.factual_verification
    assert config.monitoring.wandb_project == "llamafarm_models"
    assert config.monitoring.alerting.quality_degradation == 0.05


def test_unified_schema() -> None:
    config = seed("unified")
    assert config.name == "llamafarm_custom_model_v1"
    assert config.version == "1.0.0"
    assert config.fine_tuning.parameters.r == 16
    assert config.fine_tuning.parameters.target_modules == ("q_proj", "v_proj")
    assert config.fine_tuning.training.learning_rate == 2e-4
    assert config.fine_tuning.training.warmup_steps == 100
    assert config.dataset.source.path == "./rag/data/", "a path stays as it is written"
    assert config.dataset.preprocessing.qa_generation.model == "gpt-4o-mini-turbo"
    assert config.evaluation.benchmarks == ("hellaswag", "mmlu")
    assert config.deployment.resources.gpu == Gpu("1x_a100", 1.0, "a100")
    assert config.deployment.resources.memory == MemorySize("32Gi", 32 * 2**30)
    assert config.deployment.auto_scaling is not None
    assert config.deployment.auto_scaling.cpu_threshold == 80


def test_quality_assurance_pipeline() -> None:
    quality = seed("quality_assurance").dataset.quality_control
    assert quality.filters.minimum_length == 20
    assert quality.filters.language_detection == "en"
    assert quality.validation.coherence_scoring
    assert quality.metrics.diversity_score == Comparison.parse(">0.7")
    assert quality.metrics.coverage_analysis


@pytest.mark.parametrize("path", sorted(SEEDS.glob("*.json")), ids=lambda path: path.stem)
def test_the_same_block_written_as_yaml_means_the_same(path: Any, tmp_path: Any) -> None:
    import yaml

    as_yaml = tmp_path / "config.yaml"
    as_yaml.write_text(yaml.safe_dump(json.loads(path.read_text())))
    assert load_config(as_yaml) == load_config(path)
