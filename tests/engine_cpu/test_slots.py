import torch

from engine.cpu import slots

ROWS = torch.tensor([2, 0])


def table():
    return torch.arange(60, dtype=torch.int32).view(3, 20)


def test_assigned_slots_come_back_from_the_same_positions():
    start, end = torch.tensor([3, 10]), torch.tensor([6, 15])
    given = torch.randint(1000, (8,))
    pool = table()
    slots.assign_req_to_token_pool_cpu(ROWS, pool, start, end, given, 20)
    assert pool[2, 3:6].tolist() == given[:3].tolist()
    assert pool[0, 10:15].tolist() == given[3:].tolist()
    untouched = table()
    untouched[2, 3:6], untouched[0, 10:15] = pool[2, 3:6], pool[0, 10:15]
    assert torch.equal(pool, untouched)
    read = torch.zeros(8, dtype=torch.int64)
    slots.assign_extend_cache_locs_cpu(ROWS, pool, start, end, read, 20)
    assert torch.equal(read, given)


def test_draft_slots_follow_the_requests_tokens():
    read = torch.zeros(12, dtype=torch.int64)
    slots.assign_draft_cache_locs_contiguous_cpu(
        ROWS, table(), torch.tensor([4, 7]), read, 20, 2, 3
    )
    assert read.tolist() == [*range(44, 50), *range(7, 13)]


def test_accepted_slots_are_packed():
    accepted = torch.tensor([[0, 2, -1], [5, -1, -1]])
    packed = torch.zeros(6, dtype=torch.int64)
    slots.fill_accept_out_cache_loc_cpu(accepted, torch.arange(100, 108), packed)
    assert packed.tolist() == [100, 102, 105, 0, 0, 0]


def test_the_bonus_token_is_the_last_accepted_one():
    tokens = torch.tensor([[11, 12, 13, 0], [21, 0, 0, 0]])
    bonus = torch.zeros(2, dtype=torch.int32)
    slots.fill_bonus_tokens_cpu(tokens, torch.tensor([3, 1]), bonus, 4)
    assert bonus.tolist() == [13, 21]


def test_rotation_shifts_each_request_and_appends_its_draft():
    ids = torch.tensor([1, 2, 3, 7, 8])
    starts, lengths = torch.tensor([0, 3, 3]), torch.tensor([3, 0, 2])
    drafted = torch.tensor([[50, 51], [60, 61], [70, 71]])
    slots.rotate_input_ids_cpu(ids, starts, lengths, drafted)
    assert ids.tolist() == [2, 3, 50, 8, 70]
    slots.rotate_input_ids_cpu(ids, starts, lengths, drafted, select_index=torch.tensor([1, 0, 3]))
    assert ids.tolist() == [3, 50, 50, 70, 70]


def test_kv_rows_are_copied_as_if_read_first():
    buffers = [torch.arange(24.0).view(6, 4), torch.arange(12).view(6, 2)]
    before = [buffer.clone() for buffer in buffers]
    pointers = torch.tensor([buffer.data_ptr() for buffer in buffers])
    strides = torch.tensor([buffer.stride(0) * buffer.element_size() for buffer in buffers])
    slots.copy_all_layer_kv_cache_cpu(
        pointers, strides, torch.tensor([1, 2, 3]), torch.tensor([0, 1, 2])
    )
    for buffer, old in zip(buffers, before, strict=True):
        assert torch.equal(buffer, old[[0, 0, 1, 2, 4, 5]])
