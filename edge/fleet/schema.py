"""A JSON Schema of the fleet file, for editors: made from the same classes that read it.

``python -m edge.fleet.schema`` writes ``fleet.schema.json``; a test fails when it is not what the classes say.
"""

from __future__ import annotations

import dataclasses
import json
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edge.fleet.config import Fleet
from edge.fleet.site_config import Site
from fl.config import field_docs
from fl.files import write_atomic

FILE = Path(__file__).parent / "fleet.schema.json"
PLAIN: Mapping[Any, str] = {int: "integer", float: "number", str: "string", bool: "boolean", Path: "string"}


def schema() -> dict[str, Any]:
    """The schema."""
    top = _object(Fleet)
    defaults = _object(Site)
    del defaults["required"]
    for key in ("id", "host"):
        del defaults["properties"][key]
    top["properties"]["defaults"] = {
        **defaults,
        "description": "What holds for every site that does not say otherwise.",
    }
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "fedfleet's fleet file", **top}


def text() -> str:
    """The schema's text."""
    return json.dumps(schema(), indent=2, ensure_ascii=False) + "\n"


def _object(cls: type) -> dict[str, Any]:
    docs, hints = field_docs(cls), typing.get_type_hints(cls)
    properties, required = {}, []
    for field in dataclasses.fields(cls):
        value = _value(hints[field.name])
        properties[field.name] = {**value, "description": " ".join(docs[field.name].split())}
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            required.append(field.name)
        elif isinstance(field.default, (str, int, float, bool)):
            properties[field.name]["default"] = field.default
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


def _value(hint: Any) -> dict[str, Any]:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return _object(hint)
    if origin is typing.Literal:
        return {"enum": list(arguments)}
    if origin in (typing.Union, types.UnionType):
        return {"anyOf": [_value(argument) for argument in arguments if argument is not types.NoneType]}
    if origin is tuple:
        return {"type": "array", "items": _value(arguments[0])}
    if getattr(origin, "__name__", "") == "Mapping":
        return {"type": "object", "additionalProperties": _value(arguments[1])}
    return {} if hint is Any else {"type": PLAIN[hint]}


if __name__ == "__main__":
    write_atomic(FILE, text())
