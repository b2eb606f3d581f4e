"""What of a value a schema has looked at: `unevaluatedProperties` and `unevaluatedItems` hold for
the rest.

    schema  {"allOf": [{"prefixItems": [A]}], "if": I, "then": {"contains": B},
             "unevaluatedItems": C}
    list    [ 0: looked at by A | 1: by B, if I fits | 2: by nobody, so it has to be a C ]

Looked at is what the schema's own keywords name, and those of every schema that it applies to the
same value and that fits (JSON Schema 2020-12, core, 11). Steps are taken from the same budget as
those of the check itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol, Self

from jsonschema.exceptions import ValidationError as Violation

from tools.budget import current

Seen = set[Any]
"""Names of an object, or places in a list."""
Matches = Callable[[str, str], bool]


class Checker(Protocol):
    """The part of `OfflineValidator` that is used here."""

    def is_valid(self, instance: Any) -> bool: ...

    def descend(self, instance: Any, schema: Any, path: Any = None) -> Iterator[Violation]: ...

    def entered(self, schema: Any) -> Self:
        """The same, for a part of the schema that is applied to the same value."""

    def referred(self, ref: Any) -> tuple[Self, Any]:
        """The same for what a reference leads to, and that schema."""


def unevaluated_properties(
    validator: Checker, value: Any, instance: Any, schema: Any, *, matches: Matches
) -> Iterator[Violation]:
    if not isinstance(instance, Mapping):
        return
    seen = _seen(validator, instance, schema, "unevaluatedProperties", _names(matches))
    for name in instance:
        if name not in seen:
            yield from _held(validator, value, instance[name], name, "unevaluatedProperties")


def unevaluated_items(
    validator: Checker, value: Any, instance: Any, schema: Any
) -> Iterator[Violation]:
    if not isinstance(instance, list):
        return
    seen = _seen(validator, instance, schema, "unevaluatedItems", _places)
    for place, one in enumerate(instance):
        if place not in seen:
            yield from _held(validator, value, one, place, "unevaluatedItems")


def _held(
    validator: Checker, value: Any, one: Any, place: Any, keyword: str
) -> Iterator[Violation]:
    if value is False:
        shown = repr(place[:80]) if isinstance(place, str) else f"element {place}"
        yield Violation(
            f"{shown} is not one of those that the schema knows",
            validator=keyword,
            validator_value=place,
        )
    else:
        yield from validator.descend(one, value, path=place)


Own = Callable[[Any, Any, Mapping[str, Any]], Seen]


def _seen(validator: Checker, instance: Any, schema: Any, asking: str, own: Own) -> Seen:
    """asking: the keyword that stands in the schema itself; within others it looks at all."""
    seen = own(validator, instance, schema)
    if seen >= set(_all(instance)):
        return seen
    for other, part in _applied(validator, instance, schema):
        seen |= _seen_within(other, instance, part, asking, own)
    return seen


def _seen_within(validator: Checker, instance: Any, schema: Any, asking: str, own: Own) -> Seen:
    current().charge(1)
    if not isinstance(schema, Mapping) or not validator.is_valid(instance):
        return set()
    if asking in schema:
        return set(_all(instance))
    return _seen(validator, instance, schema, asking, own)


def _applied(
    validator: Checker, instance: Any, schema: Mapping[str, Any]
) -> Iterator[tuple[Checker, Any]]:
    """Schemas that are applied to the same value, and whether they fit is not known."""
    for keyword in ("$ref", "$dynamicRef"):
        if keyword in schema:
            yield validator.referred(schema[keyword])
    for keyword in ("allOf", "anyOf", "oneOf"):
        for part in schema.get(keyword, ()):
            yield validator.entered(part), part
    if "if" in schema:
        condition = schema["if"]
        entered = validator.entered(condition)
        fits = entered.is_valid(instance)
        if fits:
            yield entered, condition
        branch = "then" if fits else "else"
        if branch in schema:
            yield validator.entered(schema[branch]), schema[branch]
    if isinstance(instance, Mapping):
        for name, part in schema.get("dependentSchemas", {}).items():
            if name in instance:
                yield validator.entered(part), part


def _names(matches: Matches) -> Own:
    def own(validator: Any, instance: Any, schema: Mapping[str, Any]) -> Seen:
        current().charge(1 + len(instance))
        if "additionalProperties" in schema:
            return set(instance)
        named = schema.get("properties", {})
        patterns = schema.get("patternProperties", {})
        return {
            name
            for name in instance
            if name in named or any(matches(pattern, name) for pattern in patterns)
        }

    return own


def _places(validator: Any, instance: Any, schema: Mapping[str, Any]) -> Seen:
    current().charge(1 + len(instance))
    if "items" in schema:
        return set(range(len(instance)))
    seen: Seen = set(range(min(len(instance), len(schema.get("prefixItems", ())))))
    if "contains" in schema:
        wanted = validator.entered(schema["contains"])
        seen |= {place for place, one in enumerate(instance) if wanted.is_valid(one)}
    return seen


def _all(instance: Any) -> Any:
    return instance if isinstance(instance, Mapping) else range(len(instance))
