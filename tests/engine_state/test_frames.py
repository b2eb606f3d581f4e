"""Staging memory: what is gathered from a device's rows is what is scattered to others."""

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from engine.linker.frames import Frames
from engine.linker.segments import ObjectLayout, Segment

ROWS, WIDTH, LAYERS = 64, 96, 2


def layout(seed):
    """Two layers of one buffer each."""
    torch.manual_seed(seed)
    buffers = [torch.randint(0, 256, (ROWS, WIDTH), dtype=torch.uint8) for _ in range(LAYERS)]
    return ObjectLayout(
        tuple(Segment(at, rows, at * WIDTH, "uint8") for at, rows in enumerate(buffers))
    )


def carried(out, to):
    """Rows `out` of one device in rows `to` of another; both devices' layouts, and the second's
    rows as they were."""
    source, target = layout(0), layout(1)
    before = [segment.rows.clone() for segment in target.segments]
    frames = Frames(source, len(out), pin=False)
    frames.gather(torch.tensor(out)[:, None])
    frames.layout = target
    targets = frames.targets(torch.arange(len(out)), torch.tensor(to)[:, None])
    for layer in range(LAYERS):
        frames.scatter(targets, layer)
    return source, target, before


def test_pages_arrive_in_whatever_rows_the_device_has_for_them():
    out, to = [3, 4, 5, 40, 9, 8, 60], [10, 11, 30, 31, 5, 2, 63]
    source, target, before = carried(out, to)
    untouched = [row for row in range(ROWS) if row not in to]
    for theirs, ours, old in zip(source.segments, target.segments, before, strict=True):
        assert torch.equal(ours.rows[to], theirs.rows[out])
        assert torch.equal(ours.rows[untouched], old[untouched])


def test_rows_that_are_nowhere_are_gathered_as_zeros_and_scattered_to_nowhere():
    source, target, before = carried([7, -1, 8], [20, 21, -1])
    for theirs, ours, old in zip(source.segments, target.segments, before, strict=True):
        assert torch.equal(ours.rows[20], theirs.rows[7])
        assert not ours.rows[21].any()
        rest = [row for row in range(ROWS) if row not in (20, 21)]
        assert torch.equal(ours.rows[rest], old[rest])


class _Copies(TorchDispatchMode):
    """Bytes that operators write."""

    written = 0

    def __torch_dispatch__(self, operator, types, arguments=(), options=None):
        result = operator(*arguments, **(options or {}))
        is_copy = isinstance(result, torch.Tensor) and not operator.is_view
        if is_copy and result.dtype == torch.uint8:
            self.written += result.numel()
        return result


def test_a_byte_that_is_loaded_or_stored_is_copied_once():
    source = layout(0)
    frames = Frames(source, 48, pin=False)
    rows = torch.arange(8, 56)[:, None]
    with _Copies() as stored:
        frames.gather(rows)
    with _Copies() as loaded:
        targets = frames.targets(torch.arange(48), rows)
        for layer in range(LAYERS):
            frames.scatter(targets, layer)
    assert (stored.written, loaded.written) == (48 * WIDTH * LAYERS,) * 2
