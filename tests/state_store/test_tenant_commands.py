"""`torpor store create-tenant` and `delete-tenant`."""

from __future__ import annotations

import secrets

from agent_runtime.cli import main


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
