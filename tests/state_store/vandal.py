"""Every kind of damage to a store, one at a time: what it does, and what a check should say of it.

Each takes what is there and returns whether it found something to damage.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import msgpack
import redis
from writer import FINGERPRINT, RANKS, TENANT, Writer

from state_store.cipher import KEY_ID
from state_store.codec import HEADER_BYTES
from state_store.layout import LineageKeys, ObjectNames, ObjectRef, TenantKeys, lineage_of
from state_store.records import Session, Snapshot


@dataclass
class Scene:
    """A session, its history root first, and how to reach behind the store's back."""

    raw: redis.Redis
    writer: Writer
    session: Session
    history: list[Snapshot]

    @property
    def keys(self) -> LineageKeys:
        return LineageKeys(self.writer.prefix, lineage_of(self.session.id))

    @property
    def tenant(self) -> TenantKeys:
        return TenantKeys(self.writer.prefix, TENANT)

    @property
    def head(self) -> Snapshot:
        return self.history[-1]

    @property
    def names(self) -> list[ObjectNames]:
        return self.writer.names()

    @property
    def page(self) -> ObjectRef:
        return ObjectRef("kv", self.head.page_chain[-1])

    @property
    def state(self) -> ObjectRef:
        return ObjectRef("state", self.head.page_chain[-1])


@dataclass(frozen=True)
class Damage:
    """kinds: of the problems that it makes; repairable: whether all of them are."""

    do: Callable[[Scene], object]
    kinds: frozenset[str]
    repairable: bool = True

    @property
    def name(self) -> str:
        return self.do.__name__


DAMAGES: list[Damage] = []
SEALED_DAMAGES: list[Damage] = []
"""Those that only an encrypted tenant can suffer."""


def damage(*kinds: str, repairable: bool = True, of: list[Damage] = DAMAGES):
    def register(do):
        of.append(Damage(do, frozenset(kinds), repairable))
        return do

    return register


# ---- records ----------------------------------------------------------------


@damage("references")
def count_too_many(scene):
    scene.raw.hset(scene.keys.refs, scene.head.id, 4)


@damage("references")
def count_too_few(scene):
    scene.raw.hdel(scene.keys.refs, scene.head.id)


@damage("references")
def make_a_count_unreadable(scene):
    scene.raw.hset(scene.keys.refs, scene.head.id, "many")


@damage("references")
def lose_all_counts(scene):
    scene.raw.delete(scene.keys.refs)


@damage("references")
def count_what_is_not_there(scene):
    scene.raw.hset(scene.keys.refs, f"snp-{scene.keys.lineage}-{'0' * 32}", 1)


@damage("references")
def condemn_a_live_snapshot(scene):
    scene.raw.sadd(scene.keys.dead, scene.head.id)


@damage("snapshot-field", "unpinned", "stray-pin")
def lose_a_pin_id(scene):
    scene.raw.hdel(scene.keys.snapshot(scene.head.id), "pin")


@damage("snapshot-field", "references")
def lose_a_parent(scene):
    scene.raw.hdel(scene.keys.snapshot(scene.head.id), "parent")


@damage("snapshot-field", "references")
def swap_a_parent(scene):
    scene.raw.hset(scene.keys.snapshot(scene.head.id), "parent", "")


@damage("totals")
def lose_the_totals(scene):
    scene.raw.delete(scene.keys.usage)


@damage("totals")
def count_more_tokens_than_there_are(scene):
    scene.raw.hincrby(scene.keys.usage, "tokens", 7)


@damage("totals", "snapshot-field")
def swap_what_a_snapshot_counts(scene):
    scene.raw.hset(scene.keys.snapshot(scene.head.id), "bytes", 7)


@damage("tenant-totals")
def sum_a_tenants_totals_wrongly(scene):
    copies = {scene.keys.lineage: "3:500:7", "items:a": "0:20:0", "sum": "519:7"}
    scene.raw.hset(scene.tenant.usage, mapping=copies)


@damage("tenant-totals")
def make_the_sum_of_a_tenants_totals_unreadable(scene):
    scene.raw.hset(scene.tenant.usage, "sum", "much")


@damage("stray-snapshot", "references")
def lose_the_way_to_a_snapshot(scene):
    scene.raw.hset(scene.keys.session(scene.session.id), "head", scene.head.parent or "")


@damage("stray-log")
def leave_a_token_log(scene):
    scene.raw.set(scene.keys.tokens(f"snp-{scene.keys.lineage}-{'1' * 32}"), b"1234")


@damage("unlisted-session")
def unlist_a_session(scene):
    scene.raw.srem(scene.keys.sessions, scene.session.id)


@damage("tree")
def lose_the_tree(scene):
    scene.raw.delete(scene.keys.tree)


@damage("tree")
def lose_a_snapshot_from_the_tree(scene):
    return scene.raw.zrem(scene.keys.tree, scene.history[0].id)


@damage("tree")
def lose_a_session_from_the_tree(scene):
    return scene.raw.zrem(scene.keys.tree, scene.session.id)


@damage("tree")
def put_a_snapshot_before_its_parent(scene):
    scene.raw.zadd(scene.keys.tree, {scene.head.id: 1})


@damage("tree")
def list_what_is_no_more_in_the_tree(scene):
    gone = {f"{one}-{scene.keys.lineage}-{'f' * 16}": 1 for one in ("ses", "snp")}
    scene.raw.zadd(scene.keys.tree, gone)


@damage("unlisted-lineage")
def unlist_a_lineage(scene):
    scene.raw.srem(f"{scene.writer.prefix}:lineages", scene.keys.lineage)


@damage("journal")
def garble_a_journal(scene):
    scene.raw.hset(scene.keys.journals, "ab" * 16, b"\xc1")


@damage("journal")
def garble_an_abandoned_commit(scene):
    scene.raw.hset(scene.keys.aborted, "cd" * 16, msgpack.packb({"at": 1.0, "snapshot": b"?"}))


@damage("lease")
def garble_a_lease(scene):
    scene.raw.set(scene.keys.lease(scene.session.id), "mine", px=60_000)


@damage("lease")
def make_a_lease_eternal(scene):
    scene.raw.set(scene.keys.lease(scene.session.id), f"1:{'ab' * 8}:me")
    scene.raw.set(scene.keys.fence, 1)


@damage("lease")
def lease_what_is_not_there(scene):
    scene.raw.set(
        scene.keys.lease(f"ses-{scene.keys.lineage}-{'2' * 16}"), f"1:{'ab' * 8}:me", px=60_000
    )


@damage("lease")
def turn_back_the_fence(scene):
    scene.raw.set(scene.keys.lease(scene.session.id), f"9:{'ab' * 8}:me", px=60_000)


@damage("session-record", "stray-snapshot", repairable=False)
def lose_a_session_record(scene):
    scene.raw.delete(scene.keys.session(scene.session.id))


@damage("session-record", repairable=False)
def garble_a_session_record(scene):
    scene.raw.hset(scene.keys.session(scene.session.id), "body", b"\x01?")


@damage("snapshot-record", "references", "stray-pin", "totals", repairable=False)
def lose_a_snapshot_record(scene):
    scene.raw.delete(scene.keys.snapshot(scene.head.id))


@damage("snapshot-record", repairable=False)
def garble_a_snapshot_record(scene):
    scene.raw.hset(scene.keys.snapshot(scene.head.id), "body", b"\x01?")


@damage("token-log", repairable=False)
def lose_a_token_log(scene):
    scene.raw.delete(scene.keys.tokens(scene.head.id))


@damage("token-log", repairable=False)
def change_a_token(scene):
    scene.raw.setrange(scene.keys.tokens(scene.head.id), 0, b"\xee")


@damage("fingerprint-record", repairable=False)
def lose_a_state_format(scene):
    scene.raw.delete(f"{scene.writer.prefix}:fingerprint:{FINGERPRINT.id}")


@damage("tenant-record", repairable=False)
def garble_a_tenant(scene):
    scene.raw.set(scene.tenant.record, b"\x09")


# ---- objects ----------------------------------------------------------------


@damage("unpinned")
def unpin_an_object(scene):
    scene.raw.delete(scene.names[0].pins_key(scene.page))


@damage("object-expires")
def let_a_held_object_expire(scene):
    scene.raw.expire(scene.names[1].key(scene.state), 1000)


@damage("stray-pin")
def pin_an_object_for_nobody(scene):
    scene.raw.sadd(scene.names[0].pins_key(scene.page), "ef" * 16)


@damage("object-leaks")
def keep_what_nobody_holds(scene):
    scene.raw.set(scene.names[0].key(ObjectRef("kv", "12" * 32)), b"leak")


@damage("stray-pin")
def pin_what_nobody_holds(scene):
    ref = ObjectRef("state", "34" * 32)
    scene.raw.set(scene.names[0].key(ref), b"leak")
    scene.raw.sadd(scene.names[0].pins_key(ref), "98" * 16)


@damage("object-missing", repairable=False)
def delete_an_object(scene):
    scene.raw.delete(scene.names[RANKS - 1].key(scene.page))


@damage("object-damaged", repairable=False)
def flip_a_bit(scene):
    key = scene.names[0].key(scene.state)
    if scene.raw.exists(key):
        value = scene.raw.getrange(key, HEADER_BYTES, HEADER_BYTES)
        scene.raw.setrange(key, HEADER_BYTES, bytes([value[0] ^ 1]))


@damage("cold-key")
def garble_a_cold_key(scene):
    scene.raw.set(scene.names[0].cold_key(scene.page), "nowhere")


@damage("cold-unheld")
def archive_what_nobody_holds(scene):
    scene.raw.set(scene.names[0].cold_key(ObjectRef("kv", "56" * 32)), generation("1"))


@damage("condemned")
def make_what_is_condemned_something_else(scene):
    key = scene.names[0].condemned_key(scene.page)
    scene.raw.delete(key)
    scene.raw.set(key, "of a wrong type")


@damage("condemned")
def condemn_what_the_archive_needs(scene):
    scene.raw.set(scene.names[0].cold_key(scene.state), generation("2"))
    scene.raw.sadd(scene.names[0].condemned_key(scene.state), f"{generation('2')}@1")


@damage("condemned")
def condemn_nonsense(scene):
    scene.raw.sadd(scene.names[0].condemned_key(scene.page), "nonsense")


# ---- seeds of encrypted objects ---------------------------------------------


@damage("seed-missing", repairable=False, of=SEALED_DAMAGES)
def lose_a_seed(scene):
    scene.raw.delete(scene.names[0].seed_key(scene.page))


@damage("seed-expires", of=SEALED_DAMAGES)
def let_a_seed_expire(scene):
    scene.raw.expire(scene.names[0].seed_key(scene.state), 1000)


@damage("seed-differs", repairable=False, of=SEALED_DAMAGES)
def place_another_seed(scene):
    scene.raw.setrange(scene.names[0].seed_key(scene.page), 0, b"another")


@damage("seed-differs", "object-damaged", repairable=False, of=SEALED_DAMAGES)
def relabel_one_ranks_object(scene):
    scene.raw.setrange(scene.names[1].key(scene.state), KEY_ID.start, b"\0\0\0\0")


@damage("unpinned", of=SEALED_DAMAGES)
def unpin_an_encrypted_object(scene):
    """As when it was found dead: it expires, and its seed does."""
    scene.raw.delete(scene.names[0].pins_key(scene.page))


@damage("unpinned", "seed-missing", repairable=False, of=SEALED_DAMAGES)
def unpin_an_object_and_lose_its_seed(scene):
    scene.raw.delete(scene.names[0].pins_key(scene.page), scene.names[0].seed_key(scene.page))


@damage("unpinned", "seed-differs", repairable=False, of=SEALED_DAMAGES)
def unpin_an_object_and_place_another_seed(scene):
    scene.raw.delete(scene.names[0].pins_key(scene.page))
    scene.raw.setrange(scene.names[0].seed_key(scene.page), 0, b"another")


# ---- lists ------------------------------------------------------------------


@damage("list-missing")
def unlist_a_session_of_its_tenant(scene):
    scene.raw.zrem(scene.tenant.sessions, scene.session.id)


@damage("list-dangling")
def list_what_is_no_more(scene):
    scene.raw.zadd(scene.tenant.sessions, {f"ses-{scene.keys.lineage}-{'3' * 16}": 1.0})


@damage("list-dangling")
def list_the_use_of_what_is_no_more(scene):
    scene.raw.zadd(scene.tenant.used, {f"ses-{'0' * 16}-{'4' * 16}": 1.0})


@damage("list-dangling")
def label_what_is_no_more(scene):
    gone = f"ses-{scene.keys.lineage}-{'5' * 16}"
    scene.raw.zadd(scene.tenant.label("colour", "red"), {gone: 1.0})


@damage("list-dangling")
def label_a_snapshot_that_does_not_carry_it(scene):
    scene.raw.zadd(scene.tenant.label("colour", "red"), {scene.head.id: 1.0})


@damage("list-missing")
def take_a_session_off_its_label(scene):
    scene.raw.zrem(scene.tenant.label("colour", "blue"), scene.session.id)


@damage("list-missing")
def lose_what_pages_of_a_label_are_read_from(scene):
    scene.raw.delete(scene.tenant.labelled("colour", "blue"))


@damage("list-dangling")
def have_pages_of_a_label_list_what_does_not_carry_it(scene):
    scene.raw.zadd(scene.tenant.labelled("colour", "red"), {scene.session.id: 1.0})


def generation(digit: str) -> str:
    return f"{digit * 16}-{RANKS}-1-{digit * 16}"
