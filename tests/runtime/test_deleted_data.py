"""What is deleted is nowhere any more: raw dumps of everything are searched for it."""

import secrets

import openai
import pytest

from agent_runtime.messages.chat import ChatFormat
from agent_runtime.sdk import ApiError
from state_store.archive.collect import collect_condemned
from state_store.archive.policy import ArchivePolicy
from state_store.store import StateStore

from .dumps import dumped, files_of, holding


async def test_a_deleted_response_leaves_nothing_of_itself(stage, torpor):
    canary = secrets.token_hex(16)
    asked = {"model": "demo", "max_output_tokens": 4}
    said = [{"role": "user", "content": f"What is {secrets.randbelow(90)} + 7?"}]
    url = f"{stage.runtime.url}/v1"
    async with openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0) as client:
        first = await client.responses.create(input=said, metadata={"about": canary}, **asked)
        said += [
            *(item.model_dump() for item in first.output),
            {"role": "user", "content": "Tick."},
        ]
        second = await client.responses.create(input=said, **asked)
        assert second.torpor["session"] == first.torpor["session"]
        before = await dumped(stage.store.url)
        assert holding(before, canary.encode())
        assert holding(before, first.id.encode())
        await client.responses.delete(first.id)
        after = await dumped(stage.store.url)
        assert holding(after, canary.encode(), first.id.encode()) == []
        assert len((await client.responses.input_items.list(second.id)).data) == len(said)
    await torpor.delete(second.torpor["session"])


async def test_what_is_deleted_is_in_no_dump_archive_or_export(stage, torpor, store, tmp_path):
    canary = secrets.token_hex(16)
    kept = await torpor.create(system=f"You are {secrets.token_hex(8)}.")
    await torpor.turn(kept.id, "What is 2 + 2?", max_tokens=4)
    doomed = await torpor.fork(kept.id, labels={"about": canary})
    said = f"Remember {canary}, {canary} and {canary}. What is 48 * 17?"
    await torpor.turn(doomed.id, said, max_tokens=4, idempotency_key=canary)
    await torpor.suspend(doomed.id)
    head = await store.snapshot((await torpor.get(doomed.id)).head)
    ids = (await store.tokens(head.id))[(await torpor.get(kept.id)).tokens :]
    text = ChatFormat(stage.model).decode(ids.tolist())
    assert canary in text  # so that these are the ids to look for
    middle = ids[len(ids) // 2 - 8 : len(ids) // 2 + 8].tobytes()
    pages = [page.encode() for page in head.page_chain]
    needles = [canary.encode(), middle, head.id.encode(), *pages]
    before = await dumped(stage.store.url)
    for needle in (*needles, doomed.id.encode()):
        assert holding(before, needle), needle  # what is looked for can be found

    await torpor.export(doomed.id, tmp_path / "doomed")
    assert middle in (tmp_path / "doomed").read_bytes()
    async with await StateStore.connect(stage.store.url, archive=stage.archive) as keeper:
        swept = await keeper.sweep(ArchivePolicy(idle=0, spare=0))
        assert doomed.id in {one.session_id for one in swept.sessions}
        assert len(holding(files_of(stage.archive), *pages)) >= len(pages)

        await torpor.delete(doomed.id)
        await keeper.recover(older_than=0)
        # Nobody moves anything in this store now: no grace is needed.
        await collect_condemned(keeper._control, "torpor", keeper._archiving.archive, older_than=0)

    after = await dumped(stage.store.url)
    assert holding(after, *needles) == []
    # That it was deleted is told for a minute to who has not heard it.
    assert all(b"feed:" in name for name in holding(after, doomed.id.encode()))
    assert holding(files_of(stage.archive), *needles, doomed.id.encode()) == []
    with pytest.raises(ApiError) as refused:
        await torpor.export(doomed.id, tmp_path / "gone")
    assert refused.value.code == "not_found"
    await torpor.export(kept.id, tmp_path / "kept")
    content = (tmp_path / "kept").read_bytes()
    assert not any(one in content for one in needles)
    await torpor.delete(kept.id)
