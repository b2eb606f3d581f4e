"""Traces: who asked for how much, and how long their tools took. One line of JSON per turn.

    {"session": "s17", "tenant": "b", "arrival": 31.5, "prompt": 5120, "output": 180,
     "tool": "shell", "seconds": 4.2}

Lines of a session are in the order of its turns. `arrival` counts for its first turn; each later
one is asked for `seconds` after the one before has ended.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from agent_runtime.errors import SetupError
from agent_runtime.scheduling.tool_times import REPLY


class Row(BaseModel):
    """arrival, seconds: seconds; prompt, output: tokens that the turn adds; tool: REPLY (empty) if
    a person reads the answer."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    session: str
    tenant: str = "default"
    arrival: Annotated[float, Field(ge=0)] = 0.0
    prompt: Annotated[int, Field(ge=1)]
    output: Annotated[int, Field(ge=1)]
    tool: str = REPLY
    seconds: Annotated[float, Field(ge=0)] = 0.0


@dataclass(frozen=True)
class Session:
    """All turns of one, in order."""

    name: str
    tenant: str
    arrival: float
    turns: tuple[Row, ...]


def read(path: Path) -> list[Row]:
    """Raises SetupError, naming the line."""
    rows = []
    try:
        lines = path.read_text("utf-8").splitlines()
    except OSError as error:
        raise SetupError(f"the trace {path} cannot be read: {error}") from error
    for number, line in enumerate(lines, start=1):
        try:
            rows.append(Row.model_validate_json(line))
        except ValidationError as error:
            why = error.errors()[0]
            where = ".".join(map(str, why["loc"]))
            raise SetupError(f"{path}, line {number}: {where} {why['msg']}") from error
    if not rows:
        raise SetupError(f"the trace {path} is empty.")
    return rows


def write(rows: Iterable[Row], path: Path) -> None:
    path.write_text("".join(row.model_dump_json() + "\n" for row in rows), "utf-8")


def sessions_of(rows: Iterable[Row]) -> list[Session]:
    """By arrival."""
    turns: dict[str, list[Row]] = {}
    for row in rows:
        turns.setdefault(row.session, []).append(row)
    sessions = [
        Session(name, rows[0].tenant, rows[0].arrival, tuple(rows)) for name, rows in turns.items()
    ]
    return sorted(sessions, key=lambda session: (session.arrival, session.name))


# ---- made up ------------------------------------------------------------------------

_TENANTS = ("a", "b", "c", "d")
_TOOLS = {  # share of tool calls, median seconds, sigma of the logarithm
    "search": (0.40, 0.8, 0.5),
    "shell": (0.30, 4.0, 0.8),
    "browser": (0.20, 12.0, 0.6),
    "tests": (0.10, 60.0, 0.5),
}
_REPLIES = (0.25, 90.0, 1.2)  # the same of turns after which a person reads
_TURNS = 9.0  # mean
_FIRST = (6000, 0.8)  # tokens of the first prompt: median, sigma
_LATER = (700, 1.0)
_OUTPUT = (150, 0.7)


def generate(sessions: int, *, rate: float, seed: int) -> Iterator[Row]:
    """Agents that call tools: Poisson arrivals at `rate` per second, of tenants of which each has
    half as many sessions as the one before; geometric numbers of turns; a long first prompt, then
    short ones; lognormal sizes and durations. The constants are above, and are no measurement."""
    rng = random.Random(seed)
    weights = [0.5**rank for rank in range(len(_TENANTS))]
    now = 0.0
    for number in range(sessions):
        now += rng.expovariate(rate)
        (tenant,) = rng.choices(_TENANTS, weights)
        turn = 0
        while True:
            tool, seconds = _pause(rng)
            yield Row(
                session=f"s{number}",
                tenant=tenant,
                arrival=round(now, 3),
                prompt=_tokens(rng, *(_LATER if turn else _FIRST)),
                output=_tokens(rng, *_OUTPUT),
                tool=tool,
                seconds=round(seconds, 3),
            )
            turn += 1
            if rng.random() < 1 / _TURNS:
                break


def _pause(rng: random.Random) -> tuple[str, float]:
    share, median, sigma = _REPLIES
    if rng.random() < share:
        return REPLY, _lognormal(rng, median, sigma)
    shares = [tool[0] for tool in _TOOLS.values()]
    (name,) = rng.choices(list(_TOOLS), shares)
    _, median, sigma = _TOOLS[name]
    return name, _lognormal(rng, median, sigma)


def _tokens(rng: random.Random, median: float, sigma: float) -> int:
    return max(1, round(_lognormal(rng, median, sigma)))


def _lognormal(rng: random.Random, median: float, sigma: float) -> float:
    return rng.lognormvariate(math.log(median), sigma)
