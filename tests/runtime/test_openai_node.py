"""OpenAI's client for Node against a live runtime."""

import json
import subprocess

import pytest

pytestmark = pytest.mark.usefixtures("nothing_left")


@pytest.fixture(scope="module")
def seen(node_programs, stage):
    """What the program prints."""
    ran = subprocess.run(
        ["node", "chat.mjs", stage.runtime.url],
        cwd=node_programs,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout)


def test_it_lists_models_and_gets_answers_whole_and_in_pieces(seen):
    assert seen["models"] == ["demo"]
    assert seen["streamed"] == seen["whole"] == '"one two three four".'
    usage = seen["usage"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]


def test_it_chooses_an_effort_that_the_model_knows(seen):
    assert seen["reasoning"] >= 0
    assert seen["unknownEffort"] == [400, "unsupported_parameter", "reasoning_effort"]


def test_its_loop_of_tools_goes_on_in_one_session(seen):
    assert (seen["expression"], seen["answer"]) == ("318 + 264", "318 + 264 = 582.")
    assert len(seen["sessions"]) == 2
    assert len(set(seen["sessions"])) == 1


def test_it_gets_several_answers_that_are_held_to_a_schema(seen):
    assert seen["points"] == [["x", "bright"]] * 2
    assert seen["logprobs"] == seen["contents"]


def test_it_raises_its_own_error_for_what_is_refused(seen):
    assert seen["refused"] == [True, 400, "unsupported_parameter", "frequency_penalty"]
