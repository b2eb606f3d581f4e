"""How much a model is to think, as far as its chat template has options for it.

    options of the template             levels that it knows
    enable_thinking, or thinking        none, high                     Nemotron 3 Nano, Qwen 3
    … and low_effort, medium_effort     low and medium besides         Nemotron 3 Super and Ultra
    reasoning_effort                    those that it compares it with;
                                        low, medium, high if it shows whatever it is given: gpt-oss

`high` is thinking that nothing of the template's makes shorter.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import get_args

from agent_runtime.errors import BadRequest, Unsupported
from agent_runtime.messages.template import Template
from agent_runtime.wire.messages import Effort, Options, OptionValue

_LEVELS: tuple[str, ...] = get_args(Effort)
_SWITCHES = ("enable_thinking", "thinking")
_NAMED = "reasoning_effort"
_SHOWN_AS_GIVEN = ("low", "medium", "high")


def efforts_of(template: Template) -> dict[str, Options]:
    """The levels that the template knows, the least first, and the options that ask for each."""
    switch = _switch(template)
    on: dict[str, OptionValue] = {} if switch is None else {switch: True}
    off: dict[str, OptionValue] = {} if switch is None else {switch: False}
    hints = {level: f"{level}_effort" for level in _LEVELS if f"{level}_effort" in template.options}
    unhinted: dict[str, OptionValue] = dict.fromkeys(hints.values(), False)
    known: dict[str, Options] = {}
    if switch is not None:
        known["none"] = off | unhinted
    if switch is not None or hints:
        known["high"] = on | unhinted
    for level, hint in hints.items():
        known[level] = on | unhinted | {hint: True}
    if _NAMED in template.options:
        named = [level for level in _LEVELS if level in template.compared.get(_NAMED, ())]
        for level in named or _SHOWN_AS_GIVEN:
            known[level] = (off if level == "none" else on) | {_NAMED: level}
    return {level: known[level] for level in _LEVELS if level in known}


def options_for(effort: str, efforts: Mapping[str, Options], *, param: str) -> Options:
    """Options of the template that ask for the effort. Raises Unsupported.

    efforts: of the template, see `efforts_of`; param: what the request calls it
    """
    if effort not in efforts:
        raise Unsupported(
            f"`{param}` cannot be {effort!r}: the model's chat template knows "
            f"{', '.join(efforts) or 'no efforts'}. Nothing was generated.",
            param=param,
        )
    return efforts[effort]


def options_with(
    effort: str | None, efforts: Mapping[str, Options], template: Options
) -> dict[str, OptionValue]:
    """Those that ask for the effort, if there is one, and those of `template`. Raises Unsupported;
    BadRequest if they do not agree."""
    asked = {} if effort is None else options_for(effort, efforts, param="effort")
    for name in asked.keys() & template.keys():
        if asked[name] != template[name]:
            raise BadRequest(
                f"effort {effort!r} asks the chat template for {name}={asked[name]!r}, and "
                f"`template` for {name}={template[name]!r}; the session is unchanged."
            )
    return {**asked, **template}


def thinking_switched(template: Template, *, on: bool, opens_thinking: bool, param: str) -> Options:
    """Options with which the model thinks before it answers, or does not. Raises Unsupported if the
    template has none for that and does otherwise by itself.

    opens_thinking: what it does by itself
    """
    switch = _switch(template)
    if switch is not None:
        return {switch: on}
    if on is not opens_thinking:
        always = "always" if opens_thinking else "never"
        raise Unsupported(
            f"`{param}` cannot be {'enabled' if on else 'disabled'}: by its template the model "
            f"{always} thinks before it answers. Leave it out. Nothing was generated.",
            param=param,
        )
    return {}


def _switch(template: Template) -> str | None:
    return next((name for name in _SWITCHES if name in template.options), None)
