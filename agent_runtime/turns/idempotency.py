"""A request that is sent again with the same idempotency key is answered as it was the first time.

    key, request ── claimed in the store ── made, under ids that the claim names ── answer noted
                         │                      └─ made once, however often it is tried
                         └─ the same key with another request is refused

A turn is more than one write, and its commit may have gone through although nothing could be noted
any more. So its snapshot carries the key: see `answers.py`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from pydantic import BaseModel, ConfigDict

from agent_runtime.caller.identity import current_tenant
from agent_runtime.errors import KeyReused
from agent_runtime.noted import noted
from agent_runtime.settings import RuntimeSettings
from agent_runtime.wire.turns import TurnRequest, TurnResult
from state_store.store import StateStore

Answer = TypeVar("Answer", bound=BaseModel)


class Claim(BaseModel):
    """What the store knows of a key.

    request: digest of what was asked for with it
    ids:     of what is made for it
    answer:  as JSON, None until there is one
    known, head, origin: see `conversations.Place`, whose session is in `ids`
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    request: str
    ids: list[str] = []
    answer: str | None = None
    known: int = 0
    head: str | None = None
    origin: str | None = None


@dataclass(frozen=True)
class Answered:
    """A turn that had a key, as this process knows it without the store. request: as it came"""

    key: str
    request: TurnRequest
    result: TurnResult

    def again(self, request: TurnRequest) -> TurnResult:
        """For who asks with the same key. Raises KeyReused."""
        if request != self.request:
            raise reused(self.key)
        return self.result.model_copy(update={"replayed": True})


class Claims:
    """The keys of who asks, for as long as `request_ttl` says."""

    def __init__(self, store: StateStore, settings: RuntimeSettings) -> None:
        self._store = store
        self._settings = settings

    async def claim(
        self, key: str, what: str, request: BaseModel, ids: Sequence[str] = ()
    ) -> tuple[Claim, bool]:
        """The claim of the first who came with the key, and whether that was now.

        what: is asked for, as in "a turn of ses-…"; ids: to be made if this is the first
        Raises KeyReused, QuotaExceeded.
        """
        asked = Claim(request=digest_of(request, what), ids=list(ids))
        found = await self._store.notes.put_new(
            current_tenant(self._settings.tenant),
            _name(key),
            _packed(asked),
            ttl=self._settings.request_ttl,
        )
        if found is None:
            return asked, True
        claim = _read(key, found)
        if claim.request != asked.request:
            raise reused(key)
        return claim, False

    async def note(self, key: str, claim: Claim) -> None:
        """What is known by now."""
        await self._store.notes.put(
            current_tenant(self._settings.tenant),
            _name(key),
            _packed(claim),
            ttl=self._settings.request_ttl,
            happened=True,
        )

    async def choose(self, key: str, claim: Claim, chosen: Claim) -> Claim:
        """Note what was chosen for a claim as it was read; what somebody else has noted meanwhile
        stays, and is returned."""
        found = await self._store.notes.put_instead(
            current_tenant(self._settings.tenant),
            _name(key),
            _packed(chosen),
            of=_packed(claim),
            ttl=self._settings.request_ttl,
            happened=True,
        )
        return chosen if found is None else _read(key, found)

    async def drop(self, key: str) -> None:
        """What was made for it is no more."""
        await self._store.notes.delete(current_tenant(self._settings.tenant), _name(key))

    async def once(
        self,
        key: str | None,
        what: str,
        request: BaseModel,
        new_ids: Sequence[str],
        make: Callable[[list[str]], Awaitable[Answer]],
        kind: type[Answer],
        lasts: Callable[[Answer], bool] = lambda _: True,
    ) -> Answer:
        """Make what is asked for, or tell what the first one was told.

        new_ids: of what is to be made, unless a claim names others
        make:    makes it under the ids that it is given, or finds it made
        lasts:   whether an answer is one to tell again; else it is made again
        """
        if key is None:
            return await make(list(new_ids))
        claim, _ = await self.claim(key, what, request, new_ids)
        if claim.answer is not None:
            return noted(kind, claim.answer, f"what idempotency key {key[:80]!r} was answered")
        answer = await make(claim.ids)
        if lasts(answer):
            await self.note(key, claim.model_copy(update={"answer": answer.model_dump_json()}))
        return answer


def part_of(key: str, *names: str) -> str:
    """The key of a part of what is asked for with `key`. No client can send it: it has line breaks,
    and headers have none."""
    return "\n".join((key, *names))


def turn_of(session_id: str) -> str:
    """What a turn's key is claimed for."""
    return f"a turn of {session_id}"


def reused(key: str) -> KeyReused:
    return KeyReused(
        f"idempotency key {key[:80]!r} was used for another request; nothing was done. Take a new "
        "key for a new request, and repeat one as it was."
    )


def digest_of(request: BaseModel, what: str = "") -> str:
    """Of a request as it came. what: is asked for with it"""
    asked = json.dumps([what, request.model_dump(mode="json")], sort_keys=True)
    return hashlib.sha256(asked.encode()).hexdigest()


def _name(key: str) -> str:
    return f"key:{hashlib.sha256(key.encode()).hexdigest()}"


def _read(key: str, packed: bytes) -> Claim:
    return noted(Claim, packed, f"what is known of idempotency key {key[:80]!r}")


def _packed(claim: Claim) -> bytes:
    return claim.model_dump_json(exclude_defaults=True).encode()
