"""Medians, and how far the rounds lie apart."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

import numpy as np

from agent_runtime.errors import SetupError


def quartiles(values: Sequence[float], digits: int = 4) -> list[float]:
    """The first and the third; of one value, itself twice."""
    if len(values) < 2:
        return [round(values[0], digits)] * 2
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return [round(low, digits), round(high, digits)]


def power(points: Sequence[float], values: Sequence[float]) -> float:
    """Of the points that values grow with: 0 is flat, 1 linear. Fitted to their logarithms.

    Raises SetupError for less than two points.
    """
    if len(points) < 2:
        raise SetupError("there is no curve through one point; give two lengths or numbers.")
    return round(float(np.polyfit(np.log(points), np.log(values), 1)[0]), 3)
