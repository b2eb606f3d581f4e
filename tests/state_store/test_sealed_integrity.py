"""A check needs no key to tell that encrypted objects and their seeds belong together."""

from __future__ import annotations

import pytest
from author import RANKS, Author
from vandal import SEALED_DAMAGES, Scene

from state_store.payloads import Outcome
from state_store.store import StateStore
from state_store.vault import MasterKey, Vault

VAULT = Vault([MasterKey(bytes(range(32)))])


@pytest.fixture
async def author(server, objects, prefix):
    async with await StateStore.connect(server.url, prefix=prefix, vault=VAULT) as opened:
        await opened.create_tenant("ann", encrypted=True)
        yield Author(opened, objects, prefix)


@pytest.fixture
async def scene(author, raw):
    session = await author.session("ann", range(6), range(6, 13))
    return Scene(raw, author, session, await author.store.ancestors(session.head))


@pytest.mark.parametrize("damage", SEALED_DAMAGES, ids=lambda damage: damage.name)
async def test_each_damage_to_seeds_is_found_named_and_mended_or_reported(
    scene, author, store, damage
):
    """By a process that has no master key."""
    assert (await store.check_integrity()).problems == []
    damage.do(scene)
    found = await store.check_integrity()
    assert {problem.kind for problem in found.problems} == damage.kinds
    assert {problem.repairable for problem in found.problems} == {damage.repairable}
    left = await store.check_integrity(repair=True)
    if damage.repairable:
        assert left.problems == []
        read = await author.read(scene.session, scene.history)
        assert set(read) == {Outcome.OK}
    else:
        assert left.problems == found.problems
        assert left.repaired == []


async def test_an_unpinned_object_is_held_again_with_its_seed(scene, store, raw):
    pins, seed = scene.names[0].pins_key(scene.page), scene.names[0].seed_key(scene.page)
    everything = [seed, *(names.key(scene.page) for names in scene.names)]
    raw.delete(pins)
    for key in everything:
        raw.expire(key, 1000)
    await store.check_integrity(repair=True)
    assert raw.scard(pins) == 1
    assert [raw.ttl(key) for key in everything] == [-1] * (1 + RANKS)
    assert (await store.check_integrity()).problems == []
