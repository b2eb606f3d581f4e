"""What the doctor says of real servers, in order and out of it."""

import contextlib
import re
import subprocess
import time
from pathlib import Path

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from agent_runtime.doctor import Level, store
from engine.launch import free_port
from state_store.embedded import EmbeddedServer, _binary
from state_store.rights import trials

MIB = 1 << 20


@pytest.fixture
def server(tmp_path):
    with EmbeddedServer(tmp_path / "store") as running:
        yield running


@pytest.fixture
def client(server):
    with redis.Redis.from_url(server.url) as opened:
        yield opened


def findings(url):
    return {finding.subject: finding for finding in store.examine(url)}


def assert_tells(finding, level, *words):
    assert finding.level is level
    assert finding.why
    assert finding.fix
    for word in words:
        assert word in f"{finding.found} {finding.why} {finding.fix}"


def test_a_server_in_order_has_nothing_to_fix(server):
    found = findings(server.url)
    assert {finding.level for finding in found.values()} == {Level.OK}
    assert found["redis"].found.startswith("Valkey 9")
    assert found["redis transport"].found == "this machine only"
    assert "fsync everysec" in found["redis appendonly"].found


def test_without_a_url_the_embedded_server_is_tried():
    found = findings(None)
    assert {finding.level for finding in found.values()} == {Level.OK}
    assert found["embedded store maxmemory-policy"].found == "noeviction"


@pytest.mark.parametrize(
    ("setting", "value", "subject", "level", "words"),
    [
        ("maxmemory-policy", "allkeys-lru", "maxmemory-policy", Level.FAIL, ("deletes sessions",)),
        ("maxmemory-policy", "volatile-ttl", "maxmemory-policy", Level.WARN, ("leases",)),
        ("appendonly", "no", "appendonly", Level.WARN, ("loses every session",)),
        ("appendfsync", "no", "appendonly", Level.WARN, ("appendfsync everysec",)),
        (
            "client-output-buffer-limit",
            f"normal {MIB} 0 0",
            "client-output-buffer-limit",
            Level.FAIL,
            ("1048576 bytes",),
        ),
        (
            "client-output-buffer-limit",
            f"normal 0 {MIB} 60",
            "client-output-buffer-limit",
            Level.FAIL,
            ("for 60 s",),
        ),
        ("proto-max-bulk-len", "1mb", "proto-max-bulk-len", Level.FAIL, ("1048576 bytes",)),
    ],
)
def test_a_bad_setting_is_found(server, client, setting, value, subject, level, words):
    client.config_set(setting, value)
    found = findings(server.url)
    assert_tells(found[f"redis {subject}"], level, *words)
    others = {one.level for name, one in found.items() if name != f"redis {subject}"}
    assert others == {Level.OK}


@pytest.mark.parametrize(("part", "level"), [(0.9, Level.WARN), (0.97, Level.FAIL)])
def test_a_server_that_is_nearly_full_is_found(server, client, part, level):
    client.setrange("page", 64 * MIB - 1, b"x")  # and no buffer of that size that goes soon
    client.config_set("maxmemory", int(client.info("memory")["used_memory"] / part))
    assert_tells(findings(server.url)["redis memory"], level, "maxmemory")


def test_a_limit_beyond_the_machine_is_found(server, client):
    client.config_set("maxmemory", 1 << 50)
    assert_tells(findings(server.url)["redis maxmemory"], Level.WARN, "kernel kills")


def test_a_replica_is_found(server, client):
    client.replicaof("localhost", free_port())
    assert_tells(findings(server.url)["redis role"], Level.FAIL, "takes no writes")


def test_settings_that_may_not_be_read_are_said_to_be_unknown(server, client):
    client.acl_setuser(
        "limited", enabled=True, passwords=["+secret"], keys=["*"], commands=["+@all", "-config"]
    )
    found = findings(server.url.replace("unix://", "unix://limited:secret@"))
    assert_tells(found["redis settings"], Level.WARN, "CONFIG GET is refused")
    assert "redis maxmemory-policy" not in found


def test_a_missing_right_is_named(server, client):
    text = (Path(__file__).parents[2] / "docs" / "deploy-store.md").read_text("utf-8")
    (line,) = re.findall(r"^ACL SETUSER torpor (.*)$", text, re.MULTILINE)
    rule = line.replace("PASSWORD", "secret").split(" ")
    client.execute_command("ACL", "SETUSER", "torpor", *rule)
    url = server.url.replace("unix://", "unix://torpor:secret@")
    assert findings(url)["redis rights"].level is Level.OK
    for right in trials("torpor", ""):
        client.execute_command("ACL", "SETUSER", "torpor", f"-{right}")
        found = findings(url)["redis rights"]
        assert_tells(found, Level.FAIL, f"lacks +{right} with")
        client.execute_command("ACL", "SETUSER", "torpor", f"+{right}")
    client.execute_command("ACL", "SETUSER", "torpor", "resetkeys", "~other:*")
    assert_tells(findings(url)["redis rights"], Level.FAIL, "+hset", "~torpor:*")
    assert client.keys() == []


def test_no_server_is_found_and_the_password_not_shown(tmp_path):
    (finding,) = [
        one
        for one in store.examine(f"unix://me:secret@{tmp_path}/nowhere.sock")
        if one.level is not Level.OK
    ]
    assert_tells(finding, Level.FAIL, "does not answer", "start it")
    assert "secret" not in finding.found


@pytest.mark.parametrize("url", ["redis+ring://127.0.0.1:1", "nonsense", "http://127.0.0.1:1"])
def test_a_url_that_is_none_is_found(url):
    assert store.examine(url)
    assert findings(url)["redis"].level is Level.FAIL


def test_an_open_network_is_found():
    assert_tells(next(store.examine("redis://10.0.0.1:1")), Level.WARN, "not encrypted", "rediss")
    assert next(store.examine("rediss://10.0.0.1:1")).level is Level.OK


# ---- a cluster -----------------------------------------------------------------------


@pytest.fixture
def start():
    """Starts a server process on a free port and waits until it answers."""
    with contextlib.ExitStack() as stack:

        def starts(*options):
            port = free_port()
            process = subprocess.Popen(
                [str(_binary()), *options, "--port", str(port), "--bind", "127.0.0.1"],
                stdout=subprocess.DEVNULL,
            )
            stack.callback(process.wait)
            stack.callback(process.kill)
            opened = stack.enter_context(redis.Redis(port=port, retry=Retry(NoBackoff(), 0)))
            until(lambda: answers(opened), process)
            return port, opened, process

        yield starts


@pytest.fixture
def member(start, tmp_path):
    """One member of a cluster that serves no slot yet."""
    bus = ("--cluster-port", str(free_port()))
    log = ("--dir", str(tmp_path), "--appendonly", "yes", "--save", "")
    return start("--cluster-enabled", "yes", *bus, *log)


def answers(client):
    with contextlib.suppress(redis.ConnectionError):
        return client.ping()
    return False


def until(done, process):
    for _ in range(500):
        if done():
            return
        assert process.poll() is None, "the server ended"
        time.sleep(0.02)
    raise AssertionError("it never came true")


def test_a_cluster_that_does_not_serve_all_slots_is_found(member):
    port, _, _ = member
    found = findings(f"redis://127.0.0.1:{port}")
    assert_tells(found["redis cluster"], Level.FAIL, "state fail", "--cluster fix")


def test_a_cluster_wants_a_url_that_says_so(member):
    port, client, process = member
    client.execute_command("CLUSTER ADDSLOTSRANGE", 0, 16383)
    until(lambda: client.execute_command("CLUSTER INFO")["cluster_state"] == "ok", process)
    single = findings(f"redis://127.0.0.1:{port}")
    assert_tells(single["redis cluster"], Level.FAIL, "redis+cluster://")
    cluster = findings(f"redis+cluster://127.0.0.1:{port}")
    assert cluster["redis cluster"].level is Level.OK
    assert cluster["redis cluster"].found == "16384 of 16384 slots served"


def test_a_sentinel_leads_to_its_primary(start, tmp_path):
    port, _, _ = start("--dir", str(tmp_path), "--save", "", "--maxmemory-policy", "noeviction")
    watch = tmp_path / "sentinel.conf"
    watch.write_text(f"sentinel monitor agents 127.0.0.1 {port} 1\n")
    sentinel, _, _ = start(str(watch), "--sentinel")
    found = findings(f"redis+sentinel://127.0.0.1:{sentinel}/agents")
    assert found["redis role"].found == "primary, 0 replicas"
    assert_tells(found["redis appendonly"], Level.WARN, "restart")
    unknown = findings(f"redis+sentinel://127.0.0.1:{sentinel}/others")
    assert unknown["redis"].level is Level.FAIL
    assert "others" in unknown["redis"].found


# ---- what no server here can be made to be ------------------------------------------


@pytest.mark.parametrize(
    ("skew", "level"),
    [(0.2, Level.OK), (-3.0, Level.WARN), (3.0, Level.WARN), (-60.0, Level.FAIL)],
)
def test_clocks_that_differ_are_found(skew, level):
    finding = store.clock(skew, "redis")
    assert finding.level is level
    assert f"{skew:+.3f} s" in finding.found


@pytest.mark.parametrize(
    ("info", "level"),
    [
        ({"redis_version": "7.0.15"}, Level.FAIL),
        ({"redis_version": "7.2.0"}, Level.OK),
        ({"redis_version": "10.0.1"}, Level.OK),
        ({"redis_version": "7.2.4", "valkey_version": "9.1.2"}, Level.OK),
    ],
)
def test_an_old_redis_is_found(info, level):
    assert store.version(info, "redis").level is level


def test_writes_that_failed_are_found():
    finding = store.persistence({"aof_last_write_status": "err"}, "redis")
    assert_tells(finding, Level.FAIL, "last write of its log failed")
    assert store.persistence({"loading": 1}, "redis").level is Level.WARN
