"""The user that docs/deploy-store.md describes can do all that the store does, and needs it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import redis
import yaml
from author import Author
from langgraph.checkpoint.base import empty_checkpoint
from servers import BUILDS, HOST, Cluster, Sentinels, Server
from writer import TENANT, Writer

from agent_runtime.saver import TorporSaver, TorporStore
from state_store.archive.policy import ArchivePolicy
from state_store.errors import DurabilityNotReached, StoreRefused
from state_store.objects import ObjectClient
from state_store.quotas import Quota
from state_store.registry import CommandListener, Heartbeat
from state_store.rights import trials
from state_store.store import StateStore
from state_store.vault import MasterKey, Vault

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs" / "deploy-store.md"
PASSWORD = "correct horse"


def rule():
    (line,) = re.findall(r"^ACL SETUSER torpor .*$", DOCS.read_text("utf-8"), re.MULTILINE)
    return [word.replace("PASSWORD", PASSWORD) for word in line.split(" ")]


def with_user(url):
    scheme, _, place = url.partition("://")
    return f"{scheme}://torpor:correct%20horse@{place}"


async def use_everything(url, monkeypatch, folder):
    await use_store(url, monkeypatch)
    await use_archive(url, f"file://{folder}/archive")
    await use_saver(url)


async def use_archive(url, place):
    """An encrypted tenant's session goes to the archive, comes back, and all is shredded."""
    vault = Vault([MasterKey(bytes(32))])
    client = ObjectClient(url, timeout=10.0)
    async with await StateStore.connect(url, archive=place, vault=vault) as store:
        author = Author(store, client, "torpor", store._archiving.archive)
        await store.create_tenant("ann", encrypted=True)
        await store.set_quota("ann", Quota(bytes=1 << 40, tokens=1 << 40, sessions=9))
        session = await author.session("ann", range(10), range(10, 21), labels={"a": "b"})
        await store.set_labels(session.head, {"c": "d"})
        assert (await store.page_of_sessions("ann", limit=9, labels={"a": "b"})).sessions
        assert await store.find_snapshots("ann", {"c": "d"})
        fork = await store.fork(session.id, tenant="ann")
        await author.turn(fork.id, range(30))
        await store.attachments.put(session, "one", b"1", ttl=9)
        assert await store.attachments.get(session, "one") == b"1"
        await store.notes.put("ann", "note", b"1", ttl=9)
        lease = await store.acquire(fork.id, ttl=30, owner="me")
        await store.renew(lease, ttl=30)
        await store.rewind(fork.id, session.head, lease=lease)
        await store.release(lease)
        swept = await store.sweep(ArchivePolicy(idle=0, spare=0))
        assert session.id in [one.session_id for one in swept.sessions]
        assert await store.residency(session.id) == "archived"
        assert (await store.check_integrity()).problems == []
        await store.bring_back(session.id)
        assert await store.residency(session.id) == "stored"
        assert (await store.usage_report("ann")).sessions == 2
        assert (await store.check_integrity(repair=True)).problems == []
        await store.delete_tenant("ann")
        await store.recover(older_than=0)
        found = [key async for keys in store._control.scan("torpor:{tenant:ann}:*") for key in keys]
        assert set(found) <= {b"torpor:{tenant:ann}:record"}
    client.close()


async def use_saver(url):
    """LangGraph's checkpoints and memories."""
    async with await TorporSaver.connect(url) as saver:
        config = {"configurable": {"thread_id": "t", "checkpoint_ns": ""}}
        for value in ("one", "two"):
            checkpoint = empty_checkpoint() | {"channel_values": {"a": value}}
            checkpoint["channel_versions"] = {"a": value}
            config = await saver.aput(config, checkpoint, {}, {"a": value})
            await saver.aput_writes(config, [("a", "w"), ("__interrupt__", "w")], "task")
        assert (await saver.aget_tuple(config)).checkpoint["channel_values"] == {"a": "two"}
        assert len([one async for one in saver.alist({"configurable": {"thread_id": "t"}})]) == 2
        await saver.adelete_thread("t")
    async with await TorporStore.connect(url) as memories:
        await memories.aput(("a", "b"), "k", {"text": "v"})
        assert (await memories.aget(("a", "b"), "k")).value == {"text": "v"}
        assert await memories.asearch(("a",))
        assert await memories.alist_namespaces()
        await memories.adelete(("a", "b"), "k")


async def use_store(url, monkeypatch):
    monkeypatch.setattr("state_store.registry.POLL", 0.1)
    monkeypatch.setattr("state_store.durability.CONFIRM_TIMEOUT", 1.5)
    client = ObjectClient(url, timeout=10.0)
    client.ping()
    async with await StateStore.connect(url) as store:
        writer = Writer(store, client, "torpor")
        session = await writer.session(range(10), range(10, 21))
        fork = await store.fork(session.id)
        await writer.turn(fork.id, range(30))
        assert await writer.history(session.id) == list(range(21))
        assert len(await store.sessions(TENANT)) == 2
        assert (await store.check_integrity()).problems == []
        assert await store.residency(session.id) == "stored"
        for level in ("fsync", "replicated:9"):
            refused = ""
            try:
                await store.confirm(level)
            except DurabilityNotReached as error:
                refused = str(error)
            assert "permissions" not in refused
        beat = Heartbeat(url, "e", {"boot_id": "e"}, ttl=5.0, prefix="torpor")
        listener = CommandListener(url, "e", 0, {"echo": dict}, prefix="torpor")
        for thread in (beat, listener):
            thread.start()
        while not await store.engines():
            pass
        assert await store.send_command("e", 1, "echo", {"a": 1}, timeout=5.0) == [{"a": 1}]
        for thread in (beat, listener):
            thread.stop()
        key, value = b"torpor:one", bytearray(b"12345")
        client.put([(key, memoryview(value))], ttl=9)
        client.replace([(key, memoryview(value))], ttl=9)
        assert client.touch([key], ttl=90) == [True]
        assert client.get_small([key]) == [b"12345"]
        assert client.set_small_nx([(key, b"")], ttl=9) == [False]
        for one in (fork, session):
            await store.delete_session(one.id)
        await store.items.add("default", "talk", [b"1", b"2"], ttl=9)
        assert await store.items.pop("default", "talk") == b"2"
        assert await store.items.last("default", "talk") == [b"1"]
        await store.items.clear("default", "talk")
        await store.recover(older_than=0)
        assert await writer.problems() == []
    client.close()


def test_the_documented_rights_are_those_that_are_tried_and_those_that_scripts_need():
    tried = {*trials("torpor", "cluster"), *trials("torpor", "sentinel")}
    by_category = {"ping", "client|no-touch", "wait", "waitaof", "command"}
    given = {word[1:] for word in rule() if word[:2] not in ("+@", "-@") and word[0] == "+"}
    assert given == tried - by_category | {"bgrewriteaof"}
    in_scripts = set()
    for script in (
        *ROOT.glob("state_store/lua/*.lua"),
        *ROOT.glob("agent_runtime/saver/lua/*.lua"),
    ):
        for call in re.findall(r"redis\.p?call\(([^,)]*)", script.read_text("utf-8")):
            in_scripts |= {word.lower() for word in re.findall(r"'([A-Z]{3,})'", call)}
    assert len(in_scripts) > 30
    assert in_scripts - {"object"} <= given


@pytest.mark.parametrize("build", BUILDS)
async def test_the_documented_user_can_do_everything_on_one_server(tmp_path, build, monkeypatch):
    with Server(tmp_path, build=build) as server:
        with server.client() as admin:
            admin.execute_command(*rule())
        await use_everything(with_user(f"redis://{HOST}:{server.port}"), monkeypatch, tmp_path)


async def test_the_documented_user_can_do_everything_through_sentinels(tmp_path, monkeypatch):
    with Sentinels(tmp_path) as servers:
        for server in (servers.primary, servers.replica):
            with server.client() as admin:
                admin.execute_command(*rule())
        await use_everything(with_user(servers.url), monkeypatch, tmp_path)


@pytest.mark.slow
async def test_the_documented_user_can_do_everything_on_a_cluster(tmp_path, monkeypatch):
    with Cluster(tmp_path) as cluster:
        for member in cluster.members:
            with member.client() as admin:
                admin.execute_command(*rule())
        await use_everything(with_user(cluster.url), monkeypatch, tmp_path)


async def test_compose_lets_in_the_documented_user_and_nobody_else(tmp_path, monkeypatch):
    text = (ROOT / "compose.yaml").read_text()
    users = yaml.safe_load(text)["configs"]["redis_users"]["content"].splitlines()
    with Server(tmp_path) as server, server.client() as admin, admin.client() as admin:
        for user in reversed(users):  # the default one, who sets them, last
            words = re.sub(r"\$\{REDIS_PASSWORD:\?.*?\}", "PASSWORD", user).split(" ")
            if words[1] == "torpor":
                beyond = [right for right in rule() if right.startswith(("+role", "+cluster"))]
                documented = [word for word in rule() if word not in beyond]
                assert [word.replace("PASSWORD", PASSWORD) for word in words[1:]] == documented[2:]
            words = [word.replace("PASSWORD", PASSWORD) for word in words]
            admin.execute_command("ACL", "SETUSER", *words[1:])
        try:
            url = f"redis://{HOST}:{server.port}"
            await use_everything(with_user(url), monkeypatch, tmp_path)
            with redis.Redis.from_url(url) as anybody, pytest.raises(redis.AuthenticationError):
                anybody.get("torpor:{x}")
        finally:
            admin.execute_command("ACL", "SETUSER", "default", "on")


@pytest.fixture
def admin(own_server):
    with redis.Redis.from_url(own_server.url) as client:
        client.execute_command(*rule())
        yield client


async def test_a_right_that_is_missing_is_named(own_server, admin):
    socket = own_server.url.removeprefix("unix://")
    url = f"unix://torpor:correct%20horse@{socket}"
    objects = ObjectClient(url, timeout=5.0)
    async with await StateStore.connect(url) as store:
        writer = Writer(store, objects, "torpor")
        session = await writer.session(range(6))
        draft = await writer.draft(session.id, range(6, 13))
        writer.put(draft)
        lease = await writer.lease(session.id)
        for right in ("info", "eval", "evalsha", "hset", "sadd"):
            admin.execute_command("ACL", "SETUSER", "torpor", f"-{right}")
            if right == "eval":
                admin.script_flush()
            with pytest.raises(StoreRefused, match=f"(?i)permissions.*{right}|{right}.*permission"):
                await store.commit(draft, lease=lease, durability="memory")
            with pytest.raises(StoreRefused, match=right):
                async with store._control.guard() as client:
                    await client.execute_command(right, "torpor:{k}", "a", "b")
            admin.execute_command("ACL", "SETUSER", "torpor", f"+{right}")
        admin.execute_command("ACL", "SETUSER", "torpor", "-waitaof")
        with pytest.raises(DurabilityNotReached, match="waitaof"):
            await store.confirm("fsync")
        admin.execute_command("ACL", "SETUSER", "torpor", "-set")
        with pytest.raises(StoreRefused, match="set"):
            writer.put(draft)
        with pytest.raises(StoreRefused, match="key"):
            objects.touch([b"another:key"], ttl=9)
        admin.execute_command("ACL", "SETUSER", "torpor", "+set")
        await store.commit(draft, lease=lease, durability="memory")
        assert await writer.history(session.id) == list(range(13))
        await store.recover(older_than=0)
        assert await writer.problems() == []
    objects.close()


def test_the_documented_user_can_do_no_harm_beyond_its_keys(own_server, admin):
    socket = own_server.url.removeprefix("unix://")
    with redis.Redis(unix_socket_path=socket, username="torpor", password=PASSWORD) as client:
        for words in (
            "FLUSHALL", "CONFIG SET maxmemory 1", "KEYS *", "SHUTDOWN", "GET other",
            "SET other 1", "SCRIPT FLUSH", "ACL LIST", "REPLICAOF NO ONE",
        ):  # fmt: skip
            with pytest.raises(redis.exceptions.NoPermissionError):
                client.execute_command(*words.split(" "))
