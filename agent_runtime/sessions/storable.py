"""What the engine's linker can store: sessions in the clear and lossless.

It writes every page and state as it is on the device. A session that is to be encrypted or
rounded is refused before an engine computes anything for it: its state would lie in the store in
the clear, and under names of exact state.
"""

from __future__ import annotations

from agent_runtime.errors import CannotStore
from state_store.encodings import LOSSLESS
from state_store.errors import VaultLocked
from state_store.records import Session
from state_store.store import StateStore


async def require_storable_tenant(store: StateStore, name: str) -> None:
    """Raises CannotStore for a tenant whose new sessions cannot be served."""
    tenant = await store.tenant(name)
    _require(f"tenant {name}", encrypted=tenant.encrypted, economy=tenant.economy)


async def storable_session(store: StateStore, session_id: str) -> Session:
    """The session. Raises CannotStore for one that cannot be served."""
    try:
        session = await store.session(session_id)
    except VaultLocked as error:
        raise _refusal(session_id, "encrypted") from error
    return require_storable(session)


def require_storable(session: Session) -> Session:
    """The session, which may be as it is stored. Raises CannotStore for one that cannot be
    served."""
    body = session.body
    _require(session.id, encrypted=body.encrypted, economy=body.economy)
    return session


def _require(what: str, *, encrypted: bool, economy: str) -> None:
    if encrypted:
        raise _refusal(what, "encrypted")
    if economy != LOSSLESS:
        raise _refusal(what, f"of economy class {economy}")


def _refusal(what: str, how: str) -> CannotStore:
    return CannotStore(
        f"{what} is {how}, and engines store only in the clear and lossless. Nothing was computed "
        "and nothing stored; use a session of a tenant who stores so."
    )
