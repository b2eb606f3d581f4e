import torch

from engine.cpu.state_rows import (
    fused_conv_window_scatter_multi,
    scatter_with_mask,
    track_mamba_states_if_needed,
)


def test_tracking_copies_exactly_the_marked_rows():
    conv, ssm = torch.randn(8, 3, 2), torch.randn(8, 2, 3, 4)
    conv_before, ssm_before = conv.clone(), ssm.clone()
    source, target = torch.tensor([1, 2, 3, 4]), torch.tensor([5, 6, 7, 0])
    track_mamba_states_if_needed(
        conv, ssm, source, torch.tensor([True, False, True, True]), target, batch_size=3
    )
    for states, before in ((conv, conv_before), (ssm, ssm_before)):
        assert torch.equal(states[5], before[1])
        assert torch.equal(states[7], before[3])
        untouched = [0, 1, 2, 3, 4, 6]  # row 0: beyond the batch
        assert torch.equal(states[untouched], before[untouched])


def test_tracking_skips_freed_slots_when_asked():
    conv, ssm = torch.randn(4, 3, 2), torch.randn(4, 2, 3, 4)
    before = conv.clone()
    marked = torch.tensor([True, True])
    track_mamba_states_if_needed(
        conv, ssm, torch.tensor([-1, 1]), marked, torch.tensor([0, -1]), 2, check_freed_slots=True
    )
    assert torch.equal(conv, before)


def test_commit_takes_each_requests_accepted_step_and_skips_the_rest():
    dst, src = torch.zeros(2, 6, 3), torch.randn(2, 4, 5, 3)
    slots = torch.tensor([4, 2, -1, 0])
    steps = torch.tensor([3, -1, 1, 5])  # row 1 rejects all, row 2 has no slot, row 3 is too far
    scatter_with_mask(dst, src, slots, steps)
    assert torch.equal(dst[:, 4], src[:, 0, 3])
    assert not dst[:, [0, 1, 2, 3, 5]].any()


def test_commit_can_name_the_scratch_rows():
    dst, src = torch.zeros(2, 6, 3), torch.randn(2, 4, 5, 3)
    rows = torch.tensor([3, 0])
    scatter_with_mask(dst, src, torch.tensor([1, 2]), torch.tensor([0, 4]), rows)
    assert torch.equal(dst[:, 1], src[:, 3, 0])
    assert torch.equal(dst[:, 2], src[:, 0, 4])


def test_commit_and_track_of_bfloat16_conv_windows():
    pairs = [(torch.zeros(2, 6, 3, 2), torch.randn(2, 2, 4, 3, 2)) for _ in range(2)]
    live, tracked = torch.tensor([0, 1]), torch.tensor([4, 5])
    fused_conv_window_scatter_multi(
        pairs, live, torch.tensor([3, 2]), tracked, torch.tensor([-1, 1])
    )
    for dst, src in pairs:
        assert torch.equal(dst[:, 0], src[:, 0, 3])
        assert torch.equal(dst[:, 1], src[:, 1, 2])
        assert torch.equal(dst[:, 5], src[:, 1, 1])
        assert not dst[:, 4].any()
