"""SGLang has not changed under our patches and our linker.

upstream.toml records a fingerprint of everything they rely on: what they replace, the kernels whose
meaning they mirror, the code that calls them, and the tree and pools that the linker works with.
When one of these tests fails after an upgrade: read what changed in the named symbol, adapt our
code, then record the value found.
"""

import json
import tomllib
from pathlib import Path

import pytest

from engine.cpu.patches import ALL
from engine.linker import patches
from engine.patch import Kind

from .test_patches import python

RECORDED = tomllib.loads((Path(__file__).parent / "upstream.toml").read_text())
SYMBOLS = {
    symbol: fingerprint
    for group in ("replaced", "mirrored", "callers", "linker", "grammars")
    for symbol, fingerprint in RECORDED[group].items()
}


@pytest.fixture(scope="module")
def found():
    """What is installed, seen by a process in which nothing is patched."""
    done = python(
        """
        import hashlib, importlib.metadata, inspect, json, torch
        from engine.patch import Kind
        from engine.cpu.patches import ALL

        def fingerprint(symbol):
            try:
                source = inspect.getsource(pkgutil.resolve_name(symbol))
            except (ImportError, AttributeError) as error:
                return f"missing: {error}"
            return hashlib.sha256(source.encode()).hexdigest()[:16]

        def bound(target):
            path, _, name = target.rpartition(".")
            return hasattr(pkgutil.resolve_name(path), name)

        print(json.dumps({
            "sglang": importlib.metadata.version("sglang"),
            "fingerprints": {symbol: fingerprint(symbol) for symbol in json.loads(sys.argv[1])},
            "bound": {p.target: bound(p.target) for p in ALL if p.kind is Kind.BIND},
            "cpu_kernel": {
                p.target: torch._C._dispatch_has_kernel_for_dispatch_key(p.target, "CPU")
                for p in ALL if p.kind is Kind.OPERATOR
            },
            "operators": {
                name: str(getattr(torch.ops.aten, name).default._schema)
                for name in json.loads(sys.argv[2])
            },
        }))
        """,
        json.dumps(list(SYMBOLS)),
        json.dumps(list(RECORDED["operators"])),
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_the_record_is_of_the_installed_version(found):
    assert found["sglang"] == RECORDED["sglang"]


@pytest.mark.parametrize("symbol", SYMBOLS)
def test_upstream_symbol_is_where_and_what_it_was(found, symbol):
    assert found["fingerprints"][symbol] == SYMBOLS[symbol], symbol


@pytest.mark.parametrize("operator", RECORDED["operators"])
def test_torch_operator_takes_what_it_took(found, operator):
    assert found["operators"][operator] == RECORDED["operators"][operator]


def test_names_we_bind_are_still_unbound_upstream(found):
    assert found["bound"]
    assert [target for target, bound in found["bound"].items() if bound] == []


def test_operators_we_implement_still_have_no_cpu_kernel(found):
    assert found["cpu_kernel"] == {"aten::mm.dtype": False}


def test_every_replaced_sglang_symbol_is_recorded():
    everything = (*ALL, *patches.ALL)
    hooked = {patch.target for patch in everything if patch.kind in (Kind.REPLACE, Kind.AROUND)}
    assert {target for target in hooked if target.startswith("sglang.")} <= set(SYMBOLS)
