"""Where a store is and how to log in, read from one URL.

    redis://[user:pass@]host[:port][/db]         one server (rediss:// with TLS)
    unix://[user:pass@]/path.sock[?db=1]         one server on this machine
    redis+cluster://[user:pass@]host[:port],...  a cluster, by some of its members
    redis+sentinel://[user:pass@]host[:port],.../<master>[/db]   by its sentinels

Options follow as a query, see `_OPTIONS`. What servers need is worked out here, and redis-py does
the rest: TLS, logging in, asking sentinels and members of a cluster.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, Self
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

import redis
from redis.backoff import NoBackoff
from redis.cluster import ClusterNode, RedisCluster
from redis.exceptions import RedisError
from redis.retry import Retry
from redis.sentinel import Sentinel, SentinelConnectionPool

from state_store.errors import InvalidUrl, StoreUnavailable

Topology = Literal["standalone", "cluster", "sentinel"]

_SCHEMES: dict[str, tuple[Topology, bool]] = {
    "redis": ("standalone", False),
    "rediss": ("standalone", True),
    "unix": ("standalone", False),
    "redis+cluster": ("cluster", False),
    "rediss+cluster": ("cluster", True),
    "redis+sentinel": ("sentinel", False),
    "rediss+sentinel": ("sentinel", True),
}
SENTINEL_TIMEOUT = 1.0  # seconds that one may take to answer: there are others to ask
_PORT, _SENTINEL_PORT = 6379, 26379
_HOST = re.compile(r"(?:\[(?P<v6>[0-9A-Fa-f:.%]+)\]|(?P<name>[^:\[\]\s]+))(?::(?P<port>\d{1,5}))?")
_PASSWORD = re.compile(r"([?&](?:sentinel_)?password=)[^&#]*")
_TRUTH = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


def _verification(value: str) -> str:
    if value not in ("none", "optional", "required"):
        raise ValueError(value)
    return value


_OPTIONS: dict[str, Callable[[str], Any]] = {
    "username": str,
    "password": str,
    "sentinel_username": str,  # sentinels have users of their own
    "sentinel_password": str,
    "db": int,
    "client_name": str,
    "ssl": lambda value: _TRUTH[value.lower()],
    "ssl_ca_certs": str,  # files
    "ssl_certfile": str,
    "ssl_keyfile": str,
    "ssl_cert_reqs": _verification,
    "ssl_check_hostname": lambda value: _TRUTH[value.lower()],
    "ssl_ciphers": str,
}


@dataclass(frozen=True)
class Address:
    """What a URL says.

    nodes:   (host, port) of the server, of members of the cluster or of the sentinels; none for
             a unix socket
    service: name under which the sentinels know the master; "" without sentinels
    public:  the URL without passwords, for messages and logs
    arguments, sentinel_arguments: how redis-py logs in to the servers and to the sentinels
    """

    topology: Topology
    nodes: tuple[tuple[str, int], ...]
    service: str
    public: str
    arguments: dict[str, Any] = field(repr=False, hash=False)
    sentinel_arguments: dict[str, Any] = field(repr=False, hash=False)

    @classmethod
    def parse(cls, url: str) -> Self:
        """Raises InvalidUrl, whose text shows no password."""
        try:
            return cls._parse(urlsplit(url))
        except _Wrong as wrong:
            reason = str(wrong)
        except ValueError:  # its text may quote a piece of the password
            reason = "it cannot be read; passwords must be percent-encoded"
        raise InvalidUrl(
            f"{public_url(url)!r} is not a Redis URL: {reason}. Use redis://, rediss:// (TLS), "
            "unix://, redis+cluster://host:port,... or redis+sentinel://host:port,.../<master>."
        )

    @property
    def patient(self) -> bool:
        """Whether a server that fails is worth waiting for, since another takes its place."""
        return self.topology != "standalone"

    @property
    def connection_class(self) -> type[Any]:
        """redis-py's blocking connection to one server that holds data."""
        if "path" in self.arguments:
            return redis.UnixDomainSocketConnection
        return redis.SSLConnection if self.arguments.get("ssl") else redis.Connection

    @property
    def connection_arguments(self) -> dict[str, Any]:
        """Of `connection_class`; who has several servers to choose from adds host and port."""
        place: dict[str, Any] = {}
        if self.topology == "standalone" and self.nodes:
            ((place["host"], place["port"]),) = self.nodes
        return {name: value for name, value in self.arguments.items() if name != "ssl"} | place

    def master(self, *, timeout: float) -> tuple[str, int]:
        """Host and port of the master that the sentinels agree on. Raises StoreUnavailable."""
        sentinel = self._sentinel(timeout)
        try:
            host, port = sentinel.discover_master(self.service)
        except (RedisError, OSError) as error:
            raise StoreUnavailable(f"{self.public} names no master now: {error}") from error
        finally:
            sentinel.close()
        return host, int(port)

    def client(self, *, timeout: float) -> Any:
        """A blocking client of redis-py, which its `close` frees of everything. Connects to
        nothing yet, but for a cluster: raises what redis-py raises.

        timeout: seconds that connecting and any one reply may take
        """
        arguments = self.arguments | _limits(timeout)
        arguments["retry"] = Retry(NoBackoff(), 1)  # a pooled connection may have gone stale
        if self.topology == "cluster":
            member: Any = ClusterNode
            return RedisCluster(startup_nodes=[member(*node) for node in self.nodes], **arguments)
        if self.topology == "sentinel":
            sentinel = self._sentinel(timeout)
            return sentinel.master_for(self.service, connection_pool_class=_MasterPool, **arguments)
        if "path" in arguments:
            return redis.Redis(unix_socket_path=arguments.pop("path"), **arguments)
        ((host, port),) = self.nodes
        return redis.Redis(host=host, port=port, **arguments)

    def _sentinel(self, timeout: float) -> Any:
        kind: Any = Sentinel
        limits = _limits(min(timeout, SENTINEL_TIMEOUT)) | {"retry": Retry(NoBackoff(), 0)}
        return kind(self.nodes, sentinel_kwargs=self.sentinel_arguments | limits)

    @classmethod
    def _parse(cls, parts: SplitResult) -> Self:
        if parts.scheme not in _SCHEMES:
            raise _Wrong("it has no such scheme")
        topology, secure = _SCHEMES[parts.scheme]
        login, _, place = parts.netloc.rpartition("@")
        user, _, password = login.partition(":")
        options: dict[str, Any] = {
            "username": unquote(user), "password": unquote(password), "ssl": secure,
        } | _options(parts.query)  # fmt: skip
        nodes: tuple[tuple[str, int], ...] = ()
        service, db = "", parts.path.removeprefix("/")
        if topology == "sentinel":
            service, _, db = db.partition("/")
            if not service:
                raise _Wrong("it does not name the master that the sentinels watch")
        if parts.scheme == "unix":
            if place or not db:
                raise _Wrong("a unix socket has a path and no host")
            options["path"] = unquote(parts.path)
        else:
            usual = _SENTINEL_PORT if topology == "sentinel" else _PORT
            nodes = tuple(_node(name, usual) for name in (place or "localhost").split(","))
            if topology == "standalone" and len(nodes) > 1:
                raise _Wrong("several servers make a redis+cluster:// or redis+sentinel:// URL")
            if db:
                options.setdefault("db", int(db) if db.isdecimal() else -1)
        if not 0 <= options.get("db", 0) < (1 if topology == "cluster" else 1 << 31):
            raise _Wrong("its database is no number, or not 0 in a cluster")
        tls = [name for name in options if name.startswith("ssl_")]
        if (secure and not options["ssl"]) or (tls and not options["ssl"]):
            raise _Wrong("its options for TLS contradict each other or its scheme")
        if options["ssl"] and "path" in options:
            raise _Wrong("a unix socket has no TLS")
        sentinel = {
            name.removeprefix("sentinel_"): options.pop(name)
            for name in ("sentinel_username", "sentinel_password")
            if name in options
        }
        if sentinel and topology != "sentinel":
            raise _Wrong("it names no sentinels, and yet a login for them")
        arguments = _arguments(options)
        transport = {name: arguments[name] for name in arguments if name.startswith("ssl")}
        return cls(
            topology=topology,
            nodes=nodes,
            service=unquote(service),
            public=_shown(parts, user, password),
            arguments=arguments,
            sentinel_arguments=_arguments(sentinel | transport),
        )


def public_url(url: str) -> str:
    """`url`, which may be malformed, without its passwords, for messages and logs."""
    url = _PASSWORD.sub(r"\1***", url)
    before, at, after = url.rpartition("@")
    if not at:
        return url
    scheme, separator, login = before.partition("://")
    return f"{scheme}{separator}{_masked(*login.partition(':')[::2])}@{after}"


class _Wrong(Exception):
    """Why a text is no URL of a store. Quotes nothing that may be secret."""


class _MasterPool(SentinelConnectionPool):
    """Whoever closes it is also done with the sentinels that it asks."""

    def disconnect(self, inuse_connections: bool = True) -> None:
        super().disconnect(inuse_connections)
        if inuse_connections:
            self.sentinel_manager.close()


def _node(text: str, usual_port: int) -> tuple[str, int]:
    match = _HOST.fullmatch(text)
    if match is None or not 0 < (port := int(match["port"] or usual_port)) < 1 << 16:
        raise _Wrong("it has no host:port where one belongs")
    return match["v6"] or unquote(match["name"]), port


def _options(query: str) -> dict[str, Any]:
    options = {}
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name not in _OPTIONS:
            raise _Wrong(f"{name[:40]!r} is not an option; there are {', '.join(_OPTIONS)}")
        try:
            options[name] = _OPTIONS[name](value)
        except (KeyError, ValueError):
            raise _Wrong(f"its option {name} has no such value") from None
    return options


def _arguments(options: dict[str, Any]) -> dict[str, Any]:
    """For redis-py: what was given, and protocol 2, which has no pushed messages."""
    given = {name: value for name, value in options.items() if value not in ("", False, None)}
    # Absent means yes here.
    if options.get("ssl_check_hostname") is False:
        given["ssl_check_hostname"] = False
    return given | {"protocol": 2}


def _limits(timeout: float) -> dict[str, Any]:
    return {"socket_timeout": timeout, "socket_connect_timeout": timeout}


def _shown(parts: SplitResult, user: str, password: str) -> str:
    login, at, place = parts.netloc.rpartition("@")
    text = f"{parts.scheme}://{_masked(user, password) if login else ''}{at}{place}{parts.path}"
    return _PASSWORD.sub(r"\1***", f"{text}?{parts.query}" if parts.query else text)


def _masked(user: str, password: str) -> str:
    """A lone name is more often a password in the wrong place."""
    return f"{user}:***" if password else "***"
