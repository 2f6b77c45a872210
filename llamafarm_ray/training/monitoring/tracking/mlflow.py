"""MLflow: a tracking server, or its own store in a database."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

from llamafarm_ray.training.monitoring.tracking.base import Ending, Record, RunInfo, flat

__all__ = ["MlflowTracker"]

_Item = TypeVar("_Item")

_RUN_ID_TAG = "llamafarm.run_id"
_MAX_PARAMETERS = 100  # in one request
_MAX_METRICS = 1000  # in one request
_MAX_VALUE_CHARS = 6000  # of a parameter; a tag may have 8000
# MLflow's own patience is 120 s a request, tried 8 times.
_PATIENCE = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "10", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2"}
_STATUS = {"finished": "FINISHED", "stopped": "FINISHED", "failed": "FAILED"}


class MlflowTracker:
    """Writes to an MLflow run. Every attempt continues the run that carries the same id as a tag.

    Args:
        uri: tracking server or store, such as ``http://host:5000`` or ``sqlite:///runs.db``.
        experiment: made if there is none of that name.
    """

    def __init__(self, info: RunInfo, *, uri: str, experiment: str) -> None:
        for name, value in _PATIENCE.items():
            os.environ.setdefault(name, value)
        from mlflow.entities import Param, RunTag  # an extra, and slow to import
        from mlflow.tracking import MlflowClient

        self._client: Any = MlflowClient(tracking_uri=uri)
        experiment_id = self._find_experiment(experiment)
        found = self._client.search_runs(
            [experiment_id], filter_string=f"tags.`{_RUN_ID_TAG}` = '{info.run_id}'", max_results=1
        )
        if found:
            self._run_id = found[0].info.run_id
            self._client.update_run(self._run_id, status="RUNNING")
            return
        made = self._client.create_run(experiment_id, run_name=info.name, tags={_RUN_ID_TAG: info.run_id})
        self._run_id = made.info.run_id
        parameters = [Param(key, value[:_MAX_VALUE_CHARS]) for key, value in flat(info.config).items()]
        for part in _parts(parameters, _MAX_PARAMETERS):
            self._client.log_batch(self._run_id, params=part)
        tags = [RunTag(f"llamafarm.{key}", value[:_MAX_VALUE_CHARS]) for key, value in flat(info.facts).items()]
        for some in _parts(tags, _MAX_PARAMETERS):
            self._client.log_batch(self._run_id, tags=some)

    def _find_experiment(self, name: str) -> str:
        from mlflow.exceptions import MlflowException

        found = self._client.get_experiment_by_name(name)
        if found is None:
            try:
                return str(self._client.create_experiment(name))
            except MlflowException:  # another run made it meanwhile
                found = self._client.get_experiment_by_name(name)
                if found is None:
                    raise
        return str(found.experiment_id)

    def log(self, records: Sequence[Record]) -> None:
        """Write the numbers in as few requests as MLflow allows."""
        from mlflow.entities import Metric

        now_ms = int(time.time() * 1000)
        metrics = [
            Metric(name, value, now_ms, record.step) for record in records for name, value in record.values.items()
        ]
        for part in _parts(metrics, _MAX_METRICS):
            self._client.log_batch(self._run_id, metrics=part)

    def close(self, ending: Ending) -> None:
        """Mark the run, unless another attempt will go on with it."""
        for key, value in flat({**ending.facts, "outcome": ending.outcome}).items():
            self._client.set_tag(self._run_id, f"llamafarm.{key}", value[:_MAX_VALUE_CHARS])
        if ending.outcome in _STATUS:
            self._client.set_terminated(self._run_id, _STATUS[ending.outcome])


def _parts(items: Iterable[_Item], size: int) -> Iterable[list[_Item]]:
    rest = iter(items)
    while part := list(itertools.islice(rest, size)):
        yield part
