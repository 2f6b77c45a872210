"""The program that calls a user's scorer: a request on standard input, scores in a file. It imports nothing of ours."""

from __future__ import annotations

import importlib
import json
import os
import sys
from pathlib import Path
from typing import Any


def main() -> None:
    """Score every pair of the request."""
    sys.path[:] = [os.getcwd(), *(entry for entry in sys.path if entry != str(Path(__file__).parent))]  # noqa: PTH109
    asked = json.load(sys.stdin)
    score = _function(asked)
    results = [_call(score, pair) for pair in asked["pairs"]]
    Path(sys.argv[1]).write_text(json.dumps(results, default=repr), encoding="utf-8")


def _function(asked: dict[str, str]) -> object:
    if asked["module"]:
        return getattr(importlib.import_module(asked["module"]), asked["function"])
    namespace: dict[str, object] = {"__name__": "llamafarm_scorer"}
    exec(compile(asked["code"], "scorer.py", "exec"), namespace)  # noqa: S102 (the user's own code, as they asked)
    return namespace[asked["function"]]


def _call(score: Any, pair: dict[str, Any]) -> dict[str, object]:
    try:
        return {"value": score(pair["answer"], pair["row"])}
    except Exception as error:  # noqa: BLE001 (the user's own code; the error is reported)
        return {"error": f"{type(error).__name__}: {error}"}


if __name__ == "__main__":
    main()
