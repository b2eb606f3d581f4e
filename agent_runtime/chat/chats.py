"""Chats are sessions with labels: the name that a person knows, and when it was last opened."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Sequence

from agent_runtime.errors import NotFound
from agent_runtime.sdk import ApiError, Torpor
from agent_runtime.wire.sessions import Forked, SessionView
from tools.define import ToolSpec

NAME, OPENED = "chat", "opened"
_CLIENT = {"client": "torpor-chat"}
_ID = re.compile(r"ses-[0-9a-z]+-[0-9a-z]+")
_NUMBERED = re.compile(r"chat-(\d+)")


def name_of(view: SessionView) -> str:
    """What a person calls it: its id if it has no name."""
    return view.labels.get(NAME, view.id)


async def all_chats(torpor: Torpor) -> list[SessionView]:
    """Those that were opened last first."""
    views = [view async for view in torpor.sessions(labels=_CLIENT)]
    return sorted(views, key=_opened, reverse=True)


async def newest(torpor: Torpor) -> SessionView:
    """Of those in which something was said. Raises NotFound."""
    for view in await all_chats(torpor):
        if view.head is not None or view.turn is not None:
            return view
    raise NotFound("there is no chat to go on with; `torpor chat` begins one.")


async def found(torpor: Torpor, name: str) -> SessionView | None:
    """The chat with this name that was opened last, or any session by its id. Raises ApiError for
    an id of none."""
    if _ID.fullmatch(name):
        return await torpor.get(name)
    named = [view for view in await all_chats(torpor) if name_of(view) == name]
    return named[0] if named else None


async def begun(
    torpor: Torpor, name: str | None, *, system: str | None, tools: Sequence[ToolSpec]
) -> SessionView:
    """A new one. name: one is made if none is given."""
    name = name or unused_name(await all_chats(torpor))
    return await torpor.create(system=system, tools=tools, labels=_labels(name))


async def opened(torpor: Torpor, view: SessionView) -> SessionView:
    """Note that it is, so that it is the one to go on with."""
    return await torpor.set_labels(view.id, view.labels | _labels(name_of(view)))


async def forked(
    torpor: Torpor,
    view: SessionView,
    *,
    snapshot: str | None = None,
    tokens: int | None = None,
    idempotency_key: str | None = None,
) -> Forked:
    """A fork with a name of its own, after its parent's."""
    # Its name and the time come after it: asked for again under a key, it must be the same request.
    fork = await torpor.fork(
        view.id, snapshot=snapshot, tokens=tokens, labels=_CLIENT, idempotency_key=idempotency_key
    )
    known = {one.id: one for one in await all_chats(torpor)}
    if fork.id in known and NAME in known[fork.id].labels:  # it was asked for before
        labels = known[fork.id].labels
    else:
        taken = {name_of(one) for one in known.values()}
        base = re.sub(r"/\d+$", "", name_of(view))
        name = next(name for n in range(2, len(taken) + 3) if (name := f"{base}/{n}") not in taken)
        labels = (await torpor.set_labels(fork.id, _labels(name))).labels
    return fork.model_copy(update={"labels": labels})


async def forget_if_empty(torpor: Torpor, session_id: str) -> bool:
    """Delete a session in which nothing is said; whether it was one."""
    view = await torpor.get(session_id)
    if view.head is not None or view.turn is not None or view.kept_turns:
        return False
    try:
        await torpor.delete(session_id, expected_head="")
    except ApiError as error:
        if error.code != "head_moved":
            raise
        return False
    return True


def unused_name(views: Iterable[SessionView]) -> str:
    numbers = [int(found[1]) for view in views if (found := _NUMBERED.fullmatch(name_of(view)))]
    return f"chat-{max(numbers, default=0) + 1}"


def _labels(name: str) -> dict[str, str]:
    return {**_CLIENT, NAME: name, OPENED: f"{time.time():.3f}"}


def _opened(view: SessionView) -> float:
    try:
        return float(view.labels.get(OPENED, ""))
    except ValueError:
        return view.created_at
