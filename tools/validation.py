"""Holds values against JSON schemas that others wrote: never followed to the network, and in
bounded time and memory.

A client, an MCP server or a model says what is checked against what, in a process that serves
everybody. So a check takes a limited number of steps (tools/budget.py), patterns limited time
(tools/patterns.py), and what is wrong is told without the values that it is wrong with. jsonschema
says what most keywords mean; its validators are not used, since they go over to another one, which
has no bounds, wherever a schema has a `$schema`.
"""

from __future__ import annotations

import functools
import itertools
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import UndefinedTypeCheck
from jsonschema.exceptions import ValidationError as Violation
from jsonschema_specifications import REGISTRY
from referencing.exceptions import Unresolvable
from referencing.jsonschema import DRAFT202012

from tools.budget import current, elements, weight
from tools.canonical import canonical
from tools.errors import ToolsError
from tools.patterns import is_found, is_found_linearly
from tools.schemas import objects_in, referred
from tools.unevaluated import unevaluated_items, unevaluated_properties

__all__ = ["MOST_VIOLATIONS", "OfflineValidator", "Violation", "of_wrong_type"]

MOST_VIOLATIONS = 20
"""That anybody is told of one value."""
_MOST_SHOWN = 80  # characters
_SLOW = 8  # times as long as measuring takes what goes through all of a value
_COMPILING = 100  # steps
_MOST_PATTERNS = 100  # that are not compiled again when they are run again, or somewhat more
_NAMING = ("$id", "$anchor", "$dynamicAnchor")
_STANDARD = Draft202012Validator.VALIDATORS
_TYPES = Draft202012Validator.TYPE_CHECKER


class Unusable(ToolsError):
    """A schema asks for what there is not."""


class OfflineValidator:
    """For a schema that may come from anywhere; it is used inside `bounded`.

    Not checked are formats.
    """

    __slots__ = ("_resolver", "_root", "schema")

    def __init__(self, schema: Any) -> None:
        self.schema = schema
        self._root = schema
        self._resolver = _resolver_of(schema) if _has_names(schema) else None

    def iter_errors(self, instance: Any) -> Iterator[Violation]:
        """What is wrong, as it is found. The `validator_value` of one about a name that is missing
        or not known is that name. A value that is of none of the types that several schemas ask
        for violates `type`. Raises TooCostly, Undecided, Unusable, and what wrong
        schemas lead to."""
        return self.descend(instance, self.schema)

    def is_valid(self, instance: Any) -> bool:
        return next(self.iter_errors(instance), None) is None

    def evolve(self, *, schema: Any) -> OfflineValidator:
        """The same, for another part of the schema."""
        return self._at(schema, self._resolver)

    # ---- for the keywords --------------------------------------------------------------------

    def entered(self, schema: Any) -> OfflineValidator:
        """The same, for a part of the schema in which references may lead from another place."""
        resolver = self._resolver
        if resolver is not None and isinstance(schema, Mapping) and "$id" in schema:
            resolver = resolver.in_subresource(DRAFT202012.create_resource(schema))
        return self._at(schema, resolver)

    def referred(self, ref: Any) -> tuple[OfflineValidator, Any]:
        """The same for what a reference leads to, and that schema. Raises Unusable, TooCostly."""
        current().charge(weight(current().size(ref)))
        if self._resolver is None and (ref == "#" or str(ref).startswith("#/")):
            found = referred(ref, self._root)
            if found is None:
                raise Unusable(f"the reference {short(ref)} leads nowhere")
            return self._at(found, None), found
        try:
            resolved = (self._resolver or _resolver_of(self._root)).lookup(ref)
        except Unresolvable:
            raise Unusable(f"the reference {short(ref)} leads nowhere") from None
        return self._at(resolved.contents, resolved.resolver), resolved.contents

    def descend(
        self, instance: Any, schema: Any, path: Any = None, schema_path: Any = None
    ) -> Iterator[Violation]:
        current().charge(1)
        if schema is True:
            return
        if schema is False:
            yield _placed(Violation(f"{short(instance)} is not allowed here"), path)
            return
        current().charge(len(schema) // 8)
        here = self.entered(schema)
        for name, value in schema.items():
            if (keyword := _KEYWORDS.get(name)) is not None:
                for error in keyword(here, value, instance, schema) or ():
                    yield _placed(error, path)

    def is_type(self, instance: Any, kind: Any) -> bool:
        try:
            return bool(_TYPES.is_type(instance, kind))
        except UndefinedTypeCheck:
            raise Unusable(f"there is no type {short(kind)}") from None

    def _validate_reference(self, ref: Any, instance: Any) -> Iterator[Violation]:
        return self.referred(ref)[0].iter_errors(instance)

    def _at(self, schema: Any, resolver: Any) -> OfflineValidator:
        other = OfflineValidator.__new__(OfflineValidator)
        other.schema, other._root, other._resolver = schema, self._root, resolver
        return other


def short(value: Any) -> str:
    """For people, in a few words, however large it is."""
    if isinstance(value, Mapping | list) and current().size(value) > _MOST_SHOWN:
        if isinstance(value, list):
            return f"a list of {len(value)} elements"
        return f"an object with {len(value)} names"
    shown = repr(value[:_MOST_SHOWN] if isinstance(value, str) else value)
    cut = len(shown) > _MOST_SHOWN + 2 or (isinstance(value, str) and len(value) > _MOST_SHOWN)
    return f"{shown[:_MOST_SHOWN]}…" if cut else shown


def _placed(error: Violation, path: Any) -> Violation:
    if path is not None:
        error.path.appendleft(path)
    return error


# ---- references ------------------------------------------------------------------------------


def _has_names(root: Any) -> bool:
    """Whether some of its parts have names of their own, other than where they are."""
    budget = current()
    known = budget.kept.get(id(root))
    if known is None:
        budget.charge(weight(budget.size(root)))
        named = any(name in one for one in objects_in(root) for name in _NAMING)
        known = budget.kept[id(root)] = (root, _crawled(root) if named else None)
    return known[1] is not None


def _resolver_of(root: Any) -> Any:
    known = current().kept[id(root)]
    return known[1] if known[1] is not None else REGISTRY.resolver()


def _crawled(root: Any) -> Any:
    """Once: a registry that nobody has gone through is gone through at each look-up."""
    resource = DRAFT202012.create_resource(root)
    uri = resource.id() or ""
    return REGISTRY.with_resource(uri, resource).crawl().resolver(uri)


# ---- keywords --------------------------------------------------------------------------------

Keyword = Callable[[Any, Any, Any, Any], Iterable[Violation] | None]


def _type(validator: Any, value: Any, instance: Any, schema: Any) -> Iterator[Violation]:
    kinds = [value] if isinstance(value, str) else value
    if not any(validator.is_type(instance, kind) for kind in kinds):
        wanted = ", ".join(short(kind) for kind in kinds[:MOST_VIOLATIONS])
        yield Violation(f"{short(instance)} is not of type {wanted}", validator="type")


def _enum(validator: Any, value: Any, instance: Any, schema: Any) -> Iterator[Violation]:
    if not any(_same(one, instance) for one in value):
        allowed = ", ".join(map(short, value[:MOST_VIOLATIONS]))
        yield Violation(f"{short(instance)} is not one of {allowed}")


def _const(validator: Any, value: Any, instance: Any, schema: Any) -> Iterator[Violation]:
    if not _same(value, instance):
        yield Violation(f"{short(value)} was expected")


def _same(one: Any, other: Any) -> bool:
    """As JSON: 1.0 is 1, and true is not."""
    if isinstance(one, dict):
        alike = isinstance(other, dict) and one.keys() == other.keys()
        return alike and all(_same(one[name], other[name]) for name in one)
    if isinstance(one, list):
        alike = isinstance(other, list) and len(one) == len(other)
        return alike and all(map(_same, one, other))
    return isinstance(one, bool) == isinstance(other, bool) and bool(one == other)


def _required(validator: Any, value: Any, instance: Any, schema: Any) -> Iterator[Violation]:
    if validator.is_type(instance, "object"):
        for name in value:
            if name not in instance:
                yield _about(name, "required", "is a required property")


def _additional_properties(
    validator: Any, value: Any, instance: Any, schema: Any
) -> Iterator[Violation]:
    if not validator.is_type(instance, "object"):
        return
    patterns = schema.get("patternProperties", {})
    known = schema.get("properties", {})
    for name in instance:
        if name in known or any(_matches(pattern, name) for pattern in patterns):
            continue
        if validator.is_type(value, "object"):
            yield from validator.descend(instance[name], value, path=name)
        elif not value:
            yield _about(name, "additionalProperties", "is an unknown property")


def _dependent_required(
    validator: Any, value: Any, instance: Any, schema: Any
) -> Iterator[Violation]:
    if validator.is_type(instance, "object"):
        for name, others in value.items():
            if name in instance:
                for other in others:
                    if other not in instance:
                        yield Violation(f"{short(name)} comes only with {short(other)}")


def _about(name: str, keyword: str, message: str) -> Violation:
    return Violation(f"{short(name)} {message}", validator=keyword, validator_value=name)


def _pattern_properties(
    validator: Any, value: Any, instance: Any, schema: Any
) -> Iterator[Violation]:
    if not validator.is_type(instance, "object"):
        return
    for pattern, part in value.items():
        for name, one in instance.items():
            if _matches(pattern, name):
                yield from validator.descend(one, part, path=name)


def _pattern(validator: Any, value: Any, instance: Any, schema: Any) -> Iterator[Violation]:
    if validator.is_type(instance, "string") and not _matches(value, instance):
        yield Violation(f"{short(instance)} does not match {short(value)}")


def _matches(pattern: str, text: str) -> bool:
    """Raises what `is_found` raises."""
    budget = current()
    budget.charge(1 + weight(len(text)))
    if pattern not in budget.patterns or len(budget.patterns) > _MOST_PATTERNS:
        budget.patterns.add(pattern)
        budget.charge(_COMPILING)
    linearly = is_found_linearly(pattern, text)
    if linearly is not None:
        return linearly
    started = time.thread_time()
    try:
        return is_found(pattern, text, seconds=budget.seconds)
    finally:
        budget.seconds -= time.thread_time() - started


def _items(validator: Any, value: Any, instance: Any, schema: Any) -> Iterator[Violation]:
    if not validator.is_type(instance, "array"):
        return
    for index in range(len(schema.get("prefixItems", [])), len(instance)):
        yield from validator.descend(instance[index], value, path=index)


def _contains(validator: Any, value: Any, instance: Any, schema: Any) -> Iterator[Violation]:
    if not validator.is_type(instance, "array"):
        return
    least, most = schema.get("minContains", 1), schema.get("maxContains", len(instance))
    found = sum(map(validator.evolve(schema=value).is_valid, instance))
    if not least <= found <= most:
        yield Violation(f"{found} elements are as `contains` says, and not {least} to {most}")


def _unique_items(validator: Any, value: Any, instance: Any, schema: Any) -> Iterator[Violation]:
    """In linear time: jsonschema compares all elements with all others."""
    if not value or not validator.is_type(instance, "array"):
        return
    if len({canonical(one) for one in instance}) < len(instance):
        yield Violation(f"{short(instance)} has non-unique elements")


def _length(kind: str, fits: Callable[[int, Any], bool], wrong: str) -> Keyword:
    def check(validator: Any, value: Any, instance: Any, schema: Any) -> Iterator[Violation]:
        if validator.is_type(instance, kind) and not fits(len(instance), value):
            yield Violation(f"{short(instance)} is {wrong}, the limit is {short(value)}")

    return check


def _least(length: int, limit: Any) -> bool:
    return bool(length >= limit)


def _most(length: int, limit: Any) -> bool:
    return bool(length <= limit)


def _any_of(validator: Any, value: Any, instance: Any, schema: Any) -> Iterator[Violation]:
    first, wrong_type = _first_fit(validator, value, instance)
    if first is None:
        yield _fits_none(instance, wrong_type)


def _one_of(validator: Any, value: Any, instance: Any, schema: Any) -> Iterator[Violation]:
    first, wrong_type = _first_fit(validator, value, instance)
    if first is None:
        yield _fits_none(instance, wrong_type)
    elif any(validator.evolve(schema=part).is_valid(instance) for part in value[first + 1 :]):
        yield Violation(f"{short(instance)} is valid under more than one of the given schemas")


def _first_fit(validator: Any, parts: Any, instance: Any) -> tuple[int | None, bool]:
    """Which of the schemas fits first; if none does, whether all ask for another type. Nothing of
    what else is wrong is kept: together that is without bounds."""
    wrong_type = bool(parts)
    for index, part in enumerate(parts):
        errors = validator.descend(instance, part)
        first = next(errors, None)
        if first is None:
            return index, False
        wrong_type = wrong_type and of_wrong_type(itertools.chain([first], errors))
    return None, wrong_type


def _fits_none(instance: Any, wrong_type: bool) -> Violation:
    message = f"{short(instance)} is not valid under any of the given schemas"
    return Violation(message, validator="type" if wrong_type else "anyOf")


def of_wrong_type(errors: Iterable[Violation]) -> bool:
    """Whether these are of a value that is of another type than its schema asks for."""
    first = itertools.islice(errors, MOST_VIOLATIONS)
    return any(error.validator == "type" and not error.path for error in first)


def _not(validator: Any, value: Any, instance: Any, schema: Any) -> Iterator[Violation]:
    if validator.evolve(schema=value).is_valid(instance):
        yield Violation(f"{short(instance)} should not be valid under {short(value)}")


def _charged(keyword: Keyword, price: Callable[[Any, Any], int]) -> Keyword:
    """price: steps, of what the schema says and the value"""

    def check(validator: Any, value: Any, instance: Any, schema: Any) -> Iterable[Violation] | None:
        current().charge(price(value, instance))
        return keyword(validator, value, instance, schema)

    return check


def _outer(value: Any, instance: Any) -> int:
    """Of what looks at the elements of both, and goes into them by other keywords."""
    return sum(elements(len(one)) for one in (value, instance) if isinstance(one, Mapping | list))


def _whole(value: Any, instance: Any) -> int:
    """Of what looks at everything in both."""
    size = current().size
    return weight(_SLOW * (size(value) + size(instance)))


def _each_whole(value: Any, instance: Any) -> int:
    """Of what compares with each: no further than either goes."""
    size = current().size
    return weight(_SLOW * min(size(value), len(value) * (1 + size(instance))))


_KEYWORDS: dict[str, Keyword] = {
    "$ref": _STANDARD["$ref"],
    "$dynamicRef": _STANDARD["$dynamicRef"],
    "type": _charged(_type, _outer),
    "enum": _charged(_enum, _each_whole),
    "const": _charged(_const, _whole),
    "properties": _charged(_STANDARD["properties"], _outer),
    "required": _charged(_required, _outer),
    "additionalProperties": _charged(_additional_properties, _outer),
    "patternProperties": _charged(_pattern_properties, _outer),
    "propertyNames": _STANDARD["propertyNames"],
    "dependentRequired": _charged(_dependent_required, _whole),
    "dependentSchemas": _charged(_STANDARD["dependentSchemas"], _outer),
    "items": _items,
    "prefixItems": _STANDARD["prefixItems"],
    "contains": _contains,
    "unevaluatedItems": _charged(unevaluated_items, _outer),
    "unevaluatedProperties": _charged(
        functools.partial(unevaluated_properties, matches=_matches), _outer
    ),
    "uniqueItems": _charged(_unique_items, lambda _, instance: _whole(None, instance)),
    "allOf": _STANDARD["allOf"],
    "anyOf": _any_of,
    "oneOf": _one_of,
    "not": _not,
    "if": _STANDARD["if"],
    "pattern": _pattern,
    "minLength": _length("string", _least, "too short"),
    "maxLength": _length("string", _most, "too long"),
    "minItems": _length("array", _least, "too short"),
    "maxItems": _length("array", _most, "too long"),
    "minProperties": _length("object", _least, "too small"),
    "maxProperties": _length("object", _most, "too large"),
    **{
        name: _STANDARD[name]
        for name in ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf")
    },
}
