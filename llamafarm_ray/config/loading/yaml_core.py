"""A YAML loader for configurations: YAML 1.2's core schema, plain values only, repeated keys noticed.

PyYAML reads YAML 1.1, in which ``2e-4`` is a text, ``no`` is false, ``1:30`` is 90 and ``010`` is 8. A configuration in
which a learning rate silently becomes a text is worse than none, so plain scalars are resolved here by the tables of
https://yaml.org/spec/1.2.2/#103-core-schema.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Hashable, Iterable
from functools import partial
from typing import Any, ClassVar, Self

import yaml
from yaml.constructor import ConstructorError
from yaml.nodes import MappingNode, Node, ScalarNode

__all__ = ["CoreLoader", "Table", "plain_scalar"]

_MAX_ALIASES = 100
_MAX_MERGED_KEYS = 1000
_MAX_DIGITS = 40
_TAG = "tag:yaml.org,2002:"


class Table(dict[Any, object]):
    """A mapping as it was written: it records the keys that were written more than once."""

    def __init__(self, pairs: Iterable[tuple[object, object]] = ()) -> None:
        super().__init__()
        self.repeated: list[object] = []
        for key, value in pairs:
            if key in self and key not in self.repeated:
                self.repeated.append(key)
            self[key] = value

    @classmethod
    def of_pairs(cls, pairs: list[tuple[object, object]]) -> Self:
        """Return a table of pairs; :func:`json.loads` takes this as ``object_pairs_hook``."""
        return cls(pairs)


class CoreLoader(yaml.SafeLoader):
    """Loads mappings (as :class:`Table`), lists, texts, numbers, true, false and null; nothing else."""

    # PyYAML's class-wide tables, empty: nothing of YAML 1.1 is inherited.
    yaml_implicit_resolvers: dict[object, object] = {}  # noqa: RUF012 (PyYAML's stubs forbid ClassVar here)
    yaml_constructors: ClassVar[dict[Any, Any]] = {}

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._num_aliases = 0

    def compose_node(self, parent: Node | None, index: int) -> Node | None:
        """Count the places that repeat an anchor: a few are convenience, many are a bomb."""
        if self.check_event(yaml.AliasEvent):
            self._num_aliases += 1
            if self._num_aliases > _MAX_ALIASES:
                problem = f"more than {_MAX_ALIASES} repetitions of anchors"
                mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
                raise ConstructorError(None, None, problem, mark)
        return super().compose_node(parent, index)

    def flatten_mapping(self, node: MappingNode) -> None:
        """Resolve ``<<``, whose results can multiply too."""
        super().flatten_mapping(node)
        if len(node.value) > _MAX_MERGED_KEYS:
            raise ConstructorError(None, None, f"more than {_MAX_MERGED_KEYS} keys in one mapping", node.start_mark)

    def construct_table(self, node: MappingNode) -> Table:
        """A mapping, with the keys that were written twice."""
        written = Counter(self._key_of(key) for key, _ in node.value if key.tag != f"{_TAG}merge")
        self.flatten_mapping(node)
        table = Table((self._key_of(key), self.construct_object(value, deep=True)) for key, value in node.value)
        # Keys that `<<` brought in may be written again: that is what it is for.
        table.repeated = [key for key, times in written.items() if times > 1]
        return table

    def _key_of(self, node: Node) -> Hashable:
        key = self.construct_object(node, deep=True)
        if not isinstance(key, Hashable):
            raise ConstructorError(None, None, "a key must be a text", node.start_mark)
        return key

    def construct_integer(self, node: ScalarNode) -> int:
        """A whole number in decimal, octal (``0o17``) or hexadecimal (``0xff``)."""
        text = str(self.construct_scalar(node))
        try:
            if len(text) <= _MAX_DIGITS:
                return int(text, 0) if text[:2] in ("0o", "0x") else int(text)
        except ValueError:
            pass
        raise ConstructorError(None, None, f"{text[:_MAX_DIGITS]!r} is no usable whole number", node.start_mark)

    def construct_number(self, node: ScalarNode) -> float:
        """A number with a fraction or an exponent; ``.inf`` and ``.nan`` are read, to be refused by name later."""
        text = str(self.construct_scalar(node))
        try:
            return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
        except ValueError:
            raise ConstructorError(None, None, f"{text[:40]!r} is no number", node.start_mark) from None

    def construct_truth(self, node: ScalarNode) -> bool:
        """True or false."""
        text = str(self.construct_scalar(node)).lower()
        if text not in ("true", "false"):
            raise ConstructorError(None, None, f"{text[:40]!r} is neither true nor false", node.start_mark)
        return text == "true"

    def construct_refusal(self, node: Node) -> None:
        """Every other tag: dates, sets, binary data, Python objects."""
        tag = node.tag.replace(_TAG, "!!")[:80]
        raise ConstructorError(None, None, f"the tag {tag!a} is not used in configurations", node.start_mark)


CoreLoader.yaml_constructors.update(
    {
        f"{_TAG}map": CoreLoader.construct_table,
        f"{_TAG}seq": partial(CoreLoader.construct_sequence, deep=True),
        f"{_TAG}str": CoreLoader.construct_yaml_str,
        f"{_TAG}null": CoreLoader.construct_yaml_null,
        f"{_TAG}bool": CoreLoader.construct_truth,
        f"{_TAG}int": CoreLoader.construct_integer,
        f"{_TAG}float": CoreLoader.construct_number,
        None: CoreLoader.construct_refusal,
    }
)

for _tag, _form, _first in (
    ("null", r"(?:~|null|Null|NULL|)", ["~", "n", "N", ""]),
    ("bool", r"(?:true|True|TRUE|false|False|FALSE)", list("tTfF")),
    ("int", r"(?:[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+)", list("-+0123456789")),
    (
        "float",
        r"(?:[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))",
        list("-+.0123456789"),
    ),
    ("merge", r"<<", ["<"]),
):
    CoreLoader.add_implicit_resolver(f"{_TAG}{_tag}", re.compile(rf"{_form}\Z"), _first)


def plain_scalar(text: str) -> object:
    """Return the value of an unquoted YAML scalar: a number, true, false, null, or the text itself.

    Raises:
        yaml.YAMLError: it looks like a number that nobody can use.
    """
    loader: Any = CoreLoader("")  # PyYAML's stubs leave resolve() untyped
    try:
        tag = loader.resolve(ScalarNode, text, (True, False))
        return loader.construct_object(ScalarNode(tag if tag != f"{_TAG}merge" else f"{_TAG}str", text))
    finally:
        loader.dispose()
