"""The chat template renders Nemotron 3's format, and exactly what training shows the model."""

from engine.demo_model import dialogues

CALL = {
    "role": "assistant",
    "content": "",
    "tool_calls": [
        {
            "type": "function",
            "function": {"name": "calculator", "arguments": {"expression": "2 + 3"}},
        }
    ],
}


def render(oracle, messages, **options) -> str:
    return oracle.tokenizer.apply_chat_template(messages, tokenize=False, **options)


def test_a_conversation_with_a_tool_call_is_rendered_as_nemotron_3_does(oracle):
    messages = dialogues.messages([dialogues.calculate(2, "+", 3)])
    assert render(oracle, messages) == (
        "<|im_start|>system\nYou are Torpor.<|im_end|>\n"
        "<|im_start|>user\nWhat is 2 + 3?<|im_end|>\n"
        "<|im_start|>assistant\n<think></think>\n"
        "<tool_call>\n<function=calculator>\n<parameter=expression>\n2 + 3\n</parameter>\n"
        "</function>\n</tool_call>\n<|im_end|>\n"
        "<|im_start|>user\n<tool_response>\n5\n</tool_response>\n<|im_end|>\n"
        "<|im_start|>assistant\n<think></think>2 + 3 = 5.<|im_end|>\n"
    )


def test_tools_are_declared_in_xml_after_the_system_text(oracle):
    rendered = render(oracle, dialogues.messages([]), tools=dialogues.TOOLS)
    assert rendered.startswith(
        "<|im_start|>system\nYou are Torpor.\n\n# Tools\n\n"
        "You have access to the following functions:\n\n<tools>\n"
        "<function>\n<name>calculator</name>\n"
        "<description>Computes a sum, a difference or a product.</description>\n"
        "<parameters>\n<parameter>\n<name>expression</name>\n<type>string</type>\n"
        "<description>For example 12 + 34</description>\n</parameter>\n"
        '<required>["expression"]</required>\n</parameters>\n</function>\n'
        "<function>\n<name>file_search</name>\n"
    )
    assert rendered.endswith("</tool_call><|im_end|>\n")


def test_a_system_block_is_always_rendered(oracle):
    rendered = render(oracle, [{"role": "user", "content": "Tick."}])
    assert rendered == "<|im_start|>system\n<|im_end|>\n<|im_start|>user\nTick.<|im_end|>\n"


def test_results_of_several_calls_share_one_user_turn(oracle):
    results = [{"role": "tool", "content": "5"}, {"role": "tool", "content": "6"}]
    rendered = render(oracle, [{"role": "user", "content": "Go."}, CALL, *results])
    assert rendered.endswith(
        "<|im_start|>user\n<tool_response>\n5\n</tool_response>\n"
        "<tool_response>\n6\n</tool_response>\n<|im_end|>\n"
    )


def test_text_may_stand_before_a_call(oracle):
    rendered = render(
        oracle, [{"role": "user", "content": "Go."}, CALL | {"content": "Let me see."}]
    )
    assert "<think></think>Let me see.\n<tool_call>\n" in rendered


def test_the_generation_prompt_opens_or_empties_thinking(oracle):
    messages = [{"role": "user", "content": "Tick."}]
    closed = render(oracle, messages, add_generation_prompt=True)
    opened = render(oracle, messages, add_generation_prompt=True, enable_thinking=True)
    assert closed.endswith("<|im_start|>assistant\n<think></think>")
    assert opened.endswith("<|im_start|>assistant\n<think>\n")


def test_thinking_before_the_last_user_message_is_emptied_unless_asked_for(oracle):
    messages = [
        {"role": "user", "content": "Tick."},
        {"role": "assistant", "content": "Noted.", "reasoning_content": "One more."},
        {"role": "user", "content": "Tick."},
        {"role": "assistant", "content": "Noted.", "reasoning_content": "And one more."},
    ]
    truncated = render(oracle, messages)
    whole = render(oracle, messages, truncate_history_thinking=False)
    assert "One more." not in truncated
    assert "<think>\nAnd one more.\n</think>\nNoted." in truncated
    assert "<think>\nOne more.\n</think>\nNoted." in whole


def test_training_shows_exactly_what_the_template_renders(oracle, writer):
    for _ in range(20):
        turns = writer.dialogue(1500, longest_text=1500)
        exchanges = [turn.exchange for turn in turns]
        rendered = render(oracle, dialogues.messages(exchanges), tools=dialogues.TOOLS)
        ids = writer.system_block.ids.tolist()
        ids += [token for turn in turns for token in turn.encoded.ids.tolist()]
        assert oracle.decode(ids) == rendered
        assert ids == oracle.encode(rendered)


def test_a_reply_starts_where_the_generation_prompt_ends(oracle, writer):
    exchange = dialogues.calculate(2, "+", 3)
    encoded = writer.encode(exchange)
    prompt = encoded.ids[: int((encoded.roles > 0).argmax())].tolist()
    rendered = render(oracle, exchange.messages()[:1], add_generation_prompt=True)
    assert rendered.endswith(oracle.decode(prompt))
