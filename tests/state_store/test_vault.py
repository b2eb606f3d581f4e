"""Keys: derived and wrapped as the standards say, rotated, and never shown."""

from __future__ import annotations

import base64
import copy
import logging
import pickle
import traceback

import pytest
from cryptography.hazmat.primitives.keywrap import InvalidUnwrap
from hypothesis import given, settings
from hypothesis import strategies as st

from state_store.cipher import LineageKey, ObjectKey, Secret
from state_store.errors import InvalidKey, VaultLocked
from state_store.layout import ObjectRef
from state_store.vault import (
    MasterKey,
    TenantKey,
    Vault,
    derive,
    new_lineage_seed,
    new_object_seed,
    unwrap_key,
    wrap_key,
)

OLD, NEW = MasterKey(bytes(range(32))), MasterKey(bytes(range(32, 64)))
SECRET = bytes(range(100, 132))
FINGERPRINT, OTHER_FINGERPRINT = "ab" * 16, "ac" * 16


def test_derivation_matches_rfc_5869():
    # Appendix A.1 and A.3.
    assert derive(
        b"\x0b" * 22,
        salt=bytes(range(13)),
        info=bytes(range(0xF0, 0xFA)),
        size=42,
    ) == bytes.fromhex(
        "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865"
    )
    assert derive(b"\x0b" * 22, salt=b"", info=b"", size=42) == bytes.fromhex(
        "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d9d201395faa4b61a96c8"
    )


def test_wrapping_matches_rfc_3394():
    # Section 4.6: 256 bits of key data under a 256-bit key.
    wrapping = bytes(range(32))
    data = bytes.fromhex("00112233445566778899aabbccddeeff000102030405060708090a0b0c0d0e0f")
    wrapped = bytes.fromhex(
        "28c9f404c4b810f4cbccb35cfb87f8263f5786e2d80ed326cbc7f0e71a99f43bfb988b9b7a02dd21"
    )
    assert wrap_key(wrapping, data) == wrapped
    assert unwrap_key(wrapping, wrapped) == data
    with pytest.raises(InvalidUnwrap):
        unwrap_key(wrapping[::-1], wrapped)


@pytest.mark.parametrize(
    "text",
    [
        SECRET.hex(),
        SECRET.hex().upper(),
        base64.b64encode(SECRET).decode(),
        base64.b64encode(SECRET).decode().rstrip("="),
        base64.urlsafe_b64encode(b"\xff" * 16 + SECRET[:16]).decode(),
        f"  {SECRET.hex()}\n",
    ],
)
def test_a_master_key_is_read_as_hex_or_base64(text):
    secret = SECRET if "_" not in text else b"\xff" * 16 + SECRET[:16]
    assert MasterKey.parse(text).reveal() == secret


@pytest.mark.parametrize(
    "text",
    [
        "",
        "geheim",
        SECRET.hex()[:-1],
        SECRET.hex() + "00",
        "zz" * 32,
        base64.b64encode(SECRET[:31]).decode(),
        base64.b64encode(SECRET + b"x").decode(),
        "ß" * 43,
    ],
)
def test_text_that_is_no_master_key_is_refused_and_not_repeated(text):
    with pytest.raises(InvalidKey) as refused:
        MasterKey.parse(text)
    assert not text or text not in str(refused.value)


def test_a_vault_reads_its_keys_from_a_file_newest_first(tmp_path):
    path = tmp_path / "master"
    path.write_text(f"{NEW.reveal().hex()}\n\n{base64.b64encode(OLD.reveal()).decode()}\n")
    vault = Vault.load(f"file:{path}")
    assert vault.open(Vault([OLD]).new_tenant_key("ann"), "ann")
    assert Vault([NEW]).open(vault.new_tenant_key("ann"), "ann")


def test_a_vault_reads_its_keys_from_the_environment(monkeypatch):
    monkeypatch.setenv("SOME_KEY", NEW.reveal().hex())
    assert Vault([NEW]).open(Vault.load("env:SOME_KEY").new_tenant_key("ann"), "ann")


def test_a_source_without_a_key_locks_the_vault(tmp_path, monkeypatch):
    monkeypatch.delenv("SOME_KEY", raising=False)
    (tmp_path / "empty").write_text("\n\n")
    for source in ("env:SOME_KEY", f"file:{tmp_path / 'none'}", f"file:{tmp_path / 'empty'}"):
        with pytest.raises(VaultLocked):
            Vault.load(source)


def test_a_source_of_another_kind_is_refused_and_not_repeated(tmp_path):
    (tmp_path / "binary").write_bytes(b"\xff" * 32)
    (tmp_path / "typo").write_text(SECRET.hex()[:-2])
    for source in (SECRET.hex(), f"file:{tmp_path / 'binary'}", f"file:{tmp_path / 'typo'}"):
        with pytest.raises(InvalidKey) as refused:
            Vault.load(source)
        assert SECRET.hex()[:-2] not in str(refused.value)


def test_a_tenant_key_opens_to_the_same_key_each_time():
    vault = Vault([NEW])
    wrapped = vault.new_tenant_key("ann")
    first, second = vault.open(wrapped, "ann"), Vault([NEW]).open(wrapped, "ann")
    assert first.reveal() == second.reveal()
    assert first.reveal() not in wrapped


def test_every_tenant_key_is_new():
    vault = Vault([NEW])
    keys = {vault.open(vault.new_tenant_key("ann"), "ann").reveal() for _ in range(50)}
    assert len(keys) == 50


def test_without_the_right_master_key_a_tenant_is_locked():
    wrapped = Vault([OLD]).new_tenant_key("ann")
    with pytest.raises(VaultLocked, match=OLD.id):
        Vault([NEW]).open(wrapped, "ann")
    with pytest.raises(VaultLocked, match=OLD.id):
        Vault().open(wrapped, "ann")
    with pytest.raises(VaultLocked):
        Vault().new_tenant_key("ann")
    assert Vault().locked
    assert not Vault([OLD]).locked


def test_a_wrapped_key_opens_for_its_own_tenant_only():
    vault = Vault([NEW])
    wrapped = vault.new_tenant_key("ann")
    with pytest.raises(InvalidKey, match="bob"):
        vault.open(wrapped, "bob")


def test_any_damage_to_a_wrapped_key_is_noticed():
    vault = Vault([OLD, NEW])
    wrapped = vault.new_tenant_key("ann")
    for position in range(len(wrapped)):
        damaged = bytearray(wrapped)
        damaged[position] ^= 0x01
        with pytest.raises((InvalidKey, VaultLocked)):
            vault.open(bytes(damaged), "ann")
    for length in range(len(wrapped)):
        with pytest.raises(InvalidKey):
            vault.open(wrapped[:length], "ann")
    with pytest.raises(InvalidKey):
        vault.open(wrapped + b"\0", "ann")


def test_rotation_keeps_the_tenant_key_and_frees_the_old_master_key():
    wrapped = Vault([OLD]).new_tenant_key("ann")
    key = Vault([OLD]).open(wrapped, "ann").reveal()
    both = Vault([NEW, OLD])
    assert both.open(wrapped, "ann").reveal() == key

    rewrapped = both.rewrap(wrapped, "ann")
    assert Vault([NEW]).open(rewrapped, "ann").reveal() == key
    with pytest.raises(VaultLocked):
        Vault([OLD]).open(rewrapped, "ann")
    assert both.rewrap(rewrapped, "ann") == rewrapped


def test_rewrapping_needs_the_key_that_wrapped():
    wrapped = Vault([OLD]).new_tenant_key("ann")
    with pytest.raises(VaultLocked):
        Vault([NEW]).rewrap(wrapped, "ann")
    with pytest.raises(VaultLocked):
        Vault().rewrap(wrapped, "ann")


def test_keys_of_different_things_differ():
    ann, bob = TenantKey(SECRET), TenantKey(SECRET[::-1])
    seed, other_seed = new_object_seed(), new_object_seed()
    page = ObjectRef("kv", "cd" * 32)
    keys = [
        ann.object_key(seed, page, FINGERPRINT),
        ann.object_key(seed, page._replace(kind="state"), FINGERPRINT),
        ann.object_key(seed, page._replace(part=1), FINGERPRINT),
        ann.object_key(seed, page._replace(page_hash="ce" * 32), FINGERPRINT),
        ann.object_key(seed, page, OTHER_FINGERPRINT),
        ann.object_key(other_seed, page, FINGERPRINT),
        bob.object_key(seed, page, FINGERPRINT),
        ann.lineage_key(seed[4:]),
        ann.lineage_key(new_lineage_seed()),
        bob.lineage_key(seed[4:]),
    ]
    secrets = {key.reveal() for key in keys}
    secrets |= {bytes.fromhex(ann.page_salt()), bytes.fromhex(bob.page_salt()), SECRET}
    assert len(secrets) == len(keys) + 3


def test_the_same_key_comes_of_the_same_seed():
    seed, page = new_object_seed(), ObjectRef("kv", "cd" * 32)
    one, two = (TenantKey(SECRET).object_key(seed, page, FINGERPRINT) for _ in range(2))
    assert (one.reveal(), one.id) == (two.reveal(), two.id)
    assert one.id == seed[:4]
    assert TenantKey(SECRET).page_salt() == TenantKey(SECRET).page_salt()


def test_what_stands_in_headers_does_not_enter_the_key():
    seed, page = new_object_seed(), ObjectRef("kv", "cd" * 32)
    key = TenantKey(SECRET).object_key(seed, page, FINGERPRINT)
    same = TenantKey(SECRET).object_key(b"name" + seed[4:], page, FINGERPRINT)
    assert key.reveal() == same.reveal()


@given(size=st.integers(0, 64).filter(lambda size: size not in (16, 20)))
@settings(database=None)
def test_seeds_of_another_length_are_refused(size):
    key = TenantKey(SECRET)
    with pytest.raises(InvalidKey):
        key.object_key(bytes(size), ObjectRef("kv", "cd" * 32), FINGERPRINT)
    with pytest.raises(InvalidKey):
        key.lineage_key(bytes(size))


@given(size=st.integers(0, 64).filter(lambda size: size != 32))
@settings(database=None)
def test_keys_of_another_length_are_refused(size):
    with pytest.raises(InvalidKey):
        TenantKey(bytes(size))


def spellings(secret: bytes) -> list[str]:
    return [secret.hex(), base64.b64encode(secret).decode(), repr(secret)[2:-1], str(list(secret))]


@pytest.mark.parametrize(
    "key",
    [
        MasterKey(SECRET),
        TenantKey(SECRET),
        LineageKey(SECRET),
        ObjectKey(SECRET, b"name"),
        Vault([MasterKey(SECRET)]),
    ],
    ids=lambda key: type(key).__name__,
)
def test_no_key_shows_itself(key, caplog):
    with caplog.at_level(logging.DEBUG):
        logging.getLogger("state_store").error("%s %r %s", key, key, [key])
    shown = [repr(key), str(key), f"{key}", f"{key!r}", str({"key": key}), caplog.text]
    for text in shown:
        assert not any(spelling in text for spelling in spellings(SECRET))


@pytest.mark.parametrize("key", [MasterKey(SECRET), TenantKey(SECRET), ObjectKey(SECRET, b"name")])
def test_no_key_is_pickled_or_copied(key):
    for copied in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError):
            copied(key)


def test_no_error_shows_a_key(tmp_path):
    master, path = MasterKey(SECRET), tmp_path / "master"
    path.write_text(SECRET.hex() + "\n" + SECRET.hex()[:-2])
    wrapped = Vault([master]).new_tenant_key("ann")
    failures = [
        lambda: Vault.load(f"file:{path}"),
        lambda: Vault.load(SECRET.hex()),
        lambda: MasterKey.parse(SECRET.hex()[:-2]),
        lambda: MasterKey.parse(base64.b64encode(SECRET).decode()[:-2] + "!!"),
        lambda: MasterKey(SECRET + b"x"),
        lambda: Secret(SECRET[:-1]),
        lambda: Vault([master]).open(wrapped, "bob"),
        lambda: Vault([master]).open(wrapped + b"x", "ann"),
        lambda: TenantKey(SECRET).lineage_key(SECRET),
        lambda: pickle.dumps(master),
    ]
    for fail in failures:
        with pytest.raises((InvalidKey, TypeError)) as refused:
            fail()
        lines = traceback.format_exception(refused.value)
        text = "".join(line for line in lines if "lambda" not in line)
        beginnings = [spelling[:20] for spelling in spellings(SECRET)]
        assert not any(beginning in text for beginning in beginnings)
