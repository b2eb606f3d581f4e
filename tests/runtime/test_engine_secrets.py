"""Whoever may look at an engine does not learn how its store is logged in to."""

from dataclasses import replace

import httpx
import psutil
import pytest

from engine.launch import EngineOptions, EngineProcess, free_port
from engine.linker.config import LinkerConfig
from engine.profiles import profile_named
from state_store.errors import VaultLocked

STORE = "redis://runtime:s3cret-pass@redis:6379"
ARCHIVE = "s3://bucket/path?secret_access_key=s3cret-key"


@pytest.fixture
def process(tmp_path):
    """An engine that is not started."""
    key = tmp_path / "s3cret-place"
    key.write_text("ab" * 32)
    options = EngineOptions(
        profile=profile_named("demo"),
        redis_url=STORE,
        archive=ARCHIVE,
        master_key=f"file:{key}",
        log_file=tmp_path / "log",
        port=free_port(),
    )
    return EngineProcess(options)


def test_the_command_line_has_no_secret(process):
    assert not any("s3cret" in argument for argument in process.command())


def test_the_linker_is_told_through_the_environment(process):
    given = {"engine_id": "engine", "boot_id": "b"}
    config = LinkerConfig.told(given, process.environment())
    assert (config.url, config.archive) == (STORE, ARCHIVE)
    assert config.master_key is not None
    assert config.master_key.endswith("s3cret-place")


def test_an_engine_whose_master_key_is_missing_is_not_started(process):
    with pytest.raises(VaultLocked, match="cannot be read from file:/nowhere"):
        EngineProcess(replace(process.options, master_key="file:/nowhere", port=free_port()))


def test_a_running_engine_shows_nobody_where_its_store_is(stage):
    assert stage.engine.process is not None
    parent = psutil.Process(stage.engine.process.pid)
    shown = [word for one in (parent, *parent.children(recursive=True)) for word in one.cmdline()]
    log = stage.engine.options.log_file.read_text(errors="replace")
    answer = httpx.get(f"{stage.engine.url}/server_info", trust_env=False)
    answer.raise_for_status()
    assert "TorporLinker" in log  # SGLang's arguments are in both
    assert "TorporLinker" in answer.text
    told = [line for line in log.splitlines() if "TorporLinker" in line]
    where = stage.store.url.removeprefix("unix://")
    assert not [text for text in (*shown, *told, answer.text) if where in text]
