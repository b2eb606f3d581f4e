"""Memory for objects on their way: touched once, reused, and never more than was set aside.

The first touch of a fresh page can cost more than the copy into it,
so tools that move many objects borrow buffers and give them back.
Whoever finds none free waits, which holds back whatever produces more than the store takes.
"""

from __future__ import annotations

import mmap
import threading
import time
from collections import deque
from collections.abc import Sequence
from typing import Self

from state_store.errors import BuffersExhausted

_ALIGNMENT = 4096


class Buffers:
    """`count` buffers of `size` bytes each, zero at first, in one mapping. Thread-safe.

    Each starts on a memory page, so what follows an object's header in it is aligned as well.
    """

    def __init__(self, count: int, size: int) -> None:
        stride = -(-max(size, 1) // _ALIGNMENT) * _ALIGNMENT
        self.size = size
        self.count = count
        mapping = mmap.mmap(-1, max(count, 1) * stride, flags=mmap.MAP_PRIVATE | mmap.MAP_ANON)
        if hasattr(mmap, "MADV_HUGEPAGE"):
            mapping.madvise(mmap.MADV_HUGEPAGE)
        whole = memoryview(mapping)
        whole[::_ALIGNMENT] = bytes(-(-len(whole) // _ALIGNMENT))  # the touch
        self._free = [whole[n * stride : n * stride + size] for n in range(count)]
        self._changed = threading.Condition()
        self._waiting: deque[object] = deque()

    @property
    def free(self) -> int:
        return len(self._free)

    def borrow(self, count: int = 1, *, timeout: float) -> Loan:
        """`count` buffers at once, so that two borrowers never wait for each other's.

        Waits its turn, first come, first served. Raises BuffersExhausted after `timeout` seconds,
        or at once if there are not that many. What the buffers hold is arbitrary.
        """
        if count > self.count:
            raise BuffersExhausted(
                f"{count} buffers of {self.size} bytes were asked for and there are {self.count}; "
                "work in smaller batches."
            )
        deadline = time.monotonic() + timeout
        turn = object()
        with self._changed:
            self._waiting.append(turn)
            try:
                while self._waiting[0] is not turn or len(self._free) < count:
                    left = deadline - time.monotonic()
                    if left <= 0:
                        raise BuffersExhausted(
                            f"no {count} of {self.count} buffers became free within {timeout:g} s; "
                            f"{len(self._free)} are. Try again when others have finished."
                        )
                    self._changed.wait(left)
                taken = [self._free.pop() for _ in range(count)]
            finally:
                self._waiting.remove(turn)
                self._changed.notify_all()  # whoever is next in turn may find enough
        return Loan(self, taken)

    def _take_back(self, views: Sequence[memoryview]) -> None:
        with self._changed:
            self._free += views
            self._changed.notify_all()


class Loan:
    """Borrowed buffers: `views`, uint8[size] each, writable, not to be used after `give_back`."""

    def __init__(self, lender: Buffers, views: Sequence[memoryview]) -> None:
        self.views = list(views)
        self._lender = lender
        self._lock = threading.Lock()

    def give_back(self) -> None:
        """May be called again, and by another thread than the one that borrowed."""
        with self._lock:
            views, self.views = self.views, []
        if views:
            self._lender._take_back(views)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.give_back()
