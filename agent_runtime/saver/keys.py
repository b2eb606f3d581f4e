"""Names of what the saver keeps. All of one thread is in one slot:

    <prefix>:{thread:<id>}:rows      hash: place -> checkpoint without its channels' values
    <prefix>:{thread:<id>}:order     sorted set of places, by name: ids of checkpoints sort by age
    <prefix>:{thread:<id>}:runs      hash: place -> run that made it
    <prefix>:{thread:<id>}:values    hash: namespace, channel, version -> value, or its chunks
    <prefix>:{thread:<id>}:items     hash: digest -> list item, or chunk of digests
    <prefix>:{thread:<id>}:written   set of the places that have pending writes
    <prefix>:{thread:<id>}:renewed   there for half a life after all pending writes were renewed
    <prefix>:{thread:<id>}:puts      counts checkpoints put, so that a sweep sees a new one
    <prefix>:{thread:<id>}:writes:<place>   hash: task, index -> pending write
    <prefix>:threads                 set of thread ids
    <prefix>:run:<id>                set of the threads that a run has written to

A place is a checkpoint's namespace and id. The sets over all threads are written before what they
list and looked through with that in mind: they may name what is not there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

_APART = "\0"


class Place(NamedTuple):
    """Where a checkpoint is in its thread."""

    namespace: str
    id: str

    @property
    def field(self) -> str:
        return f"{self.namespace}{_APART}{self.id}"

    @classmethod
    def parse(cls, field: bytes) -> Place:
        namespace, _, checkpoint_id = field.decode().rpartition(_APART)
        return cls(namespace, checkpoint_id)


def value_field(namespace: str, channel: str, version: object) -> str:
    return _APART.join((namespace, channel, str(version)))


def write_field(task_id: str, index: int) -> str:
    return f"{task_id}{_APART}{index}"


def parse_write(field: bytes) -> tuple[str, int]:
    task_id, _, index = field.decode().rpartition(_APART)
    return task_id, int(index)


@dataclass(frozen=True)
class ThreadKeys:
    """Keys of one thread."""

    prefix: str
    thread_id: str

    def _key(self, name: str) -> str:
        return f"{self.prefix}:{{thread:{self.thread_id}}}:{name}"

    @property
    def rows(self) -> str:
        return self._key("rows")

    @property
    def order(self) -> str:
        return self._key("order")

    @property
    def runs(self) -> str:
        return self._key("runs")

    @property
    def values(self) -> str:
        return self._key("values")

    @property
    def items(self) -> str:
        return self._key("items")

    @property
    def puts(self) -> str:
        return self._key("puts")

    @property
    def written(self) -> str:
        return self._key("written")

    @property
    def renewed(self) -> str:
        return self._key("renewed")

    def writes(self, place: Place) -> str:
        return f"{self.all_writes}{place.field}"

    @property
    def all_writes(self) -> str:
        """What their keys begin with."""
        return self._key("writes:")

    @property
    def fixed(self) -> list[str]:
        """All but those about writes."""
        return [self.rows, self.runs, self.values, self.items, self.order, self.puts]
