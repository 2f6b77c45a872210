"""Logs as JSON, with the ids of their subjects: run, model, version and request.

``LLAMAFARM_LOG_FORMAT=json`` in the environment of a process has its log written to standard error in this form, a line
each. Without it a record has the ids as attributes, which formatters of others, as Ray Serve's JSON, write too.
"""

from __future__ import annotations

import datetime as dt
import json
import logging
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from types import MappingProxyType
from typing import Final

__all__ = ["FORMAT_VARIABLE", "JsonFormatter", "about", "set_up_logs"]

FORMAT_VARIABLE: Final = "LLAMAFARM_LOG_FORMAT"
_SERVE: Final = "ray.serve.llamafarm"
"""Logger of replicas: below Ray Serve's, so that its lines land in the replica's file."""
_OURS: Final = ("llamafarm_ray", _SERVE)
_IDS: Final = ("run", "model", "version", "request")
_PREFIX: Final = "llamafarm_"
_about: ContextVar[Mapping[str, str]] = ContextVar("llamafarm_log_ids", default=MappingProxyType({}))


@contextmanager
def about(**ids: str) -> Iterator[None]:
    """Attach ids to the log records of a block.

    Args:
        **ids: of ``run``, ``model``, ``version`` and ``request``; an empty one is left out.
    """
    assert set(ids) <= set(_IDS)  # our own calls
    before = _about.set({**_about.get(), **{name: value for name, value in ids.items() if value}})
    try:
        yield
    finally:
        _about.reset(before)


class JsonFormatter(logging.Formatter):
    """One JSON object a record: time, level, logger, message, process, ids, and an error's type and traceback."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record's line."""
        made: dict[str, object] = {
            "time": dt.datetime.fromtimestamp(record.created, dt.UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            "process": record.process,
        }
        made |= {name: getattr(record, _PREFIX + name) for name in _IDS if hasattr(record, _PREFIX + name)}
        if record.exc_info and record.exc_info[0] is not None:
            made["error"] = {"type": record.exc_info[0].__name__, "traceback": self.formatException(record.exc_info)}
        return json.dumps(made, ensure_ascii=False, default=str)


def set_up_logs(environment: Mapping[str, str] | None = None) -> None:
    """Add ids to this process's records and, if the environment asks for it, write them as JSON. May be repeated."""
    make = logging.getLogRecordFactory()
    if not isinstance(make, _WithIds):
        logging.setLogRecordFactory(_WithIds(make))
    wanted = (os.environ if environment is None else environment).get(FORMAT_VARIABLE, "").lower()
    for name in _OURS if wanted == "json" else ():
        logger = logging.getLogger(name)
        if any(isinstance(handler.formatter, JsonFormatter) for handler in logger.handlers):
            continue
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(JsonFormatter())
        logger.addHandler(handler)
        logger.setLevel(min(logger.getEffectiveLevel(), logging.INFO))
        logger.propagate = name == _SERVE  # a replica's own file goes on as it is


class _WithIds:
    """Makes records as before, with the ids where they are ours.

    Args:
        make: the factory before.
    """

    def __init__(self, make: Callable[..., logging.LogRecord]) -> None:
        self._make = make

    def __call__(self, name: str, *args: object, **kwargs: object) -> logging.LogRecord:
        record = self._make(name, *args, **kwargs)
        if name.startswith(_OURS):
            for key, value in _about.get().items():
                setattr(record, _PREFIX + key, value)
        return record
