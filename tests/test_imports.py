"""The shape of the code base: which package may import which, names, and file sizes."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MAY_IMPORT = {
    "agent_runtime": {"agent_runtime", "engine", "tools", "state_store"},
    "engine": {"engine", "state_store"},
    "state_store": {"state_store"},
    "tools": {"tools"},
}
SOURCES = sorted(path for package in MAY_IMPORT for path in (ROOT / package).rglob("*.py"))
RUNTIME = [
    "langchain", "openai_agents", "cli", "commands",
    "bench", "demo", "doctor", "configuration", "environment", "deployment",
    "chat", "branching", "saver", "graph", "kept_turns", "workspaces",
    "service",
    "routes", "anthropic_api", "openai_api", "mcp_server", "console", "access",
    "sdk", "frameworks",
    "sessions", "turns", "feed", "messages", "scheduling",
    "settings", "policies", "noted",
    "http", "telemetry", "telemetry_export", "caller",
    "wire", "errors",
]  # fmt: skip
"""Folders and modules of agent_runtime: each imports only from itself and from those behind it."""
OF_THE_SERVER = {
    "cryptography", "fastapi", "jinja2", "msgpack", "numpy", "redis", "sglang", "starlette",
    "tokenizers", "torch",
}  # fmt: skip
MOST_LINES = 500
VAGUE = re.compile(r"(^|_)(utils?|helpers?|managers?|common)(_|$)")


def imported(source: str) -> set[str]:
    """The full names of all modules that a source imports, wherever in it."""
    modules = set()
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import(names=names):
                modules.update(alias.name for alias in names)
            case ast.ImportFrom(module=module, level=level):
                modules.add("." * level + (module or ""))
            case ast.Call(
                func=ast.Name(id="__import__") | ast.Attribute(attr="import_module"),
                args=[ast.Constant(value=str() as module), *_],
            ):
                modules.add(module)
    return modules


def files_in_the_tree() -> list[Path]:
    """Everything that is or could be committed."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT, check=True, capture_output=True, text=True,
    )  # fmt: skip
    return [Path(name) for name in listed.stdout.split("\0") if name]


def test_every_way_to_import_is_seen():
    source = """
import a.b as c, d
def late():
    from e.f import g
    from . import h
    importlib.import_module("i.j")
"""
    assert imported(source) == {"a.b", "d", "e.f", ".", "i.j"}


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_every_package_has_sources(package):
    assert [path for path in SOURCES if path.is_relative_to(ROOT / package)]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_are_absolute_and_point_down(path):
    package = path.relative_to(ROOT).parts[0]
    modules = imported(path.read_text())
    assert {module for module in modules if module.startswith(".")} == set()
    ours = {module for module in modules if module.split(".")[0] in MAY_IMPORT}
    assert {module for module in ours if module.split(".")[0] not in MAY_IMPORT[package]} == set()


def test_layers_of_the_runtime_are_those_that_there_are():
    within = (ROOT / "agent_runtime").iterdir()
    found = {path.stem for path in within if path.suffix in ("", ".py") and path.name[0] != "_"}
    assert sorted(RUNTIME) == sorted(found)


@pytest.mark.parametrize("layer", RUNTIME)
def test_imports_within_the_runtime_point_down(layer):
    above = set(RUNTIME[: RUNTIME.index(layer)])
    folder = ROOT / "agent_runtime" / layer
    paths = sorted(folder.rglob("*.py")) if folder.is_dir() else [folder.with_suffix(".py")]
    imports = {
        (str(path.relative_to(ROOT)), module)
        for path in paths
        for module in imported(path.read_text())
        if module.startswith("agent_runtime.")
    }
    assert {(path, module) for path, module in imports if module.split(".")[1] in above} == set()


def test_no_name_is_vague():
    paths = files_in_the_tree()
    assert Path("tools/calls.py") in paths
    names = {part.split(".")[0] for path in paths for part in path.parts}
    assert {name for name in names if VAGUE.search(name)} == set()


def test_no_source_is_too_long_to_fit_in_the_head():
    lengths = {path: len(path.read_text().splitlines()) for path in SOURCES}
    assert {path: length for path, length in lengths.items() if length > MOST_LINES} == {}


@pytest.mark.parametrize("module", ["sdk", "sdk.sync"])
def test_clients_import_no_part_of_the_server(module):
    program = f"import agent_runtime.{module}, sys; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout.split()
    assert f"agent_runtime.{module}" in loaded
    assert {*loaded} & OF_THE_SERVER == set()
