"""A door for long prompts: token ids in binary, and not those that the engine has been sent before.

SGLang's own `/generate` takes ids as JSON. A million of them are seven megabytes to write, parse
and check on every turn, of which all but the last few are known. Here

    POST /torpor/generate      one line of JSON (`Head`), then the ids as uint32, little endian

takes them as they are, and `prefix` names ids that an earlier prompt asked to have remembered.
What is remembered is in this process only, and bounded: a prefix that is not there (any more) is
answered with 410, and the client sends all ids.

This runs on the event loop that every answer of the engine streams through, so a known prefix is
copied once and in one piece, into the prompt that SGLang is given; that one is what is remembered.
"""

from __future__ import annotations

from array import array
from collections import OrderedDict
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

PATH = "/torpor/generate"
GONE = 410  # HTTP status: the prefix is not known
CAPACITY = 16 << 20  # token ids, eight bytes each as SGLang keeps them


class Name(BaseModel):
    """page_hash: of the last page, which names all tokens up to its end; tokens: so many."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    page_hash: str
    tokens: int


class Head(BaseModel):
    """Fields as in SGLang's `GenerateReqInput`, but for:

    prefix:   what comes before the ids that follow
    remember: of the whole prompt, for later ones
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    rid: str
    sampling_params: dict[str, Any]
    cache_salt: str
    session_id: str | None = None
    return_logprob: bool = False
    top_logprobs_num: int = 0
    kv_hints: dict[str, Any] | None = None
    prefix: Name | None = None
    remember: Name | None = None


_NOTHING: tuple[array[int], int] = array("q"), 0


class Prefixes:
    """Token ids by name, the longest unused forgotten first."""

    def __init__(self, capacity: int = CAPACITY) -> None:
        self._capacity = capacity
        self._held: OrderedDict[str, tuple[array[int], int]] = OrderedDict()
        """With the number of ids that each counts for."""
        self._tokens = 0

    def followed_by(self, name: Name, rest: array[int]) -> array[int] | None:
        """A new array: the ids of that name and `rest`. None unless so many are known by it."""
        ids, _ = self._held.get(name.page_hash, _NOTHING)
        if len(ids) < name.tokens:  # SGLang may have cut off what its context has no room for
            return None
        self._held.move_to_end(name.page_hash)
        whole = ids[: name.tokens]
        whole.extend(rest)  # usually grows in place
        return whole

    def put(self, name: Name, ids: array[int]) -> None:
        """Hold `ids` itself, which begins with those that the name stands for."""
        _, before = self._held.pop(name.page_hash, _NOTHING)
        self._held[name.page_hash] = ids, len(ids)
        self._tokens += len(ids) - before
        while self._tokens > self._capacity and len(self._held) > 1:
            _, (_, tokens) = self._held.popitem(last=False)
            self._tokens -= tokens


def ids_of(sent: bytes) -> array[int]:
    """sent: uint32[n], little endian. Raises ValueError for what is not whole."""
    ids = array("q")
    ids.frombytes(np.frombuffer(sent, dtype="<u4").astype(np.int64).view(np.uint8).data)
    return ids


def add_to(app: Any) -> None:
    """app: SGLang's FastAPI application, `sglang.srt.entrypoints.http_server.app`."""
    from fastapi import Request, Response
    from fastapi.responses import JSONResponse
    from sglang.srt.entrypoints.http_server import serve_generate_request
    from sglang.srt.managers.io_struct import GenerateReqInput

    prefixes = Prefixes()

    async def generate(request: Request) -> Response:
        first, _, rest = (await request.body()).partition(b"\n")
        try:
            head = Head.model_validate_json(first)
            ids = ids_of(rest)
        except (ValidationError, ValueError) as error:
            return JSONResponse({"error": f"malformed prompt: {error}"}, status_code=400)
        if head.prefix is not None:
            whole = prefixes.followed_by(head.prefix, ids)
            if whole is None:
                return JSONResponse({"error": "the prefix is not known here"}, status_code=GONE)
            ids = whole
        if head.remember is not None and head.remember.tokens <= len(ids):
            prefixes.put(head.remember, ids)
        fields = head.model_dump(exclude={"prefix", "remember"})
        answer: Response = await serve_generate_request(
            GenerateReqInput(input_ids=ids, stream=True, **fields), request
        )
        return answer

    # `Request` is imported late, so FastAPI could not find it from a string annotation.
    generate.__annotations__.update(request=Request, **{"return": None})
    app.add_api_route(PATH, generate, methods=["POST"], response_model=None)
