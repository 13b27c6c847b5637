"""A value that fits a JSON schema, of the kind that structured output uses. Knows schemas; knows nothing of requests.

Met: types, enum, const, default, properties, items, prefixItems, anyOf, oneOf, allOf, $ref, the bounds of numbers,
lengths and sizes, and the common formats. Not met: pattern, not, if, dependencies; such values may not fit.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote

Schema = Mapping[str, Any]

MAX_DEPTH = 64  #: a schema that is still not at an end here can have no finite value, or none that anyone wants
MAX_SIZE = 10_000  #: items or characters that a schema may insist on
_SHALLOW = 6  #: below this depth, what may be left out is left out: a schema that contains itself must end

#: the names under which an answer is usually asked for
_ANSWERS = frozenset({"answer", "content", "message", "output", "reply", "response", "result", "summary", "text"})

_FORMATS = {
    "date": "2000-01-01",
    "date-time": "2000-01-01T00:00:00Z",
    "duration": "P1D",
    "email": "stand.in@example.com",
    "hostname": "example.com",
    "ipv4": "192.0.2.1",
    "ipv6": "2001:db8::1",
    "time": "00:00:00Z",
    "uri": "https://example.com/",
    "uuid": "00000000-0000-4000-8000-000000000000",
}


def example(schema: Schema, *, text: str) -> Any:
    """A JSON value that fits the schema.

    Args:
        text: what stands in a string that seems to ask for the answer; other strings are "stand-in".
    Raises:
        ValueError: a $ref that leads nowhere, or a schema without a finite value.
    """
    try:
        return _Example(schema, text).value(schema, name="answer", depth=0)
    except (TypeError, AttributeError, LookupError) as error:
        raise ValueError(f"the schema is malformed ({error})") from error


class _Example:
    def __init__(self, root: Schema, text: str) -> None:
        self._root, self._text = root, text

    def value(self, schema: object, *, name: str = "", depth: int) -> Any:
        plain = self._plain(schema, depth)
        for fixed in ("const", "default"):
            if fixed in plain:
                return plain[fixed]
        if plain.get("enum"):
            return plain["enum"][0]
        return self._of_type(_type(plain, depth), plain, name, depth)

    def _of_type(self, kind: str, schema: Schema, name: str, depth: int) -> Any:
        match kind:
            case "object":
                return self._object(schema, depth)
            case "array":
                return self._array(schema, name, depth)
            case "string":
                return self._string(schema, name)
            case "integer" | "number":
                return _number(schema, is_integer=kind == "integer")
            case "boolean":
                return True
            case "null":
                return None
            case _:
                raise ValueError(f"the schema has a type {kind!r}, which JSON has not")

    def _object(self, schema: Schema, depth: int) -> dict[str, Any]:
        wanted = _mapping(schema.get("properties"))
        required = schema.get("required", ())
        if depth >= _SHALLOW:
            wanted = {name: inner for name, inner in wanted.items() if name in required}
        missing: dict[str, Schema] = {name: {} for name in required if name not in wanted}
        return {name: self.value(inner, name=name, depth=depth + 1) for name, inner in {**wanted, **missing}.items()}

    def _array(self, schema: Schema, name: str, depth: int) -> list[Any]:
        first = [self.value(inner, name=name, depth=depth + 1) for inner in schema.get("prefixItems", ())]
        usual = 0 if first or depth >= _SHALLOW else 1
        size = max(schema.get("minItems", 0), min(usual, schema.get("maxItems", usual)))
        if size > MAX_SIZE:
            raise ValueError(f"the schema wants an array of {size} items")
        rest = (self.value(schema.get("items", {}), name=name, depth=depth + 1) for _ in range(size - len(first)))
        return [*first, *rest]

    def _string(self, schema: Schema, name: str) -> str:
        if schema.get("format") in _FORMATS:
            return _FORMATS[schema["format"]]
        text = self._text if name.lower() in _ANSWERS else "stand-in"
        if schema.get("minLength", 0) > MAX_SIZE:
            raise ValueError(f"the schema wants a string of {schema['minLength']} characters")
        return text[: schema.get("maxLength")].ljust(schema.get("minLength", 0), ".")

    def _plain(self, schema: object, depth: int) -> Schema:
        """The schema with its references followed, one alternative chosen, and all that must hold together merged."""
        if depth > MAX_DEPTH:
            raise ValueError(f"the schema has no value of less than {MAX_DEPTH} levels")
        plain = dict(_mapping(schema))
        for _ in range(MAX_DEPTH):
            if "$ref" in plain:
                plain = {**self._found(plain.pop("$ref")), **plain}
            elif alternatives := plain.pop("anyOf", None) or plain.pop("oneOf", None):
                plain = {**_mapping(self._chosen(alternatives, depth)), **plain}
            elif parts := plain.pop("allOf", None):
                plain = _merged([plain, *(self._plain(part, depth + 1) for part in parts)])
            else:
                return plain
        raise ValueError("the schema's references go round in a circle")

    def _chosen(self, alternatives: list[object], depth: int) -> object:
        """The first that is not null; deep down the null, where there is one."""
        nulls = [inner for inner in alternatives if _mapping(inner).get("type") == "null"]
        others = [inner for inner in alternatives if inner not in nulls]
        if nulls and (depth >= _SHALLOW or not others):
            return nulls[0]
        # Deep down the last: by custom the simplest of a recursive choice, as in `Branch | Leaf`.
        return others[-1 if depth >= _SHALLOW else 0]

    def _found(self, reference: str) -> Schema:
        found: Any = self._root
        for step in reference.removeprefix("#").split("/")[1:]:
            name = unquote(step).replace("~1", "/").replace("~0", "~")
            if not isinstance(found, Mapping) or name not in found:
                raise ValueError(f"the schema has no {reference!r}")
            found = found[name]
        return _mapping(found)


def _mapping(schema: object) -> Schema:
    return schema if isinstance(schema, Mapping) else {}  # True allows anything


def _merged(schemas: list[Schema]) -> dict[str, Any]:
    merged: dict[str, Any] = {}
    for schema in schemas:
        properties = {**_mapping(merged.get("properties")), **_mapping(schema.get("properties"))}
        required = [*merged.get("required", ()), *schema.get("required", ())]
        merged = {**merged, **schema}
        if properties:
            merged["properties"] = properties
        if required:
            merged["required"] = list(dict.fromkeys(required))
    return merged


def _type(schema: Schema, depth: int) -> str:
    kind = schema.get("type")
    if isinstance(kind, list):
        others = [name for name in kind if name != "null"]
        return "null" if not others or ("null" in kind and depth >= _SHALLOW) else str(others[0])
    if isinstance(kind, str):
        return kind
    if "properties" in schema or "required" in schema:
        return "object"
    return "array" if "items" in schema or "prefixItems" in schema else "string"


def _number(schema: Schema, *, is_integer: bool) -> float:
    """The number nearest to zero within the bounds."""
    step = schema.get("multipleOf") or (1 if is_integer else None)
    low, high = schema.get("minimum"), schema.get("maximum")
    above, below = schema.get("exclusiveMinimum"), schema.get("exclusiveMaximum")
    if (low is not None and low > 0) or (above is not None and above >= 0):
        return _least(low, above, step)
    if (high is not None and high < 0) or (below is not None and below <= 0):
        return -_least(None if high is None else -high, None if below is None else -below, step)
    return 0


def _least(low: float | None, above: float | None, step: float | None) -> float:
    """The least number from `low`, and beyond `above`, that is a whole number of steps."""
    start = max(bound for bound in (low, above) if bound is not None)
    is_excluded = above is not None and start == above
    if step is None:
        return start + 1 if is_excluded else start
    steps = math.ceil(start / step)
    return step * (steps + 1 if is_excluded and steps * step == start else steps)
