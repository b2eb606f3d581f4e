"""Which calls may run, which a person is asked about, and which never run."""

from __future__ import annotations

import fnmatch
import json
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import regex

from tools.canonical import plain
from tools.errors import BadDefinition
from tools.patterns import Undecided, is_whole

logger = logging.getLogger(__name__)

_SECONDS = 0.1  # that one pattern of a rule may take


class Verdict(StrEnum):
    ALLOW = "allow"
    ASK = "ask"
    REFUSE = "refuse"


@dataclass(frozen=True)
class Rule:
    """tool:  name, or a pattern of names with `*`
    where: regular expressions by argument; each must match the whole value as the tool gets it,
           however it was written: as text, or as JSON if it is none, where true is `true` and whole
           numbers have no point. One that is left out has its default; without one, or if there is
           no such argument, it matches nothing. A pattern that takes too long is taken to match,
           unless the rule allows
    why:   told to the person who is asked, and to the model that is refused
    Raises BadDefinition for a wrong regular expression.
    """

    tool: str
    verdict: Verdict
    where: Mapping[str, str] = field(default_factory=dict)
    why: str = ""

    def __post_init__(self) -> None:
        for name, pattern in self.where.items():
            try:
                regex.compile(pattern)
            except regex.error as error:
                raise BadDefinition(f"rule of {self.tool}: {name}: {error}") from error

    def matches(self, tool: str, arguments: Mapping[str, Any]) -> bool:
        return fnmatch.fnmatchcase(tool, self.tool) and all(
            name in arguments and self._matches(name, pattern, _text(arguments[name]))
            for name, pattern in self.where.items()
        )

    def _matches(self, name: str, pattern: str, text: str) -> bool:
        try:
            return is_whole(pattern, text, seconds=_SECONDS)
        except Undecided as error:
            logger.warning("rule of %s: %s: %s", self.tool, name, error)
            return self.verdict is not Verdict.ALLOW


class Approval:
    """The first rule that matches a call decides; a call that none matches may run.

    To ask about everything else, end with `Rule("*", Verdict.ASK)`.
    """

    def __init__(self, rules: Iterable[Rule] = ()) -> None:
        self._rules = tuple(rules)

    def rule(self, tool: str, arguments: Mapping[str, Any]) -> Rule:
        """arguments: as the tool gets them, see `Checked.all`"""
        found = (rule for rule in self._rules if rule.matches(tool, arguments))
        return next(found, Rule("*", Verdict.ALLOW))

    def after(self, rules: Iterable[Rule]) -> Approval:
        """These rules, and then its own."""
        return Approval([*rules, *self._rules])


def _text(value: Any) -> str:
    return (
        value if isinstance(value, str) else json.dumps(plain(value), sort_keys=True, default=repr)
    )
