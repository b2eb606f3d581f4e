"""What tenants make of a runtime, told apart by name as far as `metrics_tenants` goes.

A name is a label's value for as long as the process lives, so only so many are: whoever makes
tenants by the thousand does not make as many time series.
"""

from __future__ import annotations

from collections import Counter

from agent_runtime.http.instruments import Instruments
from agent_runtime.wire.scheduling import EngineSlots
from agent_runtime.wire.turns import Usage

_OTHERS = "other"


class TenantMetrics:
    def __init__(self, made: Instruments, *, most: int) -> None:
        """most: tenants that are named, those that are met first; 0: nothing is told"""
        self._most = most
        self._named: set[str] = set()
        self._turns = made.counter(
            "torpor.tenant_turns", "Turns that ended with a result", "tenant"
        )
        self._tokens = made.counter(
            "torpor.tenant_tokens",
            "Tokens of turns: input, output, and those of the input that were reused (cache_read)",
            "tenant",
            "type",
        )
        self._waiting = made.gauge("torpor.tenant_waiting", "Turns that wait for a slot", "tenant")

    def turn(self, tenant: str, usage: Usage) -> None:
        if not self._most:
            return
        name = self._name(tenant)
        self._turns.add(tenant=name)
        for kind, tokens in (
            ("input", usage.prompt_tokens),
            ("output", usage.completion_tokens),
            ("cache_read", usage.reused_tokens),
        ):
            self._tokens.add(tokens, tenant=name, type=kind)

    def waiting(self, engines: list[EngineSlots]) -> None:
        """At this moment."""
        self._waiting.clear()
        if not self._most:
            return
        counted: Counter[str] = Counter()
        for engine in engines:
            for tenant, turns in engine.waiting.items():
                counted[self._name(tenant)] += turns
        for name, turns in counted.items():
            self._waiting.set(turns, tenant=name)

    def _name(self, tenant: str) -> str:
        if tenant not in self._named and len(self._named) < self._most:
            self._named.add(tenant)
        return tenant if tenant in self._named else _OTHERS
