"""Async client of one engine's HTTP API: SGLang's own, and our door for prompts.

Upstream: `sglang/srt/entrypoints/http_server.py`, request fields in
`sglang/srt/managers/io_struct.py` (`GenerateReqInput`). Prompts: `engine/prompts.py`.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import re
import secrets
import ssl
import sys
from array import array
from collections import OrderedDict
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any

import httpx

from engine.boundaries import hinted
from engine.errors import EngineRefused, EngineUnreachable, GrammarRefused, LoadFailed
from engine.lines import lines_of
from engine.linker.config import RECOMPUTE
from engine.prompts import GONE, PATH, Head, Name
from engine.routing import BOOT_ID, ROUTING_KEY, carried
from engine.tracing import HOOKS

_NAMES = 1024  # prefixes that a client believes its engine remembers
_GRAMMAR = re.compile(r"((?:Failed to compile|Grammar).*? grammar.*?)(?:\\n|\"|$)")
_PLACE = re.compile(r"\[\d\d:\d\d:\d\d\] \S+:\d+: ")  # of xgrammar's logs: a clock, a file, a line
EVERY_TURN = httpx.Limits(max_connections=None)  # the engine queues, and is looked at meanwhile
_UNREADABLE = (AttributeError, IndexError, KeyError, RecursionError, TypeError, ValueError)
_SHOWN = 200  # characters of an event that cannot be read
_NOT_HERE = (502, 503, 504)  # an engine that is full or about to end; a router without engines


@dataclass(frozen=True)
class Sampling:
    """Decoding choices of one turn. `temperature` 0 is greedy.

    structural_tag: what the text must be, as xgrammar writes that in JSON; see `constraints.py`
    """

    max_new_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 1.0
    stop_token_ids: tuple[int, ...] = ()
    seed: int | None = None
    ignore_eos: bool = False
    structural_tag: str | None = None

    def as_params(self) -> dict[str, Any]:
        params: dict[str, Any] = {
            "max_new_tokens": self.max_new_tokens,
            "temperature": self.temperature,
            "top_p": self.top_p,
            "ignore_eos": self.ignore_eos,
        }
        if self.stop_token_ids:
            params["stop_token_ids"] = list(self.stop_token_ids)
        if self.seed is not None:
            params["sampling_seed"] = self.seed
        if self.structural_tag is not None:
            params["structural_tag"] = self.structural_tag
        return params


@dataclass(frozen=True)
class Load:
    """What an engine is busy with, all its data-parallel ranks together. `tokens`: held in KV."""

    running: int
    waiting: int
    tokens: int


@dataclass(frozen=True)
class Chunk:
    """What one event of the stream brought.

    new_ids:       ids generated since the last chunk
    cached_tokens: prompt tokens that were not computed again
    finish_reason: `stop`, `length`, or None while the stream goes on
    accept_length: mean tokens committed per verify step (MTP), None without speculation
    logprobs:      per new id: [logprob, id] of the chosen token and its alternatives
    boot_id:       of the engine that answers; None if it does not run our plugin
    """

    new_ids: tuple[int, ...]
    cached_tokens: int
    finish_reason: str | None
    accept_length: float | None
    logprobs: tuple[TokenLogprobs, ...] = ()
    boot_id: str | None = None


@dataclass(frozen=True)
class TokenLogprobs:
    """Log-probabilities at one generated position: the chosen id and the most likely ones."""

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...]


class EngineClient:
    """One engine. Raises EngineUnreachable, EngineRefused or LoadFailed; nothing else."""

    def __init__(self, url: str, *, timeout: float = 600.0, routed: bool = False) -> None:
        """routed: the URL is a router's, with engines behind it: see `engine/routing.py`."""
        self.url = url
        self._routed = routed
        self._aborts: set[asyncio.Task[None]] = set()
        self._remembered: OrderedDict[str, int] = OrderedDict()
        self._http = httpx.AsyncClient(
            base_url=url,
            timeout=httpx.Timeout(timeout, connect=5.0),
            limits=EVERY_TURN,
            trust_env=False,
            verify=_trusted(),
            event_hooks=HOOKS,
        )

    @property
    def is_closed(self) -> bool:
        return self._http.is_closed

    async def close(self) -> None:
        if self._aborts:
            await asyncio.wait(self._aborts)
        await self._http.aclose()

    async def knock(self, *, timeout: float) -> None:
        """See whether somebody listens, by connecting and no more. One that is too busy to accept
        within `timeout` s is there. Raises EngineUnreachable when nobody listens."""
        self._require_open()
        url = self._http.base_url
        port = url.port or (443 if url.scheme == "https" else 80)
        try:
            async with asyncio.timeout(timeout):
                _, writer = await asyncio.open_connection(url.host, port)
        except TimeoutError:
            return
        except OSError as error:
            raise EngineUnreachable(f"engine {self.url} does not answer: {error}") from error
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()

    async def load(self, *, timeout: float) -> Load | None:
        """Its load; None when it is there but does not tell it within `timeout` s, or in another
        form.

        From SGLang's `/v1/loads`, which asks no scheduler: unlike `/health` it costs no token.
        Raises EngineUnreachable when nobody listens.
        """
        self._require_open()
        try:
            response = await self._http.get(
                "/v1/loads", params={"include": "core"}, timeout=timeout
            )
        except httpx.TimeoutException:
            return None
        except httpx.HTTPError as error:
            raise EngineUnreachable(f"engine {self.url} does not answer: {error}") from error
        if response.status_code != 200:
            return None
        try:
            ranks = response.json()["loads"]
            return Load(
                running=sum(int(rank["num_running_reqs"]) for rank in ranks),
                waiting=sum(int(rank["num_waiting_reqs"]) for rank in ranks),
                tokens=sum(int(rank["num_used_tokens"]) for rank in ranks),
            )
        except (KeyError, TypeError, ValueError):
            return None

    async def generate(
        self,
        input_ids: Sequence[int],
        sampling: Sampling,
        *,
        salt: str,
        session_id: str | None = None,
        routing_key: str | None = None,
        top_logprobs: int = 0,
        page_hashes: Sequence[str] = (),
        page_size: int = 1,
        restore: bool = True,
        boundary_interval: int | None = None,
        marks: Sequence[int] = (),
    ) -> AsyncGenerator[Chunk]:
        """Stream a continuation of exactly `input_ids`. The engine ends it if it is not read on.

        salt: the tenant's cache salt, part of every page's identity.
        session_id: tags the device's cache entries, see `release`.
        routing_key: what a router with policy `manual` keeps on one engine.
        page_hashes: names of the prompt's whole pages of `page_size` tokens, if known: the engine
        remembers the ids by them, and those that it remembers are not sent again.
        boundary_interval: most tokens between the states that the engine stores inside the prompt;
        None for the engine's own choice.
        marks: token counts inside the prompt at which one is stored besides; without
        boundary_interval they are not told.
        restore: False to compute what is not on the device, even if it could be loaded.
        """
        self._require_open()
        ids = input_ids if isinstance(input_ids, array) else array("I", input_ids)
        head = Head(
            rid=("" if restore else RECOMPUTE) + secrets.token_hex(16),
            sampling_params=sampling.as_params(),
            cache_salt=salt,
            session_id=session_id,
            return_logprob=bool(top_logprobs),
            top_logprobs_num=top_logprobs,
            kv_hints=None if boundary_interval is None else hinted(boundary_interval, marks),
            prefix=self._known(page_hashes, page_size),
            remember=_name(page_hashes, page_size),
        )
        seen, finished = 0, False
        try:
            async with (
                self._opened_by_router(head, ids, routing_key)
                if self._routed
                else self._opened(head, ids)
            ) as response:
                if response.status_code != 200:
                    raise _refusal(response.status_code, await response.aread())
                if head.remember is not None:
                    self._remember(head.remember)
                async for line in lines_of(response):
                    if not line.startswith("data:") or line == "data: [DONE]":
                        continue
                    chunk = self._chunk(line, seen)
                    seen += len(chunk.new_ids)
                    finished = chunk.finish_reason is not None
                    yield chunk
        except (asyncio.CancelledError, GeneratorExit):
            self._abort(head.rid)
            raise
        except httpx.HTTPError as error:
            raise EngineUnreachable(
                f"engine {self.url} broke off: {error or type(error).__name__}."
            ) from error
        if not finished:
            raise EngineUnreachable(f"engine {self.url} ended its answer in the middle.")

    def _chunk(self, line: str, seen: int) -> Chunk:
        """seen: ids that came before"""
        try:
            event = json.loads(line.removeprefix("data:"))
            if "error" in event:
                raise _refusal(_code_of(event["error"]), line.encode())
            return _chunk(event, seen)
        except _UNREADABLE as error:
            raise EngineUnreachable(
                f"engine {self.url} broke off: an event of its answer cannot be read: "
                f"{line[:_SHOWN]}"
            ) from error

    def _abort(self, rid: str) -> None:
        """SGLang ends a request whose connection is gone, but only seconds later. A router has no
        such door, and a client that is closed has no connection left."""
        if self._routed or self.is_closed:
            return

        async def abort() -> None:
            with contextlib.suppress(EngineUnreachable, EngineRefused):
                await self._post("/abort_request", {"rid": rid})

        aborting = asyncio.create_task(abort())
        self._aborts.add(aborting)
        aborting.add_done_callback(self._aborts.discard)

    @contextlib.asynccontextmanager
    async def _opened(self, head: Head, ids: array[int]) -> AsyncIterator[httpx.Response]:
        """The answer to a prompt, sent whole if the engine has forgotten its prefix."""
        if head.prefix is not None:
            tail = ids[head.prefix.tokens :]
            async with self._http.stream("POST", PATH, content=_body(head, tail)) as response:
                if response.status_code != GONE:
                    yield response
                    return
            self._remembered.clear()
            head = head.model_copy(update={"prefix": None})
        async with self._http.stream("POST", PATH, content=_body(head, ids)) as response:
            yield response

    @contextlib.asynccontextmanager
    async def _opened_by_router(
        self, head: Head, ids: array[int], routing_key: str | None
    ) -> AsyncIterator[httpx.Response]:
        """The answer to a prompt sent whole, by SGLang's own door, the only one a router knows."""
        body = head.model_dump(exclude={"prefix", "remember", "cache_salt", "session_id"})
        body |= {
            "input_ids": ids.tolist(),
            "stream": True,
            "extra_key": carried(head.cache_salt, head.session_id),
        }
        headers = {} if routing_key is None else {ROUTING_KEY: routing_key}
        async with self._http.stream("POST", "/generate", json=body, headers=headers) as response:
            yield response

    def _require_open(self) -> None:
        if self.is_closed:
            raise EngineUnreachable(f"engine {self.url} has ended; ask for one that is alive.")

    def _known(self, page_hashes: Sequence[str], page_size: int) -> Name | None:
        """The longest prefix that the engine was told to remember."""
        for pages in range(len(page_hashes), 0, -1):
            if page_hashes[pages - 1] in self._remembered:
                return Name(page_hash=page_hashes[pages - 1], tokens=pages * page_size)
        return None

    def _remember(self, name: Name) -> None:
        self._remembered[name.page_hash] = name.tokens
        self._remembered.move_to_end(name.page_hash)
        while len(self._remembered) > _NAMES:
            self._remembered.popitem(last=False)

    async def release(self, session_id: str) -> None:
        """Make what `session_id` holds on the device the first to be evicted.

        SGLang's radix-native sessions (`--enable-session-radix-cache`): closing one drops its
        references; the memory is reused as soon as anyone needs it.
        """
        await self._post("/close_session", {"session_id": session_id})

    async def flush(self) -> None:
        """Empty the device cache, when the requests that run have ended: an answer that was read to
        its end still counts for a moment. Refused if they have not after 10 s."""
        await self._post("/flush_cache?timeout=10", {})

    async def _post(self, path: str, body: dict[str, Any]) -> None:
        self._require_open()
        try:
            response = await self._http.post(path, json=body, timeout=30.0)
        except httpx.HTTPError as error:
            raise EngineUnreachable(f"engine {self.url} does not answer {path}: {error}") from error
        if response.status_code != 200:
            raise _refusal(response.status_code, response.content)


def _name(page_hashes: Sequence[str], page_size: int) -> Name | None:
    if not page_hashes:
        return None
    return Name(page_hash=page_hashes[-1], tokens=len(page_hashes) * page_size)


@functools.cache
def _trusted() -> ssl.SSLContext:
    """Certificates that any engine's is checked with. Reading them is most of what a client costs,
    and a session may be waiting for an engine that has just come."""
    return httpx.create_ssl_context(trust_env=False)


def _body(head: Head, ids: array[int]) -> bytes:
    if sys.byteorder == "big":
        ids = array("I", ids)
        ids.byteswap()
    return head.model_dump_json().encode() + b"\n" + ids.tobytes()


def _code_of(error: object) -> int:
    """The status that an error in the stream has."""
    code = error.get("code") if isinstance(error, dict) else None
    return code if isinstance(code, int) else 500


def _chunk(event: dict[str, Any], seen: int) -> Chunk:
    meta = event["meta_info"]
    finish = meta.get("finish_reason")
    if finish is not None and finish["type"] == "abort":
        said = finish.get("message") or "it gives no reason"
        raise _refusal(finish.get("status_code") or 500, said.encode())
    # SGLang streams cumulative ids: what would change that is refused (`linker/options.py`).
    new_ids = tuple(event["output_ids"][seen:])
    logprobs: tuple[TokenLogprobs, ...] = ()
    if "output_token_logprobs" in meta:
        chosen = meta["output_token_logprobs"][seen:]
        tops = meta["output_top_logprobs"][seen:]
        logprobs = tuple(
            TokenLogprobs(token, value, tuple((alt[1], alt[0]) for alt in top or ()))
            for (value, token, *_), top in zip(chosen, tops, strict=True)
        )
    return Chunk(
        new_ids=new_ids,
        cached_tokens=meta["cached_tokens"],
        finish_reason=None if finish is None else finish["type"],
        accept_length=meta.get("spec_accept_length"),
        logprobs=logprobs,
        boot_id=meta.get(BOOT_ID),
    )


def _refusal(status: int, body: bytes) -> EngineRefused | EngineUnreachable | LoadFailed:
    text = body.decode("utf-8", "replace")
    if "External KV cache load failed" in text:
        reason = re.search(r"External KV cache load failed: ([^\"\\]+)", text)
        why = f": {reason[1]}" if reason else ""
        return LoadFailed(f"the engine could not load stored state for this request{why}")
    if "grammar" in text and (found := _GRAMMAR.search(text)):
        why = _PLACE.sub("", found[1]).strip().rstrip(".")
        return GrammarRefused(
            f"the engine cannot hold the answer to what it was to be: {why}. The session is "
            "unchanged."
        )
    if status in _NOT_HERE:
        return EngineUnreachable(f"it has no room or no engine behind it: {status} {text[:500]}")
    return EngineRefused(f"the engine refused the request with status {status}: {text[:500]}")
