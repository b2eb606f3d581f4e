"""Chat templates for tests, in our own words.

They do to a conversation what the templates of the Nemotron 3 family do, as far as we know it, and
are not theirs: thinking before the last user message is emptied, an effort hint rides on the last
user message, results of tools share a user turn, Ultra leaves blanks as they are. `CHATML` changes
nothing of what was said, nor does `HERMES`, with calls in JSON. All of them are for the demo
model's tokenizer.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from engine.launch import checked_model
from engine.profiles import PROFILES

_HEAD = """
{%- set enable_thinking = enable_thinking if enable_thinking is defined else true -%}
{%- set truncate_history_thinking = truncate_history_thinking | default(true) -%}
{%- set place = namespace(last_user=-1) -%}
{%- for message in messages -%}
  {%- if message.role == 'user' -%}{%- set place.last_user = loop.index0 -%}{%- endif -%}
{%- endfor -%}
"""
_SYSTEM = """
{{- '<|im_start|>system\\n' -}}
{%- if messages[0].role == 'system' -%}{{- messages[0].content -}}{%- endif -%}
{%- for tool in tools or [] -%}
  {{- ('\\n<tools>' if loop.first else '') ~ '\\n<name>' ~ tool.function.name ~ '</name>' -}}
  {{- '\\n</tools>' if loop.last else '' -}}
{%- endfor -%}
{{- '<|im_end|>\\n' -}}
"""
_CALLS = """
      {%- for call in message.tool_calls or [] -%}
        {{- '<tool_call>\\n<function=' ~ call.function.name ~ '>\\n' -}}
        {%- for key, value in call.function.arguments.items() -%}
          {{- '<parameter=' ~ key ~ '>\\n' -}}
          {{- (value if value is string else value | tojson) ~ '\\n</parameter>\\n' -}}
        {%- endfor -%}
        {{- '</function>\\n</tool_call>\\n' -}}
      {%- endfor -%}
"""
_JSON_CALLS = """
      {%- for call in message.tool_calls or [] -%}
        {{- '<tool_call>\\n{"name": "' ~ call.function.name ~ '", "arguments": ' -}}
        {{- (call.function.arguments | tojson) ~ '}\\n</tool_call>\\n' -}}
      {%- endfor -%}
"""
_TOOL = """
    {%- elif message.role == 'tool' -%}
      {{- '<|im_start|>user\\n' if loop.previtem.role != 'tool' else '' -}}
      {{- '<tool_response>\\n' ~ message.content ~ '\\n</tool_response>\\n' -}}
      {{- '<|im_end|>\\n' if loop.last or loop.nextitem.role != 'tool' else '' -}}
"""


def _nemotron(*, before: str, after: str, trim: str, hint: str) -> str:
    """before, after: around the thinking; trim: a filter; hint: on the last user message"""
    return f"""{_HEAD}{_SYSTEM}
{{%- for message in messages -%}}
    {{%- set past = truncate_history_thinking and loop.index0 < place.last_user -%}}
    {{%- if message.role == 'assistant' -%}}
      {{{{- '<|im_start|>assistant\\n' -}}}}
      {{%- if message.reasoning_content and not past -%}}
        {{{{- '<think>{before}' ~ message.reasoning_content ~ '{after}' -}}}}
      {{%- else -%}}
        {{{{- '<think></think>' -}}}}
      {{%- endif -%}}
      {{{{- message.content {trim} -}}}}
      {{{{- '\\n' if message.tool_calls else '' -}}}}
      {_CALLS}
      {{{{- '<|im_end|>\\n' -}}}}
    {_TOOL}
    {{%- elif message.role == 'user' -%}}
      {{{{- '<|im_start|>user\\n' ~ message.content -}}}}
      {hint}
      {{{{- '<|im_end|>\\n' -}}}}
    {{%- endif -%}}
{{%- endfor -%}}
{{%- if add_generation_prompt -%}}
  {{{{- '<|im_start|>assistant\\n' -}}}}
  {{{{- '<think>{before}' if enable_thinking else '<think></think>' -}}}}
{{%- endif -%}}
"""


_HINT = """{%- if loop.index0 == place.last_user and low_effort -%}
        {{- '\\n\\n{reasoning effort: low}' -}}
      {%- endif -%}"""

NANO = _nemotron(before="\\n", after="\\n</think>\\n", trim="| trim", hint="")
SUPER = _nemotron(before="\\n", after="\\n</think>\\n", trim="| trim", hint=_HINT)
ULTRA = _nemotron(before="", after="</think>", trim="", hint=_HINT)


def _chatml(calls: str) -> str:
    return f"""
{{%- for message in messages -%}}
    {{%- if message.role == 'assistant' -%}}
      {{{{- '<|im_start|>assistant\\n' ~ message.content -}}}}
      {{{{- '\\n' if message.tool_calls else '' -}}}}
      {calls}
      {{{{- '<|im_end|>\\n' -}}}}
    {_TOOL}
    {{%- else -%}}
      {{{{- '<|im_start|>' ~ message.role ~ '\\n' ~ message.content ~ '<|im_end|>\\n' -}}}}
    {{%- endif -%}}
{{%- endfor -%}}
{{{{- '<|im_start|>assistant\\n' if add_generation_prompt else '' -}}}}
"""


CHATML = _chatml(_CALLS)
HERMES = _chatml(_JSON_CALLS)
DEMO_MODEL = checked_model(PROFILES["demo"].model)
TEMPLATES = {
    "nano": NANO,
    "super": SUPER,
    "ultra": ULTRA,
    "chatml": CHATML,
    "hermes": HERMES,
    "demo": (DEMO_MODEL / "chat_template.jinja").read_text(),
}


def checkpoint(folder: Path, name: str) -> Path:
    """The demo model's tokenizer with one of `TEMPLATES`, in a new folder."""
    made = folder / name
    made.mkdir()
    for file in ("tokenizer.json", "tokenizer_config.json", "config.json"):
        shutil.copy(DEMO_MODEL / file, made)
    (made / "chat_template.jinja").write_text(TEMPLATES[name])
    return made
