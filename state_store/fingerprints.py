"""State formats that sessions and engines have made known."""

from __future__ import annotations

from state_store.connection import Control
from state_store.errors import UnknownFingerprint
from state_store.fingerprint import Fingerprint


class Fingerprints:
    """Records of fingerprints, which do not change and are read once."""

    def __init__(self, control: Control, prefix: str) -> None:
        self._control = control
        self._prefix = prefix
        self._known: dict[str, Fingerprint] = {}

    async def get(self, fingerprint_id: str) -> Fingerprint:
        """Raises UnknownFingerprint."""
        known = self._known.get(fingerprint_id)
        if known is None:
            async with self._control.guard() as client:
                stored = await client.get(f"{self._prefix}:fingerprint:{fingerprint_id}")
            if stored is None:
                raise UnknownFingerprint(
                    f"no state format {fingerprint_id} is known; create a session with it first."
                )
            known = self._known[fingerprint_id] = Fingerprint.model_validate_json(stored)
        return known

    async def add(self, fingerprint: Fingerprint) -> None:
        """Make a fingerprint known to all."""
        async with self._control.guard() as client:
            await client.set(
                f"{self._prefix}:fingerprint:{fingerprint.id}", fingerprint.model_dump_json()
            )
