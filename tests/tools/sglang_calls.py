"""SGLang's own readings of calls, in a process of its own: a line of JSON in, a line of JSON out.

In: {"format", "tool", "text", "pieces"}. Out: [name, arguments] of each call; `pieces` is the
length of the pieces that the text is streamed in, or null for a whole message.
"""

import json
import sys

from engine.cpu import imports, quiet

quiet.install()
imports.install()

from sglang.srt.entrypoints.openai.protocol import Tool  # noqa: E402
from sglang.srt.function_call.hermes_detector import HermesDetector  # noqa: E402
from sglang.srt.function_call.qwen3_coder_detector import Qwen3CoderDetector  # noqa: E402

DETECTORS = {"qwen3_coder": Qwen3CoderDetector, "hermes": HermesDetector}


def read(case: dict) -> list[tuple[str, dict]]:
    detector = DETECTORS[case["format"]]()
    tools = [Tool.model_validate({"type": "function", "function": case["tool"]})]
    text, size = case["text"], case["pieces"]
    if size is None:
        calls = detector.detect_and_parse(text, tools).calls
        return [(call.name, json.loads(call.parameters)) for call in calls]
    found: list[list[str]] = []
    for start in range(0, len(text), size):
        for item in detector.parse_streaming_increment(text[start : start + size], tools).calls:
            if item.name:
                found.append([item.name, ""])
            found[-1][1] += item.parameters
    return [(name, json.loads(written or "{}")) for name, written in found]


for line in sys.stdin:
    print(json.dumps(read(json.loads(line))), flush=True)
