"""Encrypted tenants of tests: their master keys, and looking at and copying what they stored."""

from __future__ import annotations

from state_store.store import StateStore
from state_store.vault import MasterKey, Vault

OLD, NEW = MasterKey(bytes(range(32))), MasterKey(bytes(range(1, 33)))
VAULT = Vault([OLD])
TURN, NEXT = range(100, 110), range(200, 208)


def opened(server, prefix, vault: Vault | None = VAULT):
    return StateStore.connect(server.url, prefix=prefix, vault=vault)


def everything(raw, prefix: str) -> dict[bytes, bytes]:
    """Every key of the store and a dump of its value."""
    return {key: raw.dump(key) for key in raw.scan_iter(f"{prefix}:*", count=1000)}


def put_back(raw, copies: dict[bytes, bytes], *but: bytes) -> None:
    """Everything that was copied, but keys with one of these words in them."""
    for key, dump in copies.items():
        if not any(word in key for word in but):
            raw.restore(key, 0, dump, replace=True)


def on_disk(server) -> bytes:
    content = b""
    for path in server.data_dir.rglob("*"):
        try:
            content += path.read_bytes() if path.is_file() else b""
        except FileNotFoundError:  # a file of the log that a rewrite has just removed
            continue
    return content
