"""Buffers are warm, bounded and lent in turn."""

from __future__ import annotations

import mmap
import resource
import threading
import time

import pytest

from state_store.buffers import Buffers
from state_store.errors import BuffersExhausted


def test_buffers_have_the_size_that_was_asked_for_and_do_not_overlap():
    buffers = Buffers(3, 5000)
    with buffers.borrow(3, timeout=0) as loan:
        for number, view in enumerate(loan.views):
            assert (len(view), view.format, view.readonly) == (5000, "B", False)
            view[:] = bytes([number]) * 5000
        assert [bytes(view) for view in loan.views] == [bytes([n]) * 5000 for n in range(3)]
        assert buffers.free == 0
    assert buffers.free == 3


def test_the_first_use_of_a_buffer_touches_no_fresh_memory():
    size, data = 32 << 20, b"x" * (32 << 20)
    buffers = Buffers(1, size)
    with buffers.borrow(timeout=0) as loan:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        loan.views[0][:] = data
        faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
    assert faults < size // mmap.PAGESIZE // 10


def test_memory_is_used_again_not_made_again():
    buffers = Buffers(2, 100)
    with buffers.borrow(timeout=0) as loan:
        loan.views[0][:5] = b"first"
    with buffers.borrow(2, timeout=0) as loan:
        assert b"first" in [bytes(view[:5]) for view in loan.views]


def test_a_borrower_waits_until_enough_came_back():
    buffers = Buffers(2, 10)
    first, second = buffers.borrow(timeout=0), buffers.borrow(timeout=0)
    got = []
    waiter = threading.Thread(target=lambda: got.append(buffers.borrow(2, timeout=30)))
    waiter.start()
    first.give_back()
    assert got == []
    second.give_back()
    waiter.join()
    assert len(got[0].views) == 2


def test_one_who_wants_many_is_not_overtaken_by_those_who_want_few():
    buffers = Buffers(2, 10)
    held = buffers.borrow(timeout=0)
    order = []

    def borrow(count):
        with buffers.borrow(count, timeout=30):
            order.append(count)

    many = threading.Thread(target=borrow, args=(2,))
    many.start()
    while len(buffers._waiting) < 1:
        time.sleep(0.001)
    few = threading.Thread(target=borrow, args=(1,))  # one is free, but it is not its turn
    few.start()
    while len(buffers._waiting) < 2:
        time.sleep(0.001)
    assert order == []
    held.give_back()
    many.join()
    few.join()
    assert order == [2, 1]


def test_nothing_free_in_time_is_an_error_and_does_not_block_the_next():
    buffers = Buffers(2, 10)
    held = buffers.borrow(timeout=0)
    with pytest.raises(BuffersExhausted, match="1 are"):
        buffers.borrow(2, timeout=0.01)
    buffers.borrow(1, timeout=0).give_back()
    held.give_back()
    assert buffers.free == 2


def test_more_than_there_are_is_an_error_at_once():
    with pytest.raises(BuffersExhausted, match="smaller batches"):
        Buffers(2, 10).borrow(3, timeout=1e9)


def test_buffers_given_back_twice_are_lent_once():
    buffers = Buffers(1, 10)
    loan = buffers.borrow(timeout=0)
    loan.give_back()
    loan.give_back()
    assert (buffers.free, loan.views) == (1, [])


def test_an_error_gives_buffers_back():
    buffers = Buffers(1, 10)
    with pytest.raises(KeyError), buffers.borrow(timeout=0):
        raise KeyError
    assert buffers.free == 1


def test_a_waiter_gets_through_however_many_borrow_at_once():
    buffers = Buffers(3, 10)
    held, most = [], []

    def work(count):
        for _ in range(200):
            with buffers.borrow(count, timeout=30) as loan:
                held.extend(loan.views)
                most.append(len(held))
                for view in loan.views:
                    held.remove(view)

    threads = [threading.Thread(target=work, args=(1 + n % 3,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(most) == 1200
    assert max(most) <= 3
    assert buffers.free == 3
