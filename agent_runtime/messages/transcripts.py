"""The messages of a session that follows its template, kept with the turns that they were said in.

    snapshot.meta["said"]   messages: what the turn said
                            answer:   what the model answered
                            goes_on:  whether that is the whole of an answer begun a turn before
                            begun:    in a fork inside of a turn, which has no answer: whether the
                                      tokens end with the beginning of one

So they are sealed, exported, forked, rewound and deleted with the history, and a turn writes its
own only.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from agent_runtime.errors import NoMessages
from agent_runtime.messages.chat import ChatFormat
from agent_runtime.messages.histories import History
from agent_runtime.messages.shown import Showing
from agent_runtime.wire.messages import Message
from state_store.records import Session, Snapshot
from state_store.store import StateStore

KEY = "said"  # in the meta of a snapshot


@dataclass(frozen=True)
class Transcript:
    """said:     all messages up to a snapshot
    text:     of its token ids, see `ChatFormat.marked`
    answered: whether the last message is the model's, whole or in part
    unsaved:  the last of the messages, if no snapshot has it in its meta
    """

    said: tuple[Message, ...]
    text: str
    answered: bool = True
    unsaved: tuple[Message, ...] = ()


class Transcripts:
    """An LRU of transcripts by snapshot id, read from the store when not held."""

    def __init__(self, store: StateStore, capacity: int = 32) -> None:
        self._store = store
        self._capacity = capacity
        self._held: OrderedDict[str, Transcript] = OrderedDict()

    async def of(
        self, session: Session, history: History, chat: ChatFormat, showing: Showing
    ) -> Transcript:
        """Of the session's head. Raises NoMessages, NotFound."""
        if session.head is None:
            return Transcript((), "", answered=False)
        found = self._held.get(session.head)
        if found is None:
            snapshots = await self._store.ancestors(session.head)
            said = said_in(session, snapshots)
            answered = snapshots[-1].meta[KEY]["answer"] is not None
            found = Transcript(tuple(said), chat.marked(history.tokens), answered)
            if snapshots[-1].meta[KEY].get("begun"):
                begun = showing.answer_in(found.text)
                found = replace(found, said=(*said, begun), answered=True, unsaved=(begun,))
        self.hold(session.head, found)
        return found

    def hold(self, snapshot_id: str, transcript: Transcript) -> None:
        self._held[snapshot_id] = transcript
        self._held.move_to_end(snapshot_id)
        while len(self._held) > self._capacity:
            self._held.popitem(last=False)


def said_in(session: Session, snapshots: Sequence[Snapshot]) -> list[Message]:
    """What these snapshots of the session's history, one after the other, have in their meta.
    Raises NoMessages."""
    said: list[Message] = []
    answer: Message | None = None
    for snapshot in snapshots:
        entry = snapshot.meta.get(KEY)
        if entry is None:
            raise NoMessages(
                f"the messages of {snapshot.id} are not known, so {session.id} cannot be rendered "
                "as its template shows it: the snapshot is from a fork inside a message. The "
                "session is unchanged. Fork where a message ends."
            )
        if not entry["goes_on"]:
            said += [] if answer is None else [answer]
            said += [Message.model_validate(one) for one in entry["messages"]]
        answer = None if entry["answer"] is None else Message.model_validate(entry["answer"])
    return [*said, *([] if answer is None else [answer])]


def meta_of(
    messages: Sequence[Message], answer: Message, *, goes_on: bool = False
) -> dict[str, Any]:
    """Of a turn's snapshot."""
    plain = [_plain(message) for message in messages]
    return {KEY: {"messages": plain, "answer": _plain(answer), "goes_on": goes_on}}


def goes_on(snapshot: Snapshot) -> bool:
    """Whether its turn went on with an answer that was begun before."""
    return bool(snapshot.meta.get(KEY, {}).get("goes_on"))


def part_of(whole: Snapshot, tokens: int) -> dict[str, Any]:
    """The meta of a fork's snapshot that has only the first part of a turn, up to so many tokens of
    the history. Inside of a prompt it is not known which messages it has."""
    entry, prompt_tokens = whole.meta.get(KEY), whole.meta.get("prompt_tokens")
    if entry is None or prompt_tokens is None or tokens < prompt_tokens:
        return {}
    return {KEY: {**entry, "answer": None, "begun": tokens > prompt_tokens}}


def _plain(message: Message) -> dict[str, Any]:
    return message.model_dump(mode="json", exclude_defaults=True)
