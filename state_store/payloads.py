"""Moving one engine rank's objects between caller-owned buffers and the store.

    write:  encode ──> take keys ──> encrypt, sum ──> Redis
    read:   Redis, else the archive ──> verify ──> decrypt ──> decode

What a session's form (`state_store/forms.py`) asks for happens in the caller's buffers. Blocking
and thread-safe, for the threads of an engine's linker and for tools. Every object that `read`
gives out is verified; one that is not whole is never given out.
"""

from __future__ import annotations

import enum
import logging
from collections.abc import Sequence
from functools import partial

from state_store.archive.names import Generation
from state_store.archive.reader import ArchiveReader
from state_store.cipher import CLEAR, KEY_ID, ObjectKey, decrypt_frame, encrypt_frame
from state_store.codec import RAW, Form, Frame, check, form_of_sealed, seal
from state_store.encodings import Encoding, Segment, decode, encode
from state_store.errors import CorruptObject
from state_store.forms import PLAIN, StoredForm
from state_store.layout import ObjectNames, ObjectRef
from state_store.object_keys import ObjectKeys
from state_store.objects import ObjectClient

logger = logging.getLogger(__name__)

Item = tuple[ObjectRef, Frame]


class Outcome(enum.Enum):
    """How a read of one object ended."""

    OK = "ok"
    MISSING = "missing"
    CORRUPT = "corrupt"


class Payloads:
    """Sealed writes and verified reads of the objects of one rank, all stored in one form.

    refused: parts that were stored raw, so far, because the economy class cannot hold their
             numbers

    Every operation raises StoreUnavailable when the store does not answer and StoreRefused when
    it refuses; reads raise ArchiveUnavailable and ArchiveRefused too, and VaultLocked for an
    encrypted object when the form has no key. All may simply be repeated.
    """

    def __init__(
        self,
        client: ObjectClient,
        names: ObjectNames,
        *,
        form: StoredForm = PLAIN,
        archive: ArchiveReader | None = None,
    ) -> None:
        """archive: where objects are that are not in Redis; without, they count as missing."""
        self._client = client
        self._names = names
        self._form = form
        self._archive = archive
        self._keys = None if form.tenant_key is None else ObjectKeys(client, names, form.tenant_key)
        self.refused = 0

    def in_form(self, form: StoredForm) -> Payloads:
        """The same objects' door for another form, over the same connections. `refused` counts
        anew."""
        return Payloads(self._client, self._names, form=form, archive=self._archive)

    def ping(self) -> None:
        self._client.ping()

    def close(self) -> None:
        self._client.close()
        if self._archive is not None:
            self._archive.close()

    def write(self, items: Sequence[Item], *, ttl: int) -> int:
        """Store objects that expire after `ttl` s unless a commit pins them; bytes sent.

        An object that is already there stays as it is, with at least `ttl` to live. The frames'
        headers are written, and their payloads are changed in place: unless the form is plain,
        they hold the stored bytes afterwards. A frame that was sealed by a write that failed is
        known by its header and sealed no second time.

        Raises CorruptObject for a seed that is damaged, or when the seed of an object that was
        sealed before is gone; then its frame must be filled again.
        """
        sealed = self._seal(items, ttl)
        self._client.put(sealed, ttl=ttl)
        return _size(sealed)

    def rewrite(self, items: Sequence[Item], *, ttl: int) -> int:
        """Overwrite objects that were found corrupt; pins and expiry stay as they are."""
        sealed = self._seal(items, ttl)
        self._client.replace(sealed, ttl=ttl)
        return _size(sealed)

    def read(self, items: Sequence[Item]) -> list[Outcome]:
        """Read each object into its frame. One whose outcome is not OK holds garbage."""
        outcomes = [Outcome.MISSING] * len(items)
        keys: Sequence[ObjectKey | None] = [None] * len(items)
        readable: Sequence[int] = range(len(items))
        if self._keys is not None:
            keys = self._keys.for_reading([ref for ref, _ in items])
            readable = [i for i, key in enumerate(keys) if key is not None]
        self._read_redis(readable, items, keys, outcomes)
        if self._archive is not None:
            self._read_archive(self._archive, readable, items, keys, outcomes)
        return outcomes

    def exists(self, refs: Sequence[ObjectRef]) -> list[bool]:
        """Which can be read: in Redis or, if there is one, in the archive, and with their key."""
        found = self._or_cold(refs, self._client.exists([self._names.key(ref) for ref in refs]))
        return found if self._keys is None else _both(found, self._keys.exists(refs))

    def touch(self, refs: Sequence[ObjectRef], *, ttl: int) -> list[bool]:
        """Like `exists`; those that would expire sooner now live `ttl` seconds."""
        # Seeds first, so that none goes before its object does.
        keyed = None if self._keys is None else self._keys.touch(refs, ttl=ttl)
        in_redis = self._client.touch([self._names.key(ref) for ref in refs], ttl=ttl)
        found = self._or_cold(refs, in_redis)
        return found if keyed is None else _both(found, keyed)

    # ---- writing ------------------------------------------------------------

    def _seal(
        self, items: Sequence[Item], ttl: int
    ) -> list[tuple[bytes, tuple[memoryview, memoryview]]]:
        keys: Sequence[ObjectKey | None] = [None] * len(items)
        if self._keys is not None:
            keys = self._keys.for_writing([ref for ref, _ in items], ttl=ttl)
        sealed = []
        for (ref, frame), key in zip(items, keys, strict=True):
            stored_bytes = self._sealed_before(ref, frame, key)
            if stored_bytes is None:
                stored_bytes = self._seal_one(ref, frame, key)
            sealed.append((self._names.key(ref), frame.stored(stored_bytes)))
        return sealed

    def _sealed_before(self, ref: ObjectRef, frame: Frame, key: ObjectKey | None) -> int | None:
        """Stored bytes of a payload that is changed already; None for one as on the device."""
        if self._form.plain:  # to seal it again changes nothing
            return None
        form = form_of_sealed(frame, names=self._names, ref=ref)
        if form is None or (form.cipher == CLEAR and form.encoding == RAW):
            return None
        if key is not None and frame.header[KEY_ID] != key.id:
            raise CorruptObject(
                f"{ref.kind} {ref.tag} was encrypted under a seed that has been destroyed before "
                "the object was stored. Nothing was stored: fill its frame again, and write it."
            )
        return form.stored_bytes

    def _seal_one(self, ref: ObjectRef, frame: Frame, key: ObjectKey | None) -> int:
        encoding, stored_bytes = self._encode(ref, frame)
        seal(
            frame,
            names=self._names,
            ref=ref,
            stored_bytes=stored_bytes,
            encoding=encoding,
            encrypt=None if key is None else partial(encrypt_frame, key=key),
        )
        return stored_bytes

    def _encode(self, ref: ObjectRef, frame: Frame) -> tuple[Encoding, int]:
        wanted = self._form.economy.encoding(ref.kind)
        if wanted is Encoding.RAW:
            return wanted, len(frame.payload)
        done = encode(frame.payload, self._segments(ref), wanted, frame.payload)
        if done.refused is not None:
            self.refused += 1
            logger.warning("%s %s is stored raw: %s", ref.kind, ref.tag, done.refused)
        return done.encoding, done.stored_bytes

    # ---- reading ------------------------------------------------------------

    def _read_redis(
        self,
        indices: Sequence[int],
        items: Sequence[Item],
        keys: Sequence[ObjectKey | None],
        outcomes: list[Outcome],
    ) -> None:
        def verify(sizes: Sequence[tuple[int, int | None]]) -> None:
            for number, size in sizes:
                i = indices[number]
                outcomes[i] = self._verified(*items[i], size, keys[i])

        values = [(self._names.key(items[i][0]), items[i][1].stored()) for i in indices]
        self._client.get_into(values, verify)

    def _read_archive(
        self,
        archive: ArchiveReader,
        indices: Sequence[int],
        items: Sequence[Item],
        keys: Sequence[ObjectKey | None],
        outcomes: list[Outcome],
    ) -> None:
        """What Redis does not have whole. An object may move back meanwhile, so that what is not
        in the archive is looked for in Redis once more."""
        wanted = [i for i in indices if outcomes[i] is not Outcome.OK]
        found = self._client.get_small([self._names.cold_key(items[i][0]) for i in wanted])
        cold = [(i, value) for i, value in zip(wanted, found, strict=True) if value is not None]
        cold = [(i, value) for i, value in cold if self._is_generation(items[i][0], value)]
        sizes = archive.read_all([(items[i][0], value, items[i][1].stored()) for i, value in cold])
        for (i, _), size in zip(cold, sizes, strict=True):
            if size is not None:
                outcomes[i] = self._verified(*items[i], size, keys[i])
        again = [i for i in wanted if outcomes[i] is Outcome.MISSING]
        self._read_redis(again, items, keys, outcomes)

    def _is_generation(self, ref: ObjectRef, value: bytes) -> bool:
        try:
            Generation.parse(value)
        except CorruptObject as error:
            logger.error("%s %s is not looked for in the archive: %s", ref.kind, ref.tag, error)
            return False
        return True

    def _verified(
        self, ref: ObjectRef, frame: Frame, size: int | None, key: ObjectKey | None
    ) -> Outcome:
        if size is None:
            return Outcome.MISSING
        try:
            form = check(frame, size, names=self._names, ref=ref)
            decrypt_frame(frame.header, frame.payload[: form.stored_bytes], key)
            self._decode(ref, frame, form)
        except CorruptObject as error:
            logger.error("not loaded: %s", error)
            return Outcome.CORRUPT
        return Outcome.OK

    def _decode(self, ref: ObjectRef, frame: Frame, form: Form) -> None:
        encoding = Encoding.of(form.encoding)
        if encoding is Encoding.RAW:
            return
        economy = self._form.economy
        if encoding is not economy.encoding(ref.kind):
            raise CorruptObject(
                f"{ref.kind} {ref.tag} is stored as {encoding.name.lower()}, which nothing of "
                f"economy class {economy.name} is; it is not loaded."
            )
        stored = frame.payload[: form.stored_bytes]
        decode(stored, self._segments(ref), encoding, frame.payload)

    def _segments(self, ref: ObjectRef) -> tuple[Segment, ...]:
        return self._form.layouts[ref.kind].parts[ref.part]

    def _or_cold(self, refs: Sequence[ObjectRef], in_redis: Sequence[bool]) -> list[bool]:
        """Which are in Redis or, where there is an archive to read them from, there."""
        found = list(in_redis)
        if self._archive is None:
            return found
        for key_of in (self._names.cold_key, self._names.key):  # it may move back between the two
            missing = [i for i, there in enumerate(found) if not there]
            there = self._client.exists([key_of(refs[i]) for i in missing])
            for i, is_there in zip(missing, there, strict=True):
                found[i] = is_there
        return found


def _both(one: Sequence[bool], other: Sequence[bool]) -> list[bool]:
    return [a and b for a, b in zip(one, other, strict=True)]


def _size(sealed: Sequence[tuple[bytes, tuple[memoryview, memoryview]]]) -> int:
    return sum(len(piece) for _, pieces in sealed for piece in pieces)
