"""The configuration of the whole line: one strict schema, many accepted spellings, every mistake at once.

Nothing here imports Ray, torch or any engine: reading and checking a configuration costs a fraction of a second.
"""

from llamafarm_ray.config.aliases import ALIASES
from llamafarm_ray.config.aliases.alias import Alias
from llamafarm_ray.config.loading.load import config_digest, load_config, parse_config, recorded, resolved
from llamafarm_ray.config.schema import json_schema
from llamafarm_ray.config.sections.cluster import Cluster
from llamafarm_ray.config.sections.dataset import (
    DatasetConfig,
    DatasetValidation,
    Preprocessing,
    Source,
)
from llamafarm_ray.config.sections.deployment import AutoScaling, Deployment, Resources
from llamafarm_ray.config.sections.evaluation import Evaluation
from llamafarm_ray.config.sections.expansion import Augmentation, SyntheticGeneration
from llamafarm_ray.config.sections.fine_tuning import Distributed, FineTuning, MethodParameters, Training
from llamafarm_ray.config.sections.generation import Endpoint, PairKind, QaGeneration
from llamafarm_ray.config.sections.journal import Journal
from llamafarm_ray.config.sections.limits import Limits
from llamafarm_ray.config.sections.methods import (
    BOTTLENECK_METHODS,
    LORA_METHODS,
    LOW_RANK_METHODS,
    METHODS,
    STRATEGIES,
)
from llamafarm_ray.config.sections.monitoring import AlertEmail, Alerting, Monitoring
from llamafarm_ray.config.sections.quality import (
    PiiControl,
    QualityControl,
    QualityFilters,
    QualityMetrics,
    QualityValidation,
)
from llamafarm_ray.config.sections.rollout import Rollout, RolloutGuards
from llamafarm_ray.config.sections.root import Config
from llamafarm_ray.config.sections.tuning import Domain, Tuning
from llamafarm_ray.config.values import Comparison, Gpu, MemorySize

__all__ = [
    "ALIASES",
    "BOTTLENECK_METHODS",
    "LORA_METHODS",
    "LOW_RANK_METHODS",
    "METHODS",
    "STRATEGIES",
    "AlertEmail",
    "Alerting",
    "Alias",
    "Augmentation",
    "AutoScaling",
    "Cluster",
    "Comparison",
    "Config",
    "DatasetConfig",
    "DatasetValidation",
    "Deployment",
    "Distributed",
    "Domain",
    "Endpoint",
    "Evaluation",
    "FineTuning",
    "Gpu",
    "Journal",
    "Limits",
    "MemorySize",
    "MethodParameters",
    "Monitoring",
    "PairKind",
    "PiiControl",
    "Preprocessing",
    "QaGeneration",
    "QualityControl",
    "QualityFilters",
    "QualityMetrics",
    "QualityValidation",
    "Resources",
    "Rollout",
    "RolloutGuards",
    "Source",
    "SyntheticGeneration",
    "Training",
    "Tuning",
    "config_digest",
    "json_schema",
    "load_config",
    "parse_config",
    "recorded",
    "resolved",
]
