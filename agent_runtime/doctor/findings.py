"""What a check says."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Level(Enum):
    OK = "ok"
    WARN = "warn"
    """It works, but not as well, as fast or as safely as it should."""
    FAIL = "fail"
    """Something will not work, or state will be lost."""


@dataclass(frozen=True)
class Finding:
    """subject: what was looked at; found: what is there; why: why it matters; fix: what to do.

    `why` and `fix` are empty where all is well.
    """

    level: Level
    subject: str
    found: str
    why: str = ""
    fix: str = ""


def ok(subject: str, found: str) -> Finding:
    return Finding(Level.OK, subject, found)


def warn(subject: str, found: str, *, why: str, fix: str) -> Finding:
    return Finding(Level.WARN, subject, found, why, fix)


def fail(subject: str, found: str, *, why: str, fix: str) -> Finding:
    return Finding(Level.FAIL, subject, found, why, fix)
