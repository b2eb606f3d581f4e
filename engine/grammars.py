"""Grammars that constrain what an engine generates, though it has no tokenizer.

Our engines take and give token ids and start without a tokenizer, and SGLang then makes no grammar
backend and refuses every constrained request. A grammar needs to know which bytes a token stands
for, and nothing else of a tokenizer. So the schedulers, and only these, read it. Runs in them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

from engine.patch import Kind, Patch


def init(original: Callable[..., None], manager: Any, scheduler: Any) -> None:
    """Give the manager the backend that it would have with a tokenizer."""
    from sglang.srt.constrained.base_grammar_backend import create_grammar_backend
    from sglang.srt.runtime_context import get_model, get_serving
    from sglang.srt.utils.hf_transformers import get_tokenizer

    original(manager, scheduler)
    serving, model = get_serving(), get_model()
    if not serving.skip_tokenizer_init or scheduler.server_args.grammar_backend == "none":
        return
    tokenizer = get_tokenizer(
        serving.tokenizer_path,
        tokenizer_mode=serving.tokenizer_mode,
        trust_remote_code=model.trust_remote_code,
        revision=model.revision,
        tokenizer_backend=serving.tokenizer_backend,
    )
    manager.grammar_backend = create_grammar_backend(
        scheduler.server_args,
        tokenizer,
        scheduler.model_config.vocab_size,
        scheduler.model_config.hf_eos_token_id,
    )


def dispatch_structural_tag(original: Callable[..., Any], backend: Any, key_string: str) -> Any:
    """Refuse what xgrammar would leave out of a schema, as SGLang does for a schema alone."""
    from sglang.srt.constrained.base_grammar_backend import InvalidGrammarObject
    from sglang.srt.constrained.json_schema_validation import (
        UnsupportedJSONSchemaFeature,
        validate_xgrammar_json_schema,
    )

    try:
        for schema in _schemas(json.loads(key_string)):
            validate_xgrammar_json_schema(schema)
    except (UnsupportedJSONSchemaFeature, json.JSONDecodeError) as error:
        return InvalidGrammarObject(str(error))
    return original(backend, key_string)


def _schemas(structure: Any) -> Iterator[Any]:
    """The schemas in a structural tag."""
    if isinstance(structure, dict):
        if structure.get("type") == "json_schema":
            yield structure["json_schema"]
            return
        structure = list(structure.values())
    if isinstance(structure, list):
        for part in structure:
            yield from _schemas(part)


_CONSTRAINED = "sglang.srt.constrained"
PATCHES = (
    Patch(
        target=f"{_CONSTRAINED}.grammar_manager.GrammarManager.__init__",
        kind=Kind.AROUND,
        ours=init,
        reason="an engine that starts without a tokenizer refuses every constrained request",
    ),
    Patch(
        target=f"{_CONSTRAINED}.xgrammar_backend.XGrammarGrammarBackend.dispatch_structural_tag",
        kind=Kind.AROUND,
        ours=dispatch_structural_tag,
        reason="what xgrammar does not support in a schema would be left out without a word",
    ),
)
