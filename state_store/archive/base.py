"""What an archive can do. One conformance suite tests every kind."""

from __future__ import annotations

import abc
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from state_store.resp import Value


class StoredFile(NamedTuple):
    """An entry of a listing. `name` has the form that `names.parse_name` reads."""

    name: str
    size: int


class Archive(abc.ABC):
    """Values under names. Blocking and thread-safe: many operations may run in parallel.

    A value appears under its name whole and durable, or not at all. Nothing is ever written twice
    under one name. Every operation raises ArchiveUnavailable when the archive does not answer and
    ArchiveRefused when it does not allow it; all may simply be repeated.
    """

    url: str
    """For messages: without secrets."""

    @abc.abstractmethod
    def put(self, name: str, value: Value) -> None:
        """Store a value, gathered from its pieces; when this returns it survives a power cut."""

    @abc.abstractmethod
    def get_into(self, name: str, value: Value) -> int | None:
        """Read a value, scattered to the pieces; its size, None if there is none of that name.

        One that is larger than the pieces together is skipped: they hold garbage then, as they
        do past the end of a smaller one.
        """

    @abc.abstractmethod
    def delete(self, names: Sequence[str]) -> None:
        """Remove values; one that is not there is no error."""

    @abc.abstractmethod
    def list(self, folder: str) -> Iterator[StoredFile]:
        """Everything below `folder`, in no order, unfinished files with their suffix."""

    def check(self) -> None:
        """Raises ArchiveUnavailable or ArchiveRefused if the archive cannot be used at all."""
        next(self.list("check"), None)


def pieces_of(value: Value) -> Sequence[memoryview]:
    return (value,) if isinstance(value, memoryview) else value
