"""Custom evaluations by name: a JSONL of questions, or a YAML or JSON file that describes one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, Final

from pydantic import Field, ValidationError

from llamafarm_ray.config.loading.reading import read_file
from llamafarm_ray.config.sections.base import Section
from llamafarm_ray.errors import InputError, did_you_mean
from llamafarm_ray.evaluation.custom.questions import is_list_of_objects, read_questions
from llamafarm_ray.evaluation.custom.scorer import OwnScorer
from llamafarm_ray.evaluation.custom.sets import CustomSet
from llamafarm_ray.evaluation.general import GENERAL
from llamafarm_ray.evaluation.metrics.registry import METRICS
from llamafarm_ray.evaluation.metrics.structured import check_schema
from llamafarm_ray.evaluation.rag.exam import MODES

__all__ = ["Description", "find_file", "find_set", "find_sets", "read_description"]

FOLDER: Final = Path("evaluations")
"""Names without a path are looked for here, below the current directory."""
_OWN_RESULTS: Final = ("held_out", GENERAL, *MODES)
"""Names of the results of held-out examples, general texts and questions."""
_ENDINGS: Final = (".yaml", ".yml", ".json", ".jsonl")
_NEEDED: Final = {
    "json_valid": "schema",
    "tool_call_accuracy": "calls",
    "faithfulness": "context",
    "context_use": "context",
}
"""Fields that rows need beside, or in place of, accepted answers, by metric."""
_IS_USABLE: Final[Mapping[str, Callable[[object], bool]]] = {
    "schema": lambda value: isinstance(value, Mapping | bool),
    "calls": is_list_of_objects,
    "context": lambda value: bool(value) and all(isinstance(one, str) for one in _listed(value)),
}
_NEED_NO_ANSWERS: Final = ("json_valid", "tool_call_accuracy", "faithfulness")
_RANKINGS: Final = ("hit_rate", "mrr", "ndcg")
_SCORERS: Final = tuple(
    name
    for name, metric in METRICS.items()
    if metric.each is not None and metric.higher_is_better is True and name not in _RANKINGS
)


def _listed(value: object) -> list[object]:
    return value if isinstance(value, list) else [value]


class Description(Section):
    """A custom evaluation as its file describes it."""

    questions: str = Field(min_length=1, description="JSONL file; a relative one starts at this file's folder.")
    scorer: str = Field(default="contains", min_length=1, description="A metric, module:function or file.py:function.")
    must_pass: bool = Field(default=False, description="A regression set: every answer has to be right.")
    system: str | None = Field(default=None, min_length=1, description="Instructions before every question.")
    max_new_tokens: int | None = Field(default=None, ge=1, description="Longest answer; unset: the evaluation's.")
    time_limit_s: float = Field(default=60, gt=0, description="For a scorer of your own, for all answers together.")


def find_sets(
    names: Iterable[str], *, taken: Iterable[str] = (), files: Mapping[str, Path] | None = None
) -> tuple[CustomSet, ...]:
    """Return the custom evaluations of some names; see `find_set`.

    Args:
        taken: names of other results.
        files: files of registered sets by name.

    Raises:
        InputError: one of them is unusable, or two would have the same name among the results.
    """
    known = files or {}
    found = tuple(find_set(name, known.get(name)) for name in names)
    named = Counter(one.name for one in found)
    for name, number in named.items():
        if number > 1 or name in {*taken, *_OWN_RESULTS}:
            raise InputError(f"Two results would be called {name!r}.", hint="Rename a file of a custom evaluation.")
    return found


def find_set(name: str, file: Path | None = None) -> CustomSet:
    """Return the custom evaluation of a name, or of a file's path.

    ``domain_specific_qa`` is ``evaluations/domain_specific_qa.yaml`` (or ``.yml``, ``.json``, ``.jsonl``).

    Args:
        name: the name, or the path.
        file: its file, where it is registered under the name; None: it is looked for.

    Raises:
        InputError: there is no such file, or it is unusable.
    """
    path = file or find_file(name)
    if path is None:
        raise _missing(name)
    short = path.stem if file is None else PurePosixPath(name.partition("@")[0]).name
    if path.suffix == ".jsonl":
        return CustomSet(short, tuple(read_questions(path)))
    described = read_description(path)
    scorer = _scorer(described, path)
    questions = read_questions(
        path.parent / Path(described.questions).expanduser(),
        system=described.system,
        needs_answers=isinstance(scorer, str) and scorer not in _NEED_NO_ANSWERS,
        check=partial(_check_row, metric=scorer) if isinstance(scorer, str) and scorer in _NEEDED else None,
    )
    return CustomSet(short, tuple(questions), scorer, described.must_pass, described.max_new_tokens)


def _check_row(row: Mapping[str, Any], where: str, metric: str) -> None:
    """Refuse a row that lacks a metric's inputs."""
    key = _NEEDED[metric]
    if not _IS_USABLE[key](row.get(key)):
        raise InputError(
            f"{where} has no usable {key!r}, which {metric} needs.", hint="Mend the row, or name another scorer."
        )
    if key == "schema":
        try:
            check_schema(row[key])
        except InputError as error:
            raise InputError(f"{where}: {error.message}", hint=error.hint) from None


def find_file(name: str) -> Path | None:
    """Return the file of a custom evaluation; None if there is none."""
    given = Path(name).expanduser()
    if given.suffix in _ENDINGS:
        return given if given.is_file() else None
    return next((path for ending in _ENDINGS if (path := FOLDER / f"{name}{ending}").is_file()), None)


def _missing(name: str) -> InputError:
    if Path(name).suffix in _ENDINGS:
        return InputError(f"There is no file {name} of a custom evaluation.")
    known = {path.stem for path in FOLDER.glob("*") if path.suffix in _ENDINGS}
    return InputError(
        f"There is no custom evaluation {name!r}: neither {FOLDER / name}.jsonl nor {FOLDER / name}.yaml is a file, "
        "and no evaluation set of that name is registered.",
        hint=did_you_mean(name, known) if known else "Give its questions there, or name a file.",
    )


def read_description(path: Path) -> Description:
    """Read the file that describes a custom evaluation.

    Raises:
        InputError: it can't be read, or has other keys.
    """
    try:
        return Description.model_validate(dict(read_file(path)))
    except ValidationError as error:
        lines = "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors())
        raise InputError(
            f"{path} describes no custom evaluation: {lines}.",
            hint=f"Its keys are {', '.join(Description.model_fields)}.",
        ) from None


def _scorer(described: Description, path: Path) -> str | OwnScorer:
    if ":" not in described.scorer:
        if described.scorer not in _SCORERS:
            hint = f"{did_you_mean(described.scorer, _SCORERS)} Or write module:function or file.py:function."
            raise InputError(f"{path} names the scorer {described.scorer!r}, which can't score answers.", hint=hint)
        return described.scorer
    reference = described.scorer
    where, _, function = reference.rpartition(":")
    if where.endswith(".py"):
        reference = f"{path.parent / Path(where).expanduser()}:{function}"
    return OwnScorer.find(reference, time_limit_s=described.time_limit_s)
