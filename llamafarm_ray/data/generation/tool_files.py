"""Tools described in a file: OpenAI's and MCP's lists of tools, and the operations of an OpenAPI description."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError

from llamafarm_ray.errors import InputError

__all__ = ["read_tools"]

_METHODS = ("get", "put", "post", "delete", "patch")
_MAX_BYTES = 16 * 1024 * 1024
_MAX_DEPTH = 20
_NAME = re.compile(r"[^A-Za-z0-9_.-]+")
_SHAPES = (
    "It holds a list of tools (name, description, parameters), an object with the list under 'tools' (OpenAI, MCP), "
    "or an OpenAPI description."
)


def read_tools(path: Path) -> tuple[dict[str, object], ...]:
    """Return the tools of a JSON or YAML file, each with ``name``, ``description`` and ``parameters``.

    Args:
        path: of a list of tools, in OpenAI's form (nested in ``function`` or not) or MCP's (``inputSchema``), alone or
            under ``tools``; or of an OpenAPI 3 description, whose operations are the tools.

    Raises:
        InputError: the file can't be read, has no tools, or a tool has no name or no sound JSON schema.
    """
    content = _content(path)
    if isinstance(content, Mapping) and isinstance(content.get("paths"), Mapping):
        tools = list(_operations(content))
    else:
        listed = content.get("tools") if isinstance(content, Mapping) else content
        if not isinstance(listed, list):
            raise InputError(f"{path} has no tools.", hint=_SHAPES)
        tools = [_tool(one, f"{path}: tools[{index}]") for index, one in enumerate(listed)]
    if not tools:
        raise InputError(f"{path} has no tools.", hint=_SHAPES)
    names = [tool["name"] for tool in tools]
    for tool in tools:
        if names.count(tool["name"]) > 1:
            raise InputError(f"{path} has several tools with the name {tool['name']!r}.", hint="Rename one.")
        _check(tool, path)
    return tuple(tools)


def _content(path: Path) -> object:
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise InputError(f"{path} is larger than {_MAX_BYTES >> 20} MiB.", hint=_SHAPES)
        text = path.read_text(encoding="utf-8")
        return json.loads(text) if path.suffix.lower() == ".json" else yaml.safe_load(text)
    except OSError as error:
        raise InputError(f"The file of tools {str(path)!r} can't be read: {error.strerror}.") from error
    except (ValueError, yaml.YAMLError, RecursionError) as error:
        raise InputError(f"{path} can't be read: {str(error).splitlines()[0]}.") from error


def _tool(value: object, where: str) -> dict[str, object]:
    function = value.get("function", value) if isinstance(value, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str) or not function["name"]:
        raise InputError(f"{where} has no name.", hint=_SHAPES)
    parameters = function.get("parameters", function.get("inputSchema", function.get("input_schema")))
    return {
        "name": function["name"],
        "description": str(function.get("description") or ""),
        "parameters": parameters if parameters is not None else {"type": "object", "properties": {}},
    }


def _check(tool: Mapping[str, object], path: Path) -> None:
    parameters = tool["parameters"]
    if not isinstance(parameters, Mapping) or parameters.get("type", "object") != "object":
        raise InputError(f"{path}: the parameters of {tool['name']} are no schema of an object.")
    try:
        Draft202012Validator.check_schema(parameters)
    except (SchemaError, RecursionError) as error:
        said = getattr(error, "message", "it is nested too deeply")
        raise InputError(f"{path}: the parameters of {tool['name']} are no JSON schema: {said}.") from None


def _operations(api: Mapping[str, Any]) -> Iterator[dict[str, object]]:
    """Yield each operation of an OpenAPI description as a tool, with the fields of its body among its parameters."""
    for route, described in api["paths"].items():
        item = _resolved(described, api)
        if not isinstance(item, Mapping):
            continue
        for method in _METHODS:
            operation = item.get(method)
            if not isinstance(operation, Mapping):
                continue
            properties: dict[str, Any] = {}
            required: list[str] = []
            for parameter in [*(item.get("parameters") or ()), *(operation.get("parameters") or ())]:
                _add_parameter(_resolved(parameter, api), properties, required)
            _add_body(_resolved(operation.get("requestBody") or {}, api), properties, required)
            yield {
                "name": _NAME.sub("_", str(operation.get("operationId") or f"{method}{route}")).strip("_")[:64],
                "description": str(operation.get("summary") or operation.get("description") or ""),
                "parameters": {
                    "type": "object",
                    "properties": properties,
                    **({"required": list(dict.fromkeys(required))} if required else {}),
                },
            }


def _add_parameter(parameter: object, properties: dict[str, object], required: list[str]) -> None:
    if not isinstance(parameter, Mapping) or parameter.get("in") not in {"path", "query"}:
        return  # headers and cookies are the client's
    name, schema = str(parameter.get("name")), dict(parameter.get("schema") or {})
    if parameter.get("description"):
        schema.setdefault("description", parameter["description"])
    properties[name] = schema
    if parameter.get("required"):
        required.append(name)


def _add_body(body: Any, properties: dict[str, object], required: list[str]) -> None:
    content = body.get("content") if isinstance(body, Mapping) else None
    media = next((one for kind, one in (content or {}).items() if "json" in kind), None)
    schema = media.get("schema") if isinstance(media, Mapping) else None
    if not isinstance(schema, Mapping):
        return
    if isinstance(schema.get("properties"), Mapping):
        properties |= schema["properties"]
        required += [name for name in schema.get("required") or () if isinstance(name, str)]
    else:
        properties["body"] = dict(schema)
        required += ["body"] if body.get("required") else []


def _resolved(value: object, api: Mapping[str, object], inside: tuple[str, ...] = ()) -> object:
    """Return a value with the parts of the description that it refers to; a part in itself may hold anything."""
    if isinstance(value, list):
        return [_resolved(one, api, inside) for one in value]
    if not isinstance(value, Mapping):
        return value
    target = value.get("$ref")
    if isinstance(target, str):
        if target in inside or len(inside) > _MAX_DEPTH:
            return {}
        found: object = api
        for part in target.removeprefix("#/").split("/"):
            found = found.get(part.replace("~1", "/").replace("~0", "~")) if isinstance(found, Mapping) else None
        if not target.startswith("#/") or found is None:
            raise InputError(f"The OpenAPI description refers to {target!r}, which is not in it.")
        return _resolved(found, api, (*inside, target))
    return {name: _resolved(one, api, inside) for name, one in value.items()}
