"""A setting comes from the strongest of its sources, and what is no setting is refused."""

import re
import shlex
import tomllib
from pathlib import Path

import pytest

from agent_runtime import cli
from agent_runtime.commands.config import shown
from agent_runtime.commands.runtime_options import FLAGS, values_of
from agent_runtime.configuration import configured, settings_fields
from agent_runtime.environment import variable

REPOSITORY = Path(__file__).parents[2]
PAGE = (REPOSITORY / "docs" / "configuration.md").read_text("utf-8")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty one, in which commands run; no variable of ours is set."""
    monkeypatch.chdir(tmp_path)
    for name in settings_fields():
        monkeypatch.delenv(variable(name), raising=False)
    return tmp_path


def block(kind):
    fenced = re.findall(r"^```(\w*)\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    (found,) = (content for name, content in fenced if name == kind)
    return found


def settings_from(*arguments):
    parsed = cli._parser().parse_args(["serve", *arguments])
    return configured(values_of(parsed))


def refused(capsys, *arguments):
    assert cli.main(["config", *arguments]) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    (line,) = printed.err.splitlines()
    return line


BASE = ["--redis", "redis://flag", "--model", "models/demo"]


def test_flags_win_over_the_environment_over_the_file_over_defaults(folder, monkeypatch):
    (folder / "f.toml").write_text(
        'port = 1\nlease_ttl = 1\nsettle_timeout = 1\nredis_url = "redis://file"\n'
        '[scheduling]\nqueue_limit = 1\npolicy = "lru"\n'
    )
    monkeypatch.setenv("TORPOR_PORT", "2")
    monkeypatch.setenv("TORPOR_LEASE_TTL", "2")
    monkeypatch.setenv("TORPOR_SCHEDULING__QUEUE_LIMIT", "2")
    settings = settings_from("--config", "f.toml", *BASE, "--port", "3")
    assert (settings.port, settings.lease_ttl, settings.settle_timeout) == (3, 2.0, 1.0)
    assert (settings.redis_url, settings.progress_after) == ("redis://flag", 1.0)
    assert (settings.scheduling.queue_limit, settings.scheduling.policy) == (2, "lru")


_VALUES = {
    "scheduling.policy": "lru",
    "backend.url": "http://a/v1",
    "master_key_source": "env:A",
}


def test_every_setting_can_be_given_in_every_way(folder, monkeypatch):
    values = {
        name: _VALUES.get(name, "7") if field.annotation is not bool else "true"
        for name, field in settings_fields().items()
    }
    by_flag = settings_from(*(f"--set={name}={value}" for name, value in values.items()))
    for name, value in values.items():
        monkeypatch.setenv(variable(name), value)
    assert settings_from() == by_flag
    for name in values:
        monkeypatch.delenv(variable(name))
    lines = [f'{name} = "{value}"' for name, value in values.items()]
    (folder / "f.toml").write_text("\n".join(lines))
    assert settings_from("--config", "f.toml") == by_flag


def test_a_file_can_be_named_in_the_environment(folder, monkeypatch):
    (folder / "f.toml").write_text("port = 8799")
    monkeypatch.setenv("TORPOR_CONFIG", "f.toml")
    assert settings_from(*BASE).port == 8799


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("prot = 1", "f.toml: prot is no setting. Did you mean port?"),
        ("[schedulling]\npolicy = 'lru'", "schedulling is no setting. Did you mean scheduling?"),
        ("[scheduling]\nquantums = 1", "Did you mean scheduling.quantum?"),
        ("scheduling = 1", "scheduling is a table"),
        ("zzz = 1", "zzz is no setting. docs"),
        ("port = 0", "port (file f.toml): Input should be greater than or equal to 1"),
        ("port = 'x'", "port (file f.toml): Input should be a valid integer"),
        ("[scheduling]\npolicy = 'fifo'", "no policy 'fifo'; choose from lru"),
        ("[backend]\ntimeout = 3", "backend.url is not set"),
        ("port = ", "f.toml is not TOML"),
        ("port = '\xff'", "f.toml is not TOML"),
    ],
)
def test_a_wrong_file_is_told_in_one_line(folder, capsys, content, words):
    (folder / "f.toml").write_bytes(content.encode("latin-1"))
    assert words in refused(capsys, "--config", "f.toml", *BASE)


def test_a_file_that_is_not_there(folder, capsys):
    assert "f.toml cannot be read" in refused(capsys, "--config", "f.toml", *BASE)


def test_flags_of_no_setting_or_value(folder, capsys):
    assert "Did you mean lease_ttl?" in refused(capsys, *BASE, "--set", "leese_ttl=1")
    assert "SETTING=VALUE" in refused(capsys, *BASE, "--set", "lease_ttl")
    assert "boundary_interval (--boundary-interval)" in refused(
        capsys, *BASE, "--boundary-interval", "-5"
    )


def test_a_variable_that_is_nearly_a_setting_is_refused_and_anothers_is_not(
    folder, capsys, monkeypatch
):
    monkeypatch.setenv("TORPOR_URL", "http://127.0.0.1:8700")
    monkeypatch.setenv("TORPOR_MASTER_KEY", "ab")
    settings_from(*BASE)
    monkeypatch.setenv("TORPOR_LEASE_TTTL", "1")
    assert "Did you mean TORPOR_LEASE_TTL?" in refused(capsys, *BASE)
    backend = ["--backend", "http://a/v1", "--backend-model", "m"]
    settings_from(*BASE, *backend, "--backend-key", "TORPOR_LEASE_TTTL")


def test_a_master_key_in_place_of_where_it_is_is_refused_and_not_shown(folder, capsys):
    key = "ab" * 32
    told = refused(capsys, *BASE, "--master-key", key)
    assert "master_key_source (--master-key)" in told
    assert key not in told


def test_the_variable_of_the_master_key_is_no_mistake(folder, monkeypatch):
    monkeypatch.setenv("TORPOR_LEASE_TTTL", "ab")
    settings_from(*BASE, "--master-key", "env:TORPOR_LEASE_TTTL")


def test_no_secret_is_printed(folder, capsys, monkeypatch):
    secret = "hunter2"
    monkeypatch.setenv("TORPOR_REDIS_URL", f"redis://:{secret}@a:1/0?sentinel_password={secret}")
    monkeypatch.setenv("TORPOR_ARCHIVE_URL", f"s3://bucket/x?aws_secret_access_key={secret}&a=b")
    assert cli.main(["config", "--model", "models/demo"]) == 0
    printed = capsys.readouterr().out
    assert secret not in printed
    assert "a=b" in printed
    for wrong in (f"redis_url=redis://:{secret}@a:x", "port=0", f"backend.url=http://u:{secret}@a"):
        cli.main(["config", "--model", "models/demo", "--set", wrong, "--set", "lease_ttl=-1"])
        assert secret not in "".join(capsys.readouterr())


def test_what_is_printed_is_a_file_with_the_same_settings(folder, capsys):
    arguments = [*BASE, "--no-prefetch", "--backend", "http://a/v1", "--backend-model", 'm "\\']
    assert cli.main(["config", *arguments]) == 0
    (folder / "printed.toml").write_text(capsys.readouterr().out)
    assert settings_from("--config", "printed.toml") == settings_from(*arguments)


def test_the_pages_example_prints_what_is_shown(folder, capsys, monkeypatch):
    (folder / "torpor.toml").write_text(block("toml"))
    monkeypatch.setenv("TORPOR_LEASE_TTL", "10")
    *others, config = block("").splitlines()
    for line in others:
        values_of(cli._parser().parse_args(shlex.split(line)[1:]))
    assert cli.main(shlex.split(config)[1:]) == 0
    lines = capsys.readouterr().out.splitlines()
    set_lines = [line for line in lines if "  # " in line and not line.endswith("# default")]
    assert set_lines == block("text").splitlines()


def test_every_setting_is_in_the_pages_table():
    options = {flag.setting: f"`{flag.option}`" for flag in FLAGS}
    table = PAGE.split("## Settings")[1]
    for name, field in settings_fields().items():
        default = "none" if field.default is None else f"`{shown(field.default)}`"
        default = "required" if field.is_required() else default
        text = " ".join((field.description or "").split())
        row = f"| `{name}` | {options.get(name, '')} | {default} | {text} |"
        assert row in table, f"docs/configuration.md needs the row\n{row}"
    assert table.count("\n| `") == len(settings_fields())


def test_the_deployed_file_is_one(folder, monkeypatch):
    monkeypatch.setenv("TORPOR_REDIS_URL", "redis://torpor:secret@redis:6379")
    deployed = REPOSITORY / "deploy" / "torpor.toml"
    assert configured(
        values_of(cli._parser().parse_args(["serve", "--config", str(deployed)]))
    ).require_keys
    assert tomllib.loads(deployed.read_text("utf-8"))
