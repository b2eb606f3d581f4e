"""All settings of the runtime in one place."""

from __future__ import annotations

import contextlib
import ipaddress
from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from agent_runtime.errors import SetupError
from agent_runtime.policies import POLICIES, Policy, ToolTime
from agent_runtime.wire.turns import ANSWER_TOKENS
from engine.backends.settings import BackendSettings
from state_store.vault import Vault

_WORDS = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

LOCAL = frozenset({"localhost", "127.0.0.1", "::1"})
"""Names of this machine."""


class SchedulingSettings(BaseModel):
    """How one runtime shares an engine's slots: see `scheduling/`."""

    model_config = _WORDS

    policy: str = ToolTime.name
    """Who leaves the device first: `lru`, `tool_time` or `flops_per_byte`."""
    queue_limit: int = Field(default=1024, gt=0)
    """Turns that may wait for an engine; one more is answered with 429."""
    tenant_queue_limit: int = Field(default=512, gt=0)
    """Of those, turns of one tenant."""
    quantum: int = Field(default=4096, gt=0)
    """Tokens that a tenant may spend each time its queue is looked at."""
    prefetch: bool = True
    """Whether sessions are staged before their tools' results are expected."""
    load_bandwidth: float = Field(default=1.25e9, gt=0)
    """Bytes per second between the store and an engine, as the policy assumes it."""

    @field_validator("policy")
    @classmethod
    def _is_known(cls, name: str) -> str:
        if name not in POLICIES:
            raise ValueError(f"no policy {name!r}; choose from {', '.join(POLICIES)}")
        return name

    def make_policy(self) -> Policy:
        return POLICIES[self.policy]()


class BodyLimits(BaseModel):
    """What one request may bring."""

    model_config = _WORDS

    bytes: int = Field(default=64 << 20, gt=0)
    """Most bytes of a JSON body; a million tokens of text are about 4 MiB."""
    depth: int = Field(default=64, gt=0)
    """Most lists and objects within each other."""
    seconds: float = Field(default=60.0, gt=0)
    """Most seconds without another piece of the body."""


class RuntimeSettings(BaseModel):
    """What one runtime process needs to know."""

    model_config = _WORDS

    redis_url: str
    """The store: redis://, rediss://, unix://, redis+cluster:// or redis+sentinel://."""
    prefix: str = "torpor"
    """What the names of all keys in the store begin with."""
    archive_url: str | None = None
    """Where idle sessions go, and come back from when they are resumed; None: nothing does."""
    master_key_source: str | None = Field(default=None, pattern="^(file|env):.")
    """Where the master keys of encrypted tenants are: `file:PATH` or `env:VARIABLE`. None: their
    sessions are not served."""
    model_dir: Path | None = None
    """Checkpoint directory: the runtime reads its tokenizer and chat template. None: only sessions
    of the backend are served."""
    model_name: str | None = Field(default=None, min_length=1)
    """What clients of OpenAI's and Anthropic's protocols call the engines' model; None: as its
    directory is called."""
    backend: BackendSettings | None = None
    """An OpenAI-compatible endpoint that answers sessions without state."""
    router: str | None = None
    """URL of a router in front of the engines: it chooses the engine of a turn, not the runtime."""
    tenant: str = "default"
    """Whose sessions they are where no keys are asked for."""
    require_keys: bool = False
    """Whether every request needs an API key, which says whose sessions it may see."""
    allowed_hosts: str = ""
    """Names, separated by commas, by which a service without `require_keys` may be asked besides
    `localhost`, `127.0.0.1` and `[::1]`: those of a proxy on this machine."""
    outage_key_seconds: float = Field(default=600.0, ge=0)
    """Seconds since its last look-up that an API key is good for turns while the store is gone, and
    so a revoked one at most."""
    lease_ttl: float = Field(default=30.0, gt=0)
    """Seconds after which another runtime may take over a session whose runtime died."""
    recovery_interval: float = Field(default=3600.0, gt=0)
    """Seconds between looks through the whole store for what dead processes left behind; also done
    at start, and once more when their leases have run out."""
    settle_timeout: float = Field(default=20.0, gt=0)
    """Seconds a commit waits for the engine to have offloaded a turn's state."""
    boundary_interval: int | None = Field(default=None, gt=0)
    """Most tokens between states kept inside a long prompt, and so what a fork from there computes
    again. None: as many as have KV of a state's size. Never below the engine's prefill chunk."""
    prefetch_timeout: float = Field(default=60.0, gt=0)
    """Seconds a resume waits for the engine to stage a snapshot before it recomputes."""
    progress_after: float = Field(default=1.0, ge=0)
    """Seconds that a client waits in a turn or resume before it is told how far it is."""
    progress_interval: float = Field(default=0.5, ge=0)
    """Seconds until a client that waits is told again."""
    standing_sessions: int = Field(default=256, gt=0)
    """Sessions that can go on while the store is gone: the last that were served."""
    kept_tokens: int = Field(default=1 << 20, gt=0)
    """Tokens of turns that were answered while the store was gone: kept until it is back."""
    catch_up_interval: float = Field(default=1.0, gt=0)
    """Seconds between attempts to commit turns that were kept."""
    metrics_tenants: int = Field(default=0, ge=0)
    """Tenants that the metrics name: as many as this runtime serves first; those behind are
    `other`. 0: the metrics tell no tenants apart."""
    body_limits: BodyLimits = BodyLimits()
    """What one request may bring."""
    import_bytes: int = Field(default=64 << 30, gt=0)
    """Largest export file that is taken in."""
    scheduling: SchedulingSettings = SchedulingSettings()
    answer_tokens: int = Field(default=ANSWER_TOKENS, ge=1, le=65536)
    """Most tokens of an answer where neither the request nor its session says how many."""
    request_ttl: float = Field(default=86400.0, gt=0)
    """Seconds that an idempotency key is known, and that an interrupted turn can be resumed."""
    cancel_interval: float = Field(default=0.5, gt=0)
    """Seconds between looks whether another runtime was asked to cancel a turn that runs here."""
    conversation_ttl: float = Field(default=7 * 86400.0, gt=0)
    """Seconds that the runtime finds a conversation's snapshot by what was said in it."""
    response_ttl: float = Field(default=30 * 86400.0, gt=0)
    """Seconds that a response of OpenAI's API can be fetched and followed, and a conversation
    found."""

    @model_validator(mode="after")
    def _serves_something(self) -> Self:
        if self.model_dir is None and self.backend is None:
            raise ValueError("a runtime needs model_dir, a [backend], or both")
        return self

    def vault(self) -> Vault:
        """Raises VaultLocked, InvalidKey."""
        source = self.master_key_source
        return Vault() if source is None else Vault.load(source)

    @property
    def served_model(self) -> str | None:
        """The name of the engines' model, None if there are no engines to be asked."""
        if self.model_dir is None:
            return None
        return self.model_name or self.model_dir.resolve().name

    @property
    def answers_to(self) -> frozenset[str]:
        """The hosts that the service is asked by where it asks for no keys."""
        named = {name.strip().lower() for name in self.allowed_hosts.split(",") if name.strip()}
        return LOCAL | named


class ServiceSettings(RuntimeSettings):
    """What `torpor serve` needs to know: the runtime, and how its service is reached."""

    host: str = "127.0.0.1"
    """Address that the service listens on; with `require_keys`, others than this machine's too."""
    port: int = Field(default=8700, ge=1, le=65535)
    """Port that the service listens on."""
    tls_certificate: Path | None = None
    """Certificates in PEM, the service's own first; then it speaks HTTPS only."""
    tls_key: Path | None = None
    """Their key in PEM, not encrypted, unless it stands in the same file."""
    drain_timeout: float = Field(default=30.0, ge=0)
    """Seconds that running turns get to end when the service is told to stop."""
    unread_seconds: float = Field(default=60.0, gt=0)
    """Seconds that a client may read nothing of an answer that is waiting for it; then it is hung
    up on, and its turn ended."""
    json_log: bool = False
    """Whether log lines are JSON, with the ids of requests."""

    @model_validator(mode="after")
    def _key_has_certificate(self) -> Self:
        if self.tls_key is not None and self.tls_certificate is None:
            raise ValueError("tls_key is the key of a tls_certificate, and none is set")
        return self

    @property
    def url(self) -> str:
        """Where the service is found on this machine."""
        scheme = "http" if self.tls_certificate is None else "https"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{scheme}://{host}:{self.port}"

    @property
    def answers_to(self) -> frozenset[str]:
        """Also the address that it listens on."""
        return super().answers_to | {self.host}

    def require_keys_beyond_loopback(self) -> None:
        """Raises SetupError for an address that others can reach without keys."""
        if self.require_keys or self.host == "localhost":
            return
        with contextlib.suppress(ValueError):
            if ipaddress.ip_address(self.host).is_loopback:
                return
        raise SetupError(
            f"{self.host} can be reached from other machines, and nobody would be asked for a key. "
            "Add --require-keys (and make one: torpor keys create), or serve on 127.0.0.1."
        )
