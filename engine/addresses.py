"""Where an engine listens, where others reach it, and under which name."""

from __future__ import annotations

import contextlib
import ipaddress
import socket

import httpx

from engine.errors import EngineStartFailed, OtherEngineLives
from state_store.address import Address
from state_store.errors import StoreUnavailable
from state_store.registry import registered

_LOOK = 2.0  # seconds that an engine which may live gets to answer


def url_of(host: str, port: int) -> str:
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def local_url(host: str, port: int) -> str:
    """Where this machine reaches what listens on `host`, which may be all of its addresses."""
    loopback = {"0.0.0.0": "127.0.0.1", "::": "::1"}
    return url_of(loopback.get(host, host), port)


def reached_at(host: str, port: int, redis_url: str) -> str:
    """The URL under which runtimes reach what listens on `host`. For all addresses of the machine:
    the one that it has towards the store, which runtimes reach too.

    Raises EngineStartFailed when it has none; InvalidUrl.
    """
    if not _is_any(host):
        return url_of(host, port)
    nodes = Address.parse(redis_url).nodes
    if not nodes:  # a unix socket: everybody is on this machine
        return local_url(host, port)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        (*_, towards), *_ = socket.getaddrinfo(*nodes[0], family, socket.SOCK_DGRAM)
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect(towards)  # sends nothing
            return url_of(probe.getsockname()[0], port)
    except OSError as error:
        raise EngineStartFailed(
            f"the engine would listen on all addresses ({host}), and which one others reach it at "
            f"cannot be told: {error}. Say it: --advertise URL."
        ) from error


def require_free_id(engine_id: str, url: str, redis_url: str, *, prefix: str) -> None:
    """Before a model is loaded for minutes. An engine that is registered as `engine_id` and does
    not answer may have died: whether it has shows when this one registers (`Heartbeat.start`).

    url: of the engine that is to start
    Raises OtherEngineLives if one that answers has the id; EngineStartFailed if the store does not
    answer.
    """
    try:
        other = registered(redis_url, engine_id, prefix=prefix)
    except StoreUnavailable as error:
        raise EngineStartFailed(str(error)) from error
    if other is None or other["url"] == url:  # nobody listens there: it is gone
        return
    with contextlib.suppress(httpx.HTTPError, httpx.InvalidURL):
        httpx.get(f"{other['url']}/v1/loads", timeout=_LOOK, trust_env=False)
        raise OtherEngineLives(
            f"an engine that lives at {other['url']} is registered as {engine_id}. Nothing was "
            "started. Give each engine that shares the store an id of its own: --engine-id.",
            other["url"],
        )


def _is_any(host: str) -> bool:
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_unspecified
    return False
