"""Structured output: a value that the schema's own validator takes."""

from __future__ import annotations

from typing import Literal, Optional

import pydantic
import pytest

from llmwire.services.testing.schema import example


class Leaf(pydantic.BaseModel):
    size: int = pydantic.Field(ge=3, lt=9)


class Tree(pydantic.BaseModel):
    name: str
    kind: Literal["oak", "elm"]
    height_m: float = pydantic.Field(gt=0.5, multiple_of=0.25)
    depth: int = pydantic.Field(lt=0)
    alive: bool
    note: Optional[str]  # noqa: UP045  # the schema of an anyOf
    leaves: list[Leaf] = pydantic.Field(min_length=2)
    pair: tuple[int, str]
    tags: dict[str, str]
    child: Tree | None
    code: str = pydantic.Field(min_length=12, max_length=14)


def test_a_schema_is_followed():
    tree = Tree.model_validate(example(Tree.model_json_schema(), text="it rains"), strict=False)

    assert (tree.leaves[1].size, tree.height_m, tree.depth) == (3, 0.75, -1)


def test_the_field_for_the_answer_has_the_answer():
    schema = {"type": "object", "properties": {"answer": {"type": "string"}, "source": {"type": "string"}}}

    assert example(schema, text="it rains") == {"answer": "it rains", "source": "stand-in"}


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        ({"const": 4}, 4),
        ({"enum": ["a", "b"]}, "a"),
        ({"type": ["null", "integer"]}, 0),
        ({"type": "null"}, None),
        ({"anyOf": [{"type": "null"}, {"type": "boolean"}]}, True),
        ({"allOf": [{"type": "object", "required": ["a"]}, {"properties": {"a": {"type": "integer"}}}]}, {"a": 0}),
        ({"type": "array", "maxItems": 0}, []),
        ({"type": "number", "maximum": -2}, -2),
        ({"type": "integer", "exclusiveMinimum": 7}, 8),
        ({"type": "string", "format": "date"}, "2000-01-01"),
        ({"$ref": "#/$defs/a~1b", "$defs": {"a/b": {"type": "integer"}}}, 0),
        (True, "it rains"),
    ],
)
def test_each_kind_of_schema_has_its_value(schema, value):
    assert example(schema, text="it rains") == value


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "#/$defs/missing"},
        {"$ref": "#"},
        {"$ref": "#/$defs/a", "$defs": {"a": {"allOf": [{"$ref": "#/$defs/a"}]}}},
        {"type": "object", "required": ["me"], "properties": {"me": {"$ref": "#"}}},
        {"type": "array", "minItems": 10**9},
        {"type": "string", "minLength": 10**9},
        {"type": "nonsense"},
        {"enum": 5},
        {"type": "array", "prefixItems": 5},
    ],
)
def test_a_schema_without_a_value_is_an_error(schema):
    with pytest.raises(ValueError, match="the schema"):
        example(schema, text="it rains")
