"""A checkpoint's chat template: rendering it, and the options that it knows."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import jinja2
from jinja2 import meta, nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment

from agent_runtime.errors import BadRequest, UnknownOption
from agent_runtime.wire.messages import Options

_NO_OPTIONS = frozenset(
    {"messages", "tools", "add_generation_prompt", "bos_token", "eos_token", "strftime_now"}
)
_INNER = (nodes.For, nodes.Macro, nodes.CallBlock)


class Template:
    """options:  names that the template looks up and does not make up itself
    compared: the texts that it compares names with, or puts in the place of one that is not given

    Raises jinja2.TemplateError for text that is no template.
    """

    def __init__(self, source: str) -> None:
        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
        environment.filters["tojson"] = _tojson
        environment.globals["raise_exception"] = _raise_exception
        self._template = environment.from_string(source)
        self.options = _options_of(environment.parse(source))
        self.compared = _compared_in(environment.parse(source))

    def require(self, options: Options) -> None:
        """Raises UnknownOption for one that the template does not know."""
        unknown = sorted(options.keys() - self.options)
        if unknown:
            known = ", ".join(sorted(self.options)) or "none"
            raise UnknownOption(
                f"the model's chat template has no option {unknown[0]!r}, so it would change "
                f"nothing; it has: {known}. The session is unchanged."
            )

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]],
        options: Options,
        *,
        prompt: bool,
    ) -> str:
        """prompt: whether the text is to end where the model's answer begins.

        Raises BadRequest for messages that the template refuses, UnknownOption.
        """
        self.require(options)
        try:
            return self._template.render(
                messages=list(messages),
                tools=list(tools) or None,
                add_generation_prompt=prompt,
                **options,
            )
        except jinja2.TemplateError as error:
            raise BadRequest(f"the chat template refused the messages: {error}") from error


def _options_of(source: nodes.Template) -> frozenset[str]:
    """Names that are assigned inside of loops and macros are the template's own, although on some
    ways through it they may be read before."""
    own = {
        name.name
        for inner in source.find_all(_INNER)
        for name in inner.find_all(nodes.Name)
        if name.ctx == "store"
    }
    return frozenset(meta.find_undeclared_variables(source) - own - _NO_OPTIONS)


def _compared_in(source: nodes.Template) -> dict[str, frozenset[str]]:
    found: dict[str, set[str]] = {}
    for one in source.find_all((nodes.Compare, nodes.Filter)):
        if isinstance(one, nodes.Filter) and one.name not in ("default", "d"):
            continue
        texts = {const.value for const in one.find_all(nodes.Const) if type(const.value) is str}
        for name in one.find_all(nodes.Name):
            found.setdefault(name.name, set()).update(texts)
    return {name: frozenset(texts) for name, texts in found.items()}


def _tojson(value: Any, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _raise_exception(message: str) -> str:
    raise jinja2.TemplateError(message)
