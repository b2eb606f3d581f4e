"""A session's head as an entity tag (RFC 9110): `ETag`, `If-Match`, `If-None-Match`.

The tag names the head and nothing else: where its state is, labels, and a turn that runs may change
under the same tag.
"""

from __future__ import annotations

import re
from typing import Annotated, Protocol, Self, TypeVar

from fastapi import Depends, Header, Request, Response

from agent_runtime.errors import BadRequest, HeadMoved
from agent_runtime.http.document import Responses, one_problem
from state_store.store import StateStore

UNCHANGED: Responses = {304: {"description": "Not Modified: the head is the one that is known"}}
MOVED: Responses = {412: one_problem(412, HeadMoved.code)}
"""Of a route that takes If-Match."""

_TAG = r'(?:W/)?"[!#-~]*"'
_TAGS = re.compile(rf"\s*{_TAG}\s*(?:,\s*{_TAG}\s*)*")
_WEAK = "W/"


IfNoneMatch = Annotated[str | None, Header(description="An `ETag` that the client has.")]


class _ExpectsHead(Protocol):
    @property
    def expected_head(self) -> str | None: ...

    def model_copy(self, *, update: dict[str, str]) -> Self: ...


_Request = TypeVar("_Request", bound=_ExpectsHead)


def tag_of(head: str | None) -> str:
    """`""` for a session without a turn."""
    return f'"{head or ""}"'


def name_head(response: Response, head: str | None) -> None:
    """Answer with the head's tag."""
    response.headers["ETag"] = tag_of(head)


def is_known(if_none_match: str | None, head: str | None) -> bool:
    """Whether the client has the session as of this head already. Raises BadRequest."""
    if if_none_match is None:
        return False
    tags = _tags(if_none_match, "If-None-Match")
    return tags is None or tag_of(head) in {tag.removeprefix(_WEAK) for tag in tags}


async def _matched(
    http: Request,
    session_id: str,
    if_match: Annotated[
        str | None,
        Header(
            description="Do nothing unless this is the session's `ETag`: its head, in quotes. "
            "Otherwise 412 `head_moved`."
        ),
    ] = None,
) -> str | None:
    """The head that the request is to be held to, as `expected_head`. Raises HeadMoved."""
    tags = None if if_match is None else _tags(if_match, "If-Match")
    if tags is None:
        return None
    strong = [tag.strip('"') for tag in tags if not tag.startswith(_WEAK)]
    if len(tags) == 1 and strong:
        return strong[0]  # compared where nobody can move it any more
    store: StateStore = http.app.state.store
    head = (await store.session(session_id)).head or ""
    if head not in strong:
        raise HeadMoved(
            f"head of {session_id} is {head or 'empty'}, and If-Match names others; nothing was "
            "done. Read the session again and decide, or fork it where you were."
        )
    return head


Match = Annotated[str | None, Depends(_matched)]
"""For a route with `session_id`."""


def held_to(request: _Request, match: str | None) -> _Request:
    """The request, with the head of If-Match as its `expected_head`. Raises BadRequest."""
    expected = merged(request.expected_head, match)
    return request if expected is None else request.model_copy(update={"expected_head": expected})


def merged(expected_head: str | None, match: str | None) -> str | None:
    """Raises BadRequest if they contradict each other."""
    if None not in (expected_head, match) and expected_head != match:
        raise BadRequest(
            f"If-Match names the head {match or 'empty'} and `expected_head` "
            f"{expected_head or 'empty'}; send one of them. Nothing was done."
        )
    return match if expected_head is None else expected_head


def _tags(header: str, name: str) -> list[str] | None:
    """None for `*`. Raises BadRequest."""
    if header.strip() == "*":
        return None
    if not _TAGS.fullmatch(header):
        raise BadRequest(
            f"{name} takes entity tags in quotes, as ETag has them, or *; nothing was done."
        )
    return re.findall(_TAG, header)
