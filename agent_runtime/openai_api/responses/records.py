"""Responses as they are kept: with the session that their snapshot is in, and gone with it.

    note of the tenant: response id ──> session ── attachments: response id ──> record
                                                                snapshot    ──> response id

A record has what the request said and what was answered, and not what came before: that is in the
record of the response that it follows. The same holds where a request sends a whole conversation:
of the items that its session has already it keeps a link to the response that they led to.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from pydantic import BaseModel, ConfigDict

from agent_runtime.caller.identity import current_tenant
from agent_runtime.errors import NotFound
from agent_runtime.noted import noted
from agent_runtime.openai_api.responses.items import Item
from agent_runtime.settings import RuntimeSettings
from state_store import errors as store_errors
from state_store.attachments import Attached
from state_store.records import Session
from state_store.store import StateStore

_OF_ONE_SENDING = ("id", "status")  # of an item: the same one may be sent again with others
_OF_CONVERSATIONS = ("id", "conversation", "instructions", "output")


class ResponseRecord(BaseModel):
    """One response.

    response:    as it is shown
    input:       the items of the request, but those that it begins with
    session_id, snapshot: that it is
    previous:    id of the response that it follows, which is in the session previous_session_id
    begins_with: id of the response whose items, output included, the request repeats
    followed_by: id of the one that begins with this one's
    behind:      id of the response that was last in its conversation when it was asked for
    count, digest: of all items that led to it, its own output included; 0 and "" if they were not
                 counted when it was stored
    deleted:     for who asks for it; its items are still those of its conversation
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    response: dict[str, Any]
    input: list[Item]
    session_id: str
    snapshot: str
    previous: str | None = None
    previous_session_id: str | None = None
    begins_with: str | None = None
    followed_by: str | None = None
    behind: str | None = None
    count: int = 0
    digest: str = ""
    deleted: bool = False

    @property
    def id(self) -> str:
        return str(self.response["id"])

    @property
    def conversation_id(self) -> str | None:
        named = self.response["conversation"]
        return None if named is None else str(named["id"])


class _Seen(NamedTuple):
    record: ResponseRecord
    attached: Attached


class ResponseRecords:
    """Of the tenant who asks. What is another's is not there."""

    def __init__(self, store: StateStore, settings: RuntimeSettings) -> None:
        self._store = store
        self._settings = settings

    async def put(self, record: ResponseRecord, *, parent: str | None) -> None:
        """parent: the snapshot that its own was committed on. Raises NotFound if its session is
        gone, QuotaExceeded."""
        session = await self._store.session(record.session_id)
        while not await self._kept(session, record, parent):
            pass  # somebody has changed what it begins with
        ttl = self._settings.response_ttl
        place = session.id.encode()  # of what is kept already
        await self._store.notes.put(self._tenant, _name(record.id), place, ttl=ttl, happened=True)

    async def get(self, response_id: str) -> tuple[ResponseRecord, Session]:
        """With its session as it is now. Raises NotFound."""
        record, session = await self.kept(response_id)
        if record.deleted:
            raise _not_found(response_id)
        return record, session

    async def kept(self, response_id: str) -> tuple[ResponseRecord, Session]:
        """As `get`, one too that is deleted and whose items are still its conversation's."""
        session = await self._session(response_id)
        seen = await self._read(session, response_id)
        if seen is None:
            raise _not_found(response_id)
        return seen.record, session

    async def hide(self, record: ResponseRecord) -> None:
        """Delete all of it but its items, which are its conversation's."""
        session = await self._at(record.session_id, record.id)
        while (seen := await self._read(session, record.id)) is not None:
            now, _ = seen
            shown = {name: now.response[name] for name in _OF_CONVERSATIONS}
            hidden = now.model_copy(update={"response": shown, "deleted": True})
            if await self._write(session, hidden, seen=[seen]):
                return

    async def delete(self, record: ResponseRecord) -> None:
        """What another response's request has repeated stays as a part of that."""
        session = await self._at(record.session_id, record.id)
        while not await self._deleted(session, record.id):
            pass  # somebody has changed what it is a part of
        await self._store.notes.delete(self._tenant, _name(record.id))

    async def chain(self, record: ResponseRecord) -> tuple[list[ResponseRecord], bool]:
        """The response and those that led to it, the latest first; and whether none is missing,
        since none was deleted that is not of the same conversation."""
        chain = [record]
        while (before_id := chain[-1].begins_with or chain[-1].previous) is not None:
            try:
                before = await self._before(chain[-1], before_id)
            except NotFound:
                return chain, False
            if before.deleted and before.conversation_id != record.conversation_id:
                return chain, False
            chain.append(before)
        return chain, True

    async def history(self, record: ResponseRecord) -> tuple[list[Item], bool]:
        """All items that led to the response, its own output last; and whether none is missing."""
        chain, is_whole = await self.chain(record)
        items = [item for one in reversed(chain) for item in (*one.input, *one.response["output"])]
        return items, is_whole

    async def _before(self, record: ResponseRecord, before_id: str) -> ResponseRecord:
        """Found in its session, which lives longer than the note of its id. Raises NotFound."""
        place = record.session_id if record.begins_with else record.previous_session_id
        if place is None:  # it was not written down when the record was stored
            return (await self.kept(before_id))[0]
        before = await self._read(await self._at(place, before_id), before_id)
        if before is None:
            raise _not_found(before_id)
        return before.record

    async def _kept(self, session: Session, record: ResponseRecord, parent: str | None) -> bool:
        """Whether it is: it is not if what it begins with is not as it was read any more."""
        if not _is_linked(record):
            return await self._write(session, record)
        before = await self._repeated(session, record, parent)
        at = {_place(record.snapshot): record.id.encode()}
        if before is None:
            return await self._write(session, record, more=at)
        update = {"input": record.input[before.record.count :], "begins_with": before.record.id}
        linked = before.record.model_copy(update={"followed_by": record.id})
        shorter = record.model_copy(update=update)
        return await self._write(session, linked, shorter, more=at, seen=[before])

    async def _repeated(
        self, session: Session, record: ResponseRecord, parent: str | None
    ) -> _Seen | None:
        """The response at `parent`, in the same session, if the record begins with its items."""
        place = None if parent is None else _place(parent)
        found = None if place is None else await self._store.attachments.get(session, place)
        before = None if found is None else await self._read(session, found.decode())
        if before is None:
            return None
        one = before.record
        if one.deleted or one.followed_by not in (None, record.id) or not one.digest:
            return None
        return before if digest_of(record.input[: one.count]) == one.digest else None

    async def _deleted(self, session: Session, response_id: str) -> bool:
        """Whether it is: it is not if one that it is linked with has been changed meanwhile."""
        seen = await self._read(session, response_id)
        if seen is None:
            return True
        record = seen.record
        following = await self._read(session, record.followed_by)
        before = await self._read(session, record.begins_with)
        changed: list[ResponseRecord] = []
        if following is not None:
            update = {
                "input": [*record.input, *record.response["output"], *following.record.input],
                "begins_with": record.begins_with,
            }
            changed.append(following.record.model_copy(update=update))
        if before is not None:
            update = {"followed_by": None if following is None else following.record.id}
            changed.append(before.record.model_copy(update=update))
        # In one go: what stays takes no more than what goes, also where the quota is full.
        gone: dict[str, bytes | None] = {_place(record.snapshot): None, _name(record.id): None}
        known = [one for one in (seen, following, before) if one is not None]
        return await self._write(session, *changed, more=gone, seen=known)

    async def _read(self, session: Session, response_id: str | None) -> _Seen | None:
        if response_id is None:
            return None
        found = await self._store.attachments.read(session, _name(response_id))
        if found is None:
            return None
        return _Seen(noted(ResponseRecord, found.value, f"response {response_id[:100]}"), found)

    async def _write(
        self,
        session: Session,
        *records: ResponseRecord,
        more: Mapping[str, bytes | None] | None = None,
        seen: Sequence[_Seen] = (),
    ) -> bool:
        """All of it, if those that were seen are as they were; else nothing, and False."""
        values = dict(more or {})
        for record in records:
            values[_name(record.id)] = record.model_dump_json(exclude_defaults=True).encode()
        marks = {_name(one.record.id): one.attached for one in seen}
        ttl = self._settings.response_ttl
        return await self._store.attachments.change(session, values, ttl=ttl, seen=marks)

    async def _session(self, response_id: str) -> Session:
        (place,) = await self._store.notes.get(self._tenant, [_name(response_id)])
        if place is None:
            raise _not_found(response_id)
        return await self._at(place.decode(errors="replace"), response_id)

    async def _at(self, session_id: str, response_id: str) -> Session:
        """Raises NotFound for the response."""
        try:
            return await self._store.session(session_id, tenant=self._tenant)
        except (store_errors.NotFound, store_errors.InvalidId):  # a damaged note names no session
            raise _not_found(response_id) from None

    @property
    def _tenant(self) -> str:
        return current_tenant(self._settings.tenant)


def digest_of(items: Sequence[Item], before: str = "") -> str:
    """Of what items say, one after the other. before: of those that come before them"""
    for item in items:
        said = {name: value for name, value in item.items() if name not in _OF_ONE_SENDING}
        text = json.dumps([before, said], sort_keys=True)
        before = hashlib.sha256(text.encode()).hexdigest()
    return before


def _is_linked(record: ResponseRecord) -> bool:
    """Whether its request has sent a whole conversation. Items that are of a conversation of the
    API are not: they stay when their response is deleted."""
    return record.previous is None and record.conversation_id is None


def _not_found(response_id: str) -> NotFound:
    return NotFound(
        f"no response {response_id[:100]}: it was not kept, or is deleted or expired, or its "
        "session is."
    )


def _name(response_id: str) -> str:
    return f"response:{response_id}"


def _place(snapshot: str) -> str:
    return f"at:{snapshot}"
