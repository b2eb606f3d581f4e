"""Arithmetic over a checked syntax tree: nothing is ever evaluated as Python."""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable

from tools.define import define
from tools.effects import Effect
from tools.errors import ToolFailed

_MOST_CHARS = 200
_MOST_EXPONENT = 1000
_LIMIT = 10**300
_ALLOWED = re.compile(r"[0-9+\-*/%().eE \t]*", re.ASCII)
_WHAT_IS_ALLOWED = "numbers, + - * / // % ** and parentheses"

Number = int | float


def calculate(expression: str) -> str:
    """Computes a sum, a difference or a product.

    Args:
        expression: For example 12 + 34

    Raises:
        ToolFailed: the expression is not arithmetic, or its value is not a number below 10**300
    """
    if len(expression) > _MOST_CHARS:
        raise ToolFailed(f"the expression is longer than {_MOST_CHARS} characters; compute parts")
    if not _ALLOWED.fullmatch(expression):
        raise ToolFailed(f"cannot read {expression!r}: use only {_WHAT_IS_ALLOWED}")
    try:
        tree = ast.parse(expression.strip(), mode="eval")
    except (SyntaxError, MemoryError, RecursionError) as error:
        raise ToolFailed(f"cannot read {expression!r} as one expression") from error
    try:
        return _text(_value(tree.body))
    except ZeroDivisionError as error:
        raise ToolFailed("division by zero") from error
    except OverflowError as error:
        raise ToolFailed("the value is too large: the limit is 10**300") from error


def _value(node: ast.expr) -> Number:
    match node:
        case ast.Constant(value=int() | float() as value):
            return _within_limit(value)
        case ast.UnaryOp(op=ast.UAdd(), operand=operand):
            return _value(operand)
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_value(operand)
        case ast.BinOp(op=op, left=left, right=right) if type(op) in _OPERATORS:
            return _within_limit(_OPERATORS[type(op)](_value(left), _value(right)))
        case _:
            raise ToolFailed(f"use only {_WHAT_IS_ALLOWED}")


def _within_limit(value: Number) -> Number:
    if not abs(value) < _LIMIT:  # also true for nan
        raise OverflowError
    return value


def _divide(left: Number, right: Number) -> Number:
    if isinstance(left, int) and isinstance(right, int) and right and left % right == 0:
        return left // right  # exact, also where a float would round
    return left / right


def _power(base: Number, exponent: Number) -> Number:
    if abs(exponent) > _MOST_EXPONENT:
        # So no power is computed of more than a million bits.
        raise ToolFailed(f"the exponent is too large: the limit is {_MOST_EXPONENT}")
    result = base**exponent
    if isinstance(result, complex):
        raise ToolFailed("the result is not a real number")
    return float(result) if isinstance(result, float) else int(result)


_OPERATORS: dict[type[ast.operator], Callable[[Number, Number], Number]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: _divide,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: _power,
}


def _text(value: Number) -> str:
    """Integers in full; others to the 15 digits a double holds, so 0.1 + 0.2 is 0.3."""
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        value = int(value)
    return str(value) if isinstance(value, int) else f"{value:.15g}"


calculator = define(calculate, name="calculator", effect=Effect.PURE, timeout=5.0)
