"""What the README shows works as it is written."""

import re
import subprocess
import sys
from pathlib import Path

from agent_runtime.cli import _parser
from agent_runtime.service.api import create_app
from agent_runtime.settings import RuntimeSettings
from engine.profiles import PROFILES

REPOSITORY = Path(__file__).parents[2]
README = (REPOSITORY / "README.md").read_text("utf-8")


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def test_the_python_example_runs_and_calculates(stage):
    (example,) = blocks("python")
    done = subprocess.run(
        [sys.executable, "-c", example.replace("http://127.0.0.1:8700", stage.runtime.url)],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.splitlines()
    assert first == "318 + 264 = 582."
    assert second.startswith("You are welcome.")


def test_every_command_is_one():
    lines = [line.partition("#")[0].split() for block in blocks("") for line in block.splitlines()]
    commands = [line[1:] for line in lines if line[:1] == ["torpor"]]
    assert len(commands) >= 5
    for command in commands:
        _parser().parse_args(command)
    targets = {line[1] for line in lines if line[:1] == ["make"]}
    makefile = (REPOSITORY / "Makefile").read_text()
    assert targets
    assert all(f"\n{target}:" in makefile for target in targets)


def test_the_table_has_the_routes_that_there_are():
    there_are = {("GET", "/console")}  # in no OpenAPI document
    for keys in (False, True):
        app = create_app(
            RuntimeSettings(
                redis_url="unix:///x", model_dir=PROFILES["demo"].model, require_keys=keys
            )
        )
        for path, methods in app.openapi()["paths"].items():
            there_are |= {(method.upper(), unnamed(path)) for method in methods}
    assert routes_of_the_table() == there_are


def routes_of_the_table():
    """A row names its first path in full; `…` in later ones stands for the last path up to its last
    parameter. Methods hold for the paths after them, too."""
    (table,) = re.findall(r"^\| HTTP \|.*?\n\n", README, re.MULTILINE | re.DOTALL)
    found = set()
    for row in table.strip().splitlines()[2:]:
        methods, base = [], None
        for span in re.findall("`(.+?)`", row.split("|")[1]):
            *named, path = span.split(" ")
            methods = [name.strip(",") for name in named] or methods
            path = path.partition("?")[0]
            if path.startswith("…"):
                path = base + path[1:]
            assert path.startswith("/"), row
            base = re.match(r".*\}|.*", path)[0]
            found |= {(method, unnamed(path)) for method in methods}
    return found


def unnamed(path):
    return re.sub(r"\{.*?\}", "{}", path)


def test_every_profile_is_named():
    assert all(f"`{name}`" in README for name in PROFILES)
