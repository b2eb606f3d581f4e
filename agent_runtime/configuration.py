"""The settings of a service from everywhere they may stand: flags, environment, file, defaults.

    flag  >  TORPOR_… in the environment  >  file  >  default

A setting's name is that of its field, with its group before it: `port`, `scheduling.policy`. In the
environment that is TORPOR_PORT, TORPOR_SCHEDULING__POLICY; in the file a key, in a table.
"""

from __future__ import annotations

import difflib
import tomllib
import typing
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from agent_runtime.environment import PREFIX, variable
from agent_runtime.errors import SetupError
from agent_runtime.settings import ServiceSettings

CONFIG_VARIABLE = f"{PREFIX}CONFIG"
"""Names the file, if no flag does."""
DEFAULT = "default"


@dataclass(frozen=True)
class Value:
    """origin: where it was set, in words for people"""

    value: Any
    origin: str


Values = Mapping[str, Value]
"""By the setting's name."""


def settings_fields(model: type[BaseModel] = ServiceSettings) -> dict[str, FieldInfo]:
    """Every setting by its name."""
    return dict(_fields(model, ""))


def gathered(
    flags: Values, *, file: Path | None, environment: Mapping[str, str]
) -> dict[str, Value]:
    """All that is set, each setting by the strongest of its sources. Raises SetupError for what
    is no setting, and for a file that cannot be read."""
    named = environment.get(CONFIG_VARIABLE)
    if file is None and named:
        file = Path(named)
    from_file = {} if file is None else dict(_from_file(file))
    return from_file | _from_environment(environment, from_file, flags) | dict(flags)


def configured(values: Values) -> ServiceSettings:
    """Raises SetupError for values that are none."""
    nested: dict[str, Any] = {}
    for name, value in values.items():
        group, _, field = name.rpartition(".")
        (nested.setdefault(group, {}) if group else nested)[field] = value.value
    try:
        return ServiceSettings.model_validate(nested)
    except ValidationError as error:
        wrong = [_in_words(one, values) for one in error.errors()]
    # Not `from error`: its text shows values, and there may be passwords among them.
    raise SetupError("; ".join(wrong))


def effective(settings: ServiceSettings, values: Values) -> dict[str, Value]:
    """Every setting as it holds, and where it comes from; those of a group that is not set are
    not there."""
    found: dict[str, Value] = {}
    for name in settings_fields():
        holder: Any = settings
        *groups, field = name.split(".")
        for group in groups:
            holder = getattr(holder, group)
        if holder is not None:
            origin = values[name].origin if name in values else DEFAULT
            found[name] = Value(getattr(holder, field), origin)
    return found


def known(name: str, where: str, names: Iterable[str] | None = None) -> str:
    """The name, if it is a setting's. Raises SetupError, with the nearest one that is."""
    names = list(settings_fields() if names is None else names)
    if name in names:
        return name
    near = difflib.get_close_matches(name, names, n=1)
    hint = f" Did you mean {near[0]}?" if near else ""
    raise SetupError(f"{where}: {name} is no setting.{hint} docs/configuration.md lists them.")


def _fields(model: type[BaseModel], before: str) -> Iterator[tuple[str, FieldInfo]]:
    for name, field in model.model_fields.items():
        group = _group(field)
        if group is None:
            yield before + name, field
        else:
            yield from _fields(group, f"{before}{name}.")


def _group(field: FieldInfo) -> type[BaseModel] | None:
    """The settings that stand in this one, which may be None; None for a plain value."""
    kinds = typing.get_args(field.annotation) or (field.annotation,)
    return next((k for k in kinds if isinstance(k, type) and issubclass(k, BaseModel)), None)


def _from_file(path: Path) -> Iterator[tuple[str, Value]]:
    try:
        content = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise SetupError(f"{path} cannot be read: {error.strerror}.") from error
    except ValueError as error:  # TOML's and UTF-8's
        raise SetupError(f"{path} is not TOML: {error}.") from error
    fields = settings_fields()
    groups = {name.rpartition(".")[0] for name in fields} - {""}
    for name, value in content.items():
        if name in groups:
            if not isinstance(value, dict):
                raise SetupError(f"{path}: {name} is a table of settings: [{name}].")
            for field, inner in value.items():
                yield known(f"{name}.{field}", str(path)), Value(inner, f"file {path}")
        else:
            yield known(name, str(path), [*fields, *groups]), Value(value, f"file {path}")


def _from_environment(environment: Mapping[str, str], *others: Values) -> dict[str, Value]:
    """A variable whose name is almost a setting's is a mistake; one that is unlike any may be
    another program's."""
    variables = {variable(name): name for name in settings_fields()}
    found = {
        variables[name]: Value(value, f"environment {name}")
        for name, value in environment.items()
        if name in variables
    }
    keys = {str(values[key].value) for values in (found, *others) for key in _KEYS if key in values}
    for name in environment:
        set_as_key = name in keys or f"env:{name}" in keys
        if not name.startswith(PREFIX) or name in variables or set_as_key:
            continue
        own = {one.removeprefix(PREFIX): one for one in variables}
        near = difflib.get_close_matches(name.removeprefix(PREFIX), own, n=1, cutoff=_ALMOST)
        if near:
            raise SetupError(
                f"the environment has {name}, which is no setting. Did you mean {own[near[0]]}? "
                "docs/configuration.md lists them."
            )
    return found


_KEYS = ("backend.key_variable", "master_key_source")
"""Settings that name a variable."""
_ALMOST = 0.75  # TORPOR_REDIS_URI and TORPOR_ARCHIVE are, TORPOR_URL and TORPOR_BACKEND_KEY are not


def _in_words(error: ErrorDetails, values: Values) -> str:
    name = ".".join(map(str, error["loc"]))
    message = error["msg"].removeprefix("Value error, ")
    if not name:
        return message
    if error["type"] == "missing":
        return f"{name} is not set: by flag, as {variable(name)}, or in the file"
    return f"{name} ({values[name].origin}): {message}" if name in values else f"{name}: {message}"
