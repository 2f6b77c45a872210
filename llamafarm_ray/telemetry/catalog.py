"""All metrics that this package exports; docs/monitoring.md lists them, and a test compares the two."""

from __future__ import annotations

from typing import Final

from llamafarm_ray.telemetry.meters import Meter

__all__ = ["DATA", "EVERY_METER", "REGISTRY", "SERVING", "TRAINING"]

_FIRST_TOKEN_S: Final = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_INTER_TOKEN_S: Final = (0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.5, 1.0)
_LATENCY_S: Final = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
_CHECKPOINT_S: Final = (0.1, 0.5, 1.0, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0)
_RUN: Final = ("model", "run")

SERVING: Final = (
    Meter(
        "llamafarm_requests_total",
        "counter",
        "Requests that reached the engine: answered, refused, failed or cancelled.",
        ("model", "variant", "end"),
    ),
    Meter(
        "llamafarm_errors_total",
        "counter",
        "Requests that failed: a 5xx, or an answer that broke off.",
        ("model", "variant"),
    ),
    Meter(
        "llamafarm_latency_seconds",
        "histogram",
        "From a request's turn at the engine to the end of its answer.",
        bounds=_LATENCY_S,
    ),
    Meter(
        "llamafarm_time_to_first_token_seconds",
        "histogram",
        "From a request's turn at the engine to the first event of a stream.",
        bounds=_FIRST_TOKEN_S,
    ),
    Meter(
        "llamafarm_inter_token_seconds",
        "histogram",
        "Mean gap between the tokens of a stream.",
        bounds=_INTER_TOKEN_S,
    ),
    Meter("llamafarm_prompt_tokens_total", "counter", "Tokens of prompts."),
    Meter("llamafarm_completion_tokens_total", "counter", "Tokens of answers."),
    Meter("llamafarm_queue_length", "gauge", "Requests that wait for their turn at the engine.", ()),
    Meter("llamafarm_adapter_loads_total", "counter", "Loads of an adapter into the engine."),
    Meter(
        "llamafarm_adapter_evictions_total",
        "counter",
        "Adapters that the engine freed: to make room, or because nothing needs them any more.",
        ("model", "reason"),
    ),
    Meter("llamafarm_adapters_loaded", "gauge", "Adapters that the engine holds.", ()),
    Meter("llamafarm_registry_reachable", "gauge", "1 while a replica can read the registry, else 0.", ()),
)
"""Metrics of a replica."""

TRAINING: Final = (
    Meter("llamafarm_training_step", "gauge", "Optimizer steps done.", _RUN),
    Meter("llamafarm_training_total_steps", "gauge", "Optimizer steps of the run.", _RUN),
    Meter("llamafarm_training_loss", "gauge", "Training loss of the last step.", _RUN),
    Meter("llamafarm_training_validation_loss", "gauge", "Loss over the validation rows.", _RUN),
    Meter("llamafarm_training_learning_rate", "gauge", "Learning rate of the last step.", _RUN),
    Meter("llamafarm_training_tokens_per_second", "gauge", "Tokens a second of all workers.", _RUN),
    Meter("llamafarm_training_memory_bytes", "gauge", "Most memory that the first worker has held.", _RUN),
    Meter("llamafarm_training_idle_seconds", "gauge", "Seconds since the run last got on.", _RUN),
    Meter("llamafarm_training_tokens_total", "counter", "Tokens of all workers, padding left out.", _RUN),
    Meter(
        "llamafarm_training_device_seconds_total",
        "counter",
        "Seconds of steps times workers.",
        (*_RUN, "device"),
    ),
    Meter(
        "llamafarm_training_checkpoint_seconds",
        "histogram",
        "Time to write a checkpoint.",
        _RUN,
        bounds=_CHECKPOINT_S,
    ),
    Meter("llamafarm_training_alerts_total", "counter", "Alerts of a run, by kind.", (*_RUN, "kind")),
)
"""Metrics of a run's first worker."""

REGISTRY: Final = (
    Meter("llamafarm_registry_sequence", "gauge", "Number of the newest commit.", ()),
    Meter("llamafarm_registry_versions", "gauge", "Versions that are not retired.", ("namespace", "kind")),
    Meter("llamafarm_registry_stored_bytes", "gauge", "Files of versions that are not retired.", ("namespace",)),
    Meter("llamafarm_registry_datasets", "gauge", "Registered datasets.", ()),
    Meter("llamafarm_registry_commits_total", "counter", "Commits that the actor took in.", ()),
    Meter("llamafarm_registry_refusals_total", "counter", "Refusals in the audit trail.", ("action",)),
    Meter("llamafarm_rollout_percent", "gauge", "Share of requests that a candidate gets.", ("model", "alias")),
    Meter(
        "llamafarm_rollout_overdue_seconds",
        "gauge",
        "Seconds that a rollout's step has lasted beyond the time in its plan.",
        ("model", "alias"),
    ),
)
"""Metrics of the registry's actor."""

DATA: Final = (
    Meter("llamafarm_dataset_done", "gauge", "Things that a stage of a build is done with.", ("dataset", "stage")),
    Meter("llamafarm_dataset_expected", "gauge", "All things of a stage, where known.", ("dataset", "stage")),
)
"""Metrics of a dataset's build, by its driver."""

EVERY_METER: Final = (*SERVING, *TRAINING, *REGISTRY, *DATA)
"""All there are."""
