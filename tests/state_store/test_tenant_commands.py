"""`torpor store` on tenants, their quotas, and encrypted sessions that travel as files."""

from __future__ import annotations

import asyncio
import json
import secrets

import pytest
from author import BYTES, Author

from agent_runtime.cli import main
from state_store.codec import HEADER_BYTES, Frame
from state_store.encodings import ECONOMIES
from state_store.objects import ObjectClient
from state_store.payloads import Outcome
from state_store.quotas import Quota
from state_store.store import StateStore
from state_store.vault import MasterKey, Vault


def test_tenants_are_created_once_and_deleted_for_good(own_server, capsys, tmp_path):
    def run(*words):
        code = main(["store", *words, "--redis", own_server.url])
        captured = capsys.readouterr()
        return code, captured.out.strip(), captured.err

    key = tmp_path / "key"
    key.write_text(secrets.token_hex(32))
    create = ("create-tenant", "hidden", "--master-key", f"file:{key}")
    assert run(*create) == (0, "hidden: encrypted, lossless", "")
    code, _, error = run(*create)
    assert (code, "there is a tenant hidden already" in error) == (1, True)
    assert run("create-tenant", "open")[:2] == (0, "open: in the clear, lossless")
    assert run("delete-tenant", "hidden")[:2] == (0, "0 sessions were deleted")
    assert run("delete-tenant", "nobody")[0] == 1


def test_a_tenants_key_is_wrapped_by_another_master_key(own_server, capsys, tmp_path):
    keys = tmp_path / "keys"

    def run(*words):
        code = main(["store", *words, "--redis", own_server.url, "--master-key", f"file:{keys}"])
        captured = capsys.readouterr()
        return code, captured.out.strip(), captured.err

    old, new = (MasterKey(secrets.token_bytes(32)) for _ in range(2))
    keys.write_text(old.reveal().hex())
    assert run("create-tenant", "ann")[0] == 0
    keys.write_text(f"{new.reveal().hex()}\n{old.reveal().hex()}\n")
    assert run("rewrap", "ann", "bob")[:2] == (0, f"ann: master key {new.id}\nbob: in the clear")
    keys.write_text(new.reveal().hex())  # the old one is not needed any more
    assert run("usage", "--tenant", "ann")[0] == 0
    keys.write_text(old.reveal().hex())
    code, _, error = run("rewrap", "ann")
    assert (code, f"under master key {new.id}" in error) == (1, True)


def test_a_quota_is_set_shown_and_lifted(own_server, capsys):
    def run(*words):
        code = main(["store", "set-quota", "ann", *words, "--redis", own_server.url])
        return code, capsys.readouterr().out.strip()

    shown = '{"tenant": "ann", "bytes": 4096, "tokens": null, "sessions": 2}'
    assert run("--bytes", "4096", "--sessions", "2") == (0, shown)
    assert asyncio.run(quota_of(own_server, "ann")) == Quota(bytes=4096, sessions=2)
    assert run("--tokens", "0")[0] == 0
    assert asyncio.run(quota_of(own_server, "ann")) == Quota(tokens=0)
    assert run()[0] == 0
    assert asyncio.run(quota_of(own_server, "ann")) == Quota()
    with pytest.raises(SystemExit, match=r"^2$"):
        run("--tokens", "-1")
    assert "argument --tokens: " in capsys.readouterr().err


async def quota_of(server, tenant):
    async with await StateStore.connect(server.url) as store:
        return await store.quota(tenant)


@pytest.mark.parametrize("economy", sorted(ECONOMIES))
def test_an_encrypted_session_of_any_class_moves_by_file_to_another_encrypted_tenant(
    own_server, capsys, tmp_path, economy
):
    """And back again: what a class has rounded once it does not round again."""
    key, file, back = tmp_path / "key", tmp_path / "session", tmp_path / "back"
    key.write_text(secrets.token_hex(32))
    source = f"file:{key}"
    objects = ObjectClient(own_server.url, timeout=5.0)

    def run(*words, with_key=True):
        option = ("--master-key", source) if with_key else ()
        code = main(["store", *words, "--redis", own_server.url, *option])
        return code, capsys.readouterr()

    async def write():
        async with await StateStore.connect(own_server.url, vault=Vault.load(source)) as store:
            return (await Author(store, objects, "torpor").session("ann", range(10))).id

    async def look(session_id):
        async with await StateStore.connect(own_server.url, vault=Vault.load(source)) as store:
            session = await store.session(session_id)
            history = await store.ancestors(session.head)
            author = Author(store, objects, "torpor")
            assert (await store.check_integrity()).problems == []
            payloads = await author.payloads(session)
            read = [
                [(ref, author_frame(ref)) for one in history for ref in one.objects]
                for _ in payloads
            ]
            for rank, items in zip(payloads, read, strict=True):
                assert set(rank.read(items)) == {Outcome.OK}
            stored = [bytes(frame.payload) for items in read for _, frame in items]
            body = session.body
            return list(await store.tokens(session.head)), body.economy, body.encrypted, stored

    assert run("create-tenant", "ann", "--economy", economy)[0] == 0
    assert run("create-tenant", "ben")[0] == 0
    session_id = asyncio.run(write())
    first = asyncio.run(look(session_id))
    assert first[:3] == (list(range(10)), economy, True)

    code, told = run("export", session_id, str(file), with_key=False)
    assert (code, "master key" in told.err, file.exists()) == (1, True, False)
    code, told = run("export", session_id, str(file))
    assert (code, "not in the file" in told.err) == (0, True)
    code, told = run("import", str(file), "--tenant", "ben", with_key=False)
    assert (code, "master key" in told.err) == (1, True)
    code, told = run("import", str(file), "--tenant", "ben")
    there = told.out.strip()
    assert (code, asyncio.run(look(there))) == (0, first)

    assert run("export", there, str(back))[0] == 0
    code, told = run("import", str(back), "--tenant", "ann")
    assert (code, asyncio.run(look(told.out.strip()))) == (0, first)
    code, told = run("usage", with_key=False)
    assert (code, "master key" in told.err) == (1, True)
    code, told = run("usage", "--tenant", "ann")
    assert json.loads(told.out)["sessions"] == 2
    objects.close()


def author_frame(ref):
    return Frame(memoryview(bytearray(HEADER_BYTES)), memoryview(bytearray(BYTES[ref.kind])))


@pytest.mark.parametrize("wrong", [("--days", "0"), ("--per-minute", "0"), ("--role", "operator")])
def test_a_key_that_is_refused_makes_no_tenant(own_server, capsys, wrong):
    create = ["keys", "create", "--tenant", "ghost", *wrong, "--redis", own_server.url]
    assert main(create) == 1
    assert main(["store", "delete-tenant", "ghost", "--redis", own_server.url]) == 1
    assert "no tenant ghost" in capsys.readouterr().err


def test_a_tenant_that_is_not_there_takes_nothing_and_is_an_error(own_server, capsys):
    usage = ["store", "usage", "--redis", own_server.url, "--tenant"]
    assert main([*usage, "nix"]) == 1
    out, err = capsys.readouterr()
    assert (out, "there is no tenant nix" in err) == ("", True)
    assert main(["store", "create-tenant", "nix", "--redis", own_server.url]) == 0
    assert main([*usage, "nix"]) == 0
