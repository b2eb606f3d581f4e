"""What pyproject.toml requires is what the packages import, and what images install."""

import re
import sys
import tomllib
from importlib.metadata import packages_distributions, requires

import pytest
from test_imports import MAY_IMPORT, ROOT, SOURCES, imported

NAME = re.compile(r"[\w.-]+")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
DOCKERFILE = (ROOT / "Dockerfile").read_text()
# By the requirement that is for this, so that it will not be without.
BROUGHT = {
    "anyio": "httpx",
    "h11": "uvicorn",
    "jsonschema-specifications": "jsonschema",
    "langchain-core": "langgraph",
    "langgraph-checkpoint": "langgraph",
    "openai": "openai-agents",
    "pydantic-core": "pydantic",
    "referencing": "jsonschema",
    "starlette": "fastapi",
}


def canonical(requirement: str) -> str:
    """The name in it, as indexes write it."""
    match = NAME.match(requirement)
    assert match is not None
    return re.sub(r"[-_.]+", "-", match[0]).lower()


def test_every_package_that_is_imported_is_required():
    extras = [name for names in PROJECT["optional-dependencies"].values() for name in names]
    required = {canonical(text) for text in (*PROJECT["dependencies"], *extras)}
    homes = packages_distributions()
    modules = {name.partition(".")[0] for path in SOURCES for name in imported(path.read_text())}
    missing = {}
    for module in modules - set(sys.stdlib_module_names) - set(MAY_IMPORT) - {""}:
        names = {canonical(name) for name in homes.get(module, [module])}
        if not names & required and not {BROUGHT.get(name) for name in names} & required:
            missing[module] = names
    assert not missing


@pytest.mark.parametrize("name", BROUGHT)
def test_what_is_not_required_itself_is_brought(name):
    assert name in {canonical(text) for text in requires(BROUGHT[name]) or []}


def test_images_install_all_that_is_required_and_copy_only_what_is_named():
    stages = DOCKERFILE.split("\nFROM ")[1:]
    assert len(stages) == 2
    engine = stages[0]
    assert '".[gpu]"' in engine
    assert "--no-deps" not in engine
    copied = re.findall(r"^COPY (.+) \S+$", DOCKERFILE, re.MULTILINE)
    named = {name for names in copied for name in names.split()}
    assert set(MAY_IMPORT) <= named
    assert not [name for name in named if not (ROOT / name).exists() or name in (".", "*")]
    for stage in stages:
        for package in MAY_IMPORT:
            assert f"COPY {package} {package}\n" in stage


def test_the_admin_key_of_compose_is_neither_committed_nor_in_a_build():
    for ignored in (".gitignore", ".dockerignore"):
        assert "*.key" in (ROOT / ignored).read_text().splitlines()
