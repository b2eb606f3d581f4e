"""Sessions of encrypted tenants, on a real engine: nothing that is stored can be read by others."""

import base64
import secrets
from array import array

import openai
import pytest

from agent_runtime.messages.chat import ChatFormat
from agent_runtime.sdk import ApiError, Torpor
from agent_runtime.settings import RuntimeSettings
from agent_runtime.wire.messages import Message
from state_store.archive.policy import ArchivePolicy
from state_store.codec import HEADER_BYTES
from state_store.fingerprint import Fingerprint
from state_store.layout import lineage_of
from state_store.store import StateStore
from state_store.vault import MasterKey, Vault

from .dumps import dumped, files_of, holding
from .served import listening, served
from .talk import TEXT

SAID = ["What is 318 + 264?", "And 12 more?"]


@pytest.fixture
async def vaulted(stage):
    """The store, for who has the master key."""
    async with await StateStore.connect(stage.store.url, vault=Vault.load(stage.master_key)) as one:
        yield one


@pytest.fixture
async def tenant(vaulted):
    name = f"sealed-{secrets.token_hex(4)}"
    await vaulted.create_tenant(name, encrypted=True)
    yield name
    await vaulted.delete_tenant(name)


@pytest.fixture
async def sealed_url(stage, tenant):
    """A runtime of that tenant."""
    settings = RuntimeSettings(
        redis_url=stage.store.url,
        archive_url=stage.archive,
        model_dir=stage.model,
        tenant=tenant,
        master_key_source=stage.master_key,
    )
    async with listening(settings) as url:
        yield url


@pytest.fixture
async def sealed(sealed_url):
    async with Torpor(sealed_url) as torpor:
        yield torpor


def on_disk(stage):
    return b"".join(files_of(f"file://{stage.layout.store}").values())


async def said_in(torpor, flush, system):
    """Token ids of two turns, the engine having forgotten the session between them."""
    session = await torpor.create(system=system)
    first = await torpor.turn(session.id, SAID[0], max_tokens=24)
    await torpor.suspend(session.id)
    await flush()
    resumed = await torpor.resume(session.id, strict=True)
    second = await torpor.turn(session.id, SAID[1], max_tokens=24)
    assert resumed.reason is None
    assert second.usage.reused_tokens >= resumed.restorable_tokens > 0
    assert (
        second.usage.recomputed_tokens
        == first.usage.prompt_tokens + len(first.token_ids) - resumed.restorable_tokens
    )
    return session.id, [*first.token_ids, *second.token_ids]


async def test_an_encrypted_session_wakes_up_to_the_bit_and_is_nowhere_in_the_clear(
    stage, torpor, sealed, sealed_url, vaulted, flush
):
    of_others = await dumped(stage.store.url)
    canary = secrets.token_hex(16)
    system = f"You are Torpor. {canary}"
    session_id, tokens = await said_in(sealed, flush, system)
    head = (await sealed.get(session_id)).head
    ids = ChatFormat(stage.model).encode(canary)[1:-1]  # at its ends they may be others in a text
    log = (await vaulted.tokens(head)).tobytes()
    # What else a client may leave there.
    await sealed.add_items(f"talk-{canary}", [{"text": canary}])
    await sealed.turn(session_id, f"Say {canary}.", max_tokens=4, idempotency_key=canary)
    client = openai.AsyncOpenAI(base_url=f"{sealed_url}/v1", api_key="none", max_retries=0)
    made = await client.responses.create(
        model="demo", input=f"Say {canary}.", background=True, max_output_tokens=4
    )
    while made.status in ("queued", "in_progress"):
        made = await client.responses.retrieve(made.id)
    assert made.status in ("completed", "incomplete")
    await client.close()
    await sealed.converse([Message(role="user", content=canary)], max_tokens=4)
    fork = await sealed.fork(session_id)
    await sealed.turn(fork.id, "Go on.", max_tokens=4)

    needles = [
        canary.encode(),
        base64.b64encode(canary.encode()),
        array("I", ids).tobytes(),
    ]
    assert needles[-1] in log
    before = await dumped(stage.store.url)
    assert holding(before, *needles) == []
    written = on_disk(stage)  # the log has what has gone since, too
    logs = stage.layout.engine_log.read_bytes() + stage.layout.runtime_log.read_bytes()
    for needle in needles:
        assert needle not in written
        assert needle not in logs
    assert (await vaulted.check_integrity()).problems == []

    # The same in the clear: the same tokens, and the same search finds them.
    clear_id, clear_tokens = await said_in(torpor, flush, system)
    assert tokens == clear_tokens
    after = await dumped(stage.store.url)
    for needle in (needles[0], needles[-1]):
        assert holding(after, needle)
        assert needle in on_disk(stage)
    new = [after[key] for key in sorted(after.keys() - before.keys()) if b":kv:" in key]
    cut = (value[at : at + 64] for value in new for at in range(HEADER_BYTES, len(value), 64))
    page = next(piece for piece in cut if piece.count(0) < 4)  # what the sealed pages hold, too
    assert holding(after, page)
    assert not set(holding(after, page)) & (before.keys() - of_others.keys())
    await torpor.delete(clear_id)


async def test_an_archived_session_comes_back_to_the_bit(stage, sealed, flush):
    session = await sealed.create(system=f"You are {secrets.token_hex(8)}. {TEXT}")
    await sealed.turn(session.id, SAID[0], max_tokens=8)
    fork = await sealed.fork(session.id)
    control = await sealed.turn(fork.id, SAID[1], max_tokens=16)
    await sealed.delete(fork.id)
    await sealed.suspend(session.id)
    await flush()
    async with await StateStore.connect(stage.store.url, archive=stage.archive) as keeper:
        report = await keeper.sweep(ArchivePolicy(idle=0, spare=0))  # which needs no key
    assert session.id in [swept.session_id for swept in report.sessions]
    assert (await sealed.get(session.id)).residency == "archived"
    resumed = await sealed.resume(session.id, strict=True)
    assert (resumed.reason, resumed.bytes_read > 0) == (None, True)
    again = await sealed.turn(session.id, SAID[1], max_tokens=16)
    assert again.token_ids == control.token_ids
    assert again.usage.reused_tokens >= resumed.restorable_tokens


async def test_a_deleted_session_takes_the_seeds_of_its_keys_with_it(stage, sealed, vaulted):
    before = await dumped(stage.store.url)
    session = await sealed.create(system=f"You are {secrets.token_hex(8)}. {TEXT}")
    await sealed.turn(session.id, SAID[0], max_tokens=8)
    seeds = {
        key for key in (await dumped(stage.store.url)).keys() - before.keys() if b"seed" in key
    }
    assert len(seeds) > 2  # of pages, states and the lineage
    await sealed.delete(session.id)
    await vaulted.recover(older_than=0)
    left = await dumped(stage.store.url)
    assert not seeds & left.keys()
    named = holding(left, lineage_of(session.id).encode())
    assert all(b":feed:" in key for key in named)  # which tells for a minute that it is deleted


async def test_a_runtime_without_the_key_says_whose_it_is_and_serves_others(
    stage, torpor, sealed, tenant, session
):
    hidden = await sealed.create(system="You are Torpor.")
    turn = await sealed.turn(hidden.id, SAID[0], max_tokens=4)
    (key_id,) = Vault.load(stage.master_key).master_key_ids
    other = MasterKey(secrets.token_bytes(32))
    for given in ({}, {"master_key_source": "env:TORPOR_TEST_OTHER_KEY"}):
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("TORPOR_TEST_OTHER_KEY", other.reveal().hex())
            async with served(stage, tenant=tenant, **given) as locked:
                for asked in (
                    locked.turn(hidden.id, SAID[1]),
                    locked.resume(hidden.id),
                    locked.get(hidden.id),
                    locked.create(system="You are Torpor."),
                    anext(locked.sessions()),
                    locked.items("talk"),
                ):
                    with pytest.raises(ApiError, match=f"{tenant} is encrypted under") as refused:
                        await asked
                    assert refused.value.code == "vault_locked"
                    assert key_id in str(refused.value)
                assert (await locked.turn(session.id, SAID[0], max_tokens=4)).durable
    assert (await sealed.get(hidden.id)).head == turn.snapshot


async def test_an_engine_without_the_key_gets_no_session_of_the_tenant(
    stage, torpor, session, tmp_path
):
    new = MasterKey(secrets.token_bytes(32))
    keys = tmp_path / "keys"
    keys.write_text(new.reveal().hex())
    name = f"sealed-{secrets.token_hex(4)}"
    async with await StateStore.connect(stage.store.url, vault=Vault.load(f"file:{keys}")) as store:
        await store.create_tenant(name, encrypted=True)
        (record,) = await store.engines()
        fingerprint = Fingerprint.model_validate(record["fingerprint"])
        hidden = await store.create_session(
            tenant=name, fingerprint=fingerprint,
            meta={"system": "", "tools": [], "sampling": {}, "history": "append"},
        )  # fmt: skip
        before = await dumped(stage.store.url)
        async with served(stage, tenant=name, master_key_source=f"file:{keys}") as runtime:
            for asked in (runtime.turn(hidden.id, SAID[0]), runtime.create(system="")):
                with pytest.raises(ApiError, match=f"lacks master key {new.id}") as refused:
                    await asked
                assert refused.value.code == "no_engine"
        assert (await store.session(hidden.id)).head is None
        after = await dumped(stage.store.url)
        assert not [key for key in after.keys() - before.keys() if b":kv:" in key]
        await store.delete_tenant(name)
    assert (await torpor.turn(session.id, SAID[0], max_tokens=4)).durable


async def test_a_rounded_session_goes_on_from_rounded_numbers(stage, torpor, vaulted, flush):
    name = f"sealed-{secrets.token_hex(4)}"
    await vaulted.create_tenant(name, encrypted=True, economy="compact")
    async with served(stage, tenant=name, master_key_source=stage.master_key) as rounded:
        session_id, tokens = await said_in(rounded, flush, f"You are Torpor. {TEXT}")
        assert len(tokens) > 8
        fork = await rounded.fork(session_id, tokens=100)
        assert (await rounded.turn(fork.id, SAID[0], max_tokens=4)).durable
        stored = await vaulted.usage_report(name)
        assert stored.own_bytes > 0
    assert (await vaulted.check_integrity()).problems == []
    await vaulted.delete_tenant(name)
