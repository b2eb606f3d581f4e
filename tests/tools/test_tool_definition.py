import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, Field

from tools.context import Context, Progress
from tools.define import ToolSpec, define, define_by_schema
from tools.effects import Effect
from tools.errors import BadDefinition, ToolFailed
from tools.registry import Registry
from tools.results import Ending


class Place(BaseModel):
    city: str


def book(
    place: Place,
    nights: Annotated[int, Field(ge=1, le=30)] = 1,
    meals: list[Literal["breakfast", "dinner"]] | None = None,
    quiet: bool = False,
    copy: str = "",
) -> dict[str, Any]:
    """Books a room.

    It is paid on arrival,
    in cash.

    Args:
        place: Where to stay
        nights (int): How long,
            in nights
        meals: What to eat

    Returns:
        The booking.
    """
    assert isinstance(place, Place)
    return {"city": place.city, "nights": nights, "meals": meals, "quiet": quiet, "copy": copy}


def test_the_schema_comes_from_annotations_and_docstring():
    spec = define(book).spec
    assert spec.name == "book"
    assert spec.description == "Books a room.\n\nIt is paid on arrival, in cash."
    properties = spec.parameters["properties"]
    assert spec.parameters["required"] == ["place"]
    assert properties["nights"] == {
        "description": "How long, in nights",
        "type": "integer",
        "minimum": 1,
        "maximum": 30,
        "default": 1,
    }
    assert properties["quiet"] == {"type": "boolean", "default": False}
    assert "title" not in str(spec.parameters["properties"])
    assert spec.parameters["$defs"]["Place"]["required"] == ["city"]


async def test_strings_become_what_the_schema_says():
    outcome = await define(book).call(
        {"place": '{"city": "Rome"}', "nights": "2", "meals": '["dinner"]', "quiet": "true",
         "copy": "12"}
    )  # fmt: skip
    assert outcome.text == (
        '{"city":"Rome","nights":2,"meals":["dinner"],"quiet":true,"copy":"12"}'
    )
    assert not outcome.error


async def test_typed_values_are_taken_as_they_are_and_defaults_hold():
    outcome = await define(book).call({"place": {"city": "Rome"}, "meals": "null"})
    assert outcome.text == '{"city":"Rome","nights":1,"meals":null,"quiet":false,"copy":""}'


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ({}, "- place: missing; expected object with city"),
        ({"place": "null", "quiet": "perhaps"}, "- quiet: Input should be a valid boolean"),
        ({"place": "Rome"}, "- place: Input should be a valid dictionary"),
        ({"place": '{"town": "Rome"}'}, "- place.city: missing"),
        (
            {"place": '{"city": "Rome"}', "nights": "31"},
            "less than or equal to 30, got 31; expected integer from 1 to 30",
        ),
        ({"place": '{"city": "Rome"}', "nights": "many"}, "valid integer"),
        ({"place": '{"city": "Rome"}', "meals": '["tea"]'}, "- meals.0: Input should be 'break"),
        (
            {"place": '{"city": "Rome"}', "night": "2"},
            "- night: no such parameter; the parameters are: place, nights, meals, quiet, copy; "
            "did you mean nights?",
        ),
    ],
)
async def test_wrong_arguments_are_explained_and_nothing_runs(arguments, line):
    outcome = await define(book).call(arguments)
    assert outcome.error
    assert outcome.text.startswith("book was not run, its arguments are wrong:\n")
    assert line in outcome.text


async def test_everything_that_is_wrong_is_told_at_once():
    outcome = await define(book).call({"nights": "0", "night": "1", "quiet": "?"})
    assert outcome.ending is Ending.REFUSED
    named = [line.split(":")[0] for line in outcome.text.splitlines()[1:]]
    assert named == ["- place", "- nights", "- quiet", "- night"]


async def test_async_functions_are_awaited():
    async def wait(seconds: float) -> str:
        """Waits."""
        await asyncio.sleep(seconds)
        return "done"

    assert (await define(wait).call({"seconds": "0.01"})).text == "done"


async def test_a_call_that_takes_too_long_is_given_up():
    async def wait() -> str:
        """Waits."""
        await asyncio.sleep(60)
        return "done"

    outcome = await define(wait, timeout=0.05).call({})
    assert outcome.error
    assert outcome.text.startswith("wait took longer than 0.05 seconds and was given up.")


async def test_a_blocking_function_does_not_block_the_others():
    released = threading.Event()

    def block() -> str:
        """Blocks."""
        assert released.wait(30)
        return "done"

    blocked = asyncio.create_task(define(block).call({}))
    await asyncio.sleep(0.05)
    assert not blocked.done()
    released.set()
    assert (await blocked).text == "done"


async def test_a_long_result_is_cut_and_says_so():
    def shout(times: int) -> str:
        """Shouts."""
        return "A" * times

    tool = define(shout, max_chars=10)
    assert (await tool.call({"times": "10"})).text == "A" * 10
    assert (await tool.call({"times": "25"})).text == (
        "AAAAAAA\n[left out: characters 8 to 22 of 25. Call shout again and ask for less.]\nAAA"
    )


async def test_what_a_tool_says_about_its_failure_reaches_the_model():
    def refuse() -> str:
        """Refuses."""
        raise ToolFailed("ask tomorrow")

    outcome = await define(refuse).call({})
    assert (outcome.text, outcome.error) == ("ask tomorrow", True)


async def test_an_unexpected_failure_is_an_outcome_and_is_logged(caplog):
    def fail() -> str:
        """Fails."""
        raise TimeoutError("the printer is on fire")

    outcome = await define(fail).call({})
    assert (outcome.text, outcome.error) == (
        "fail failed: TimeoutError: the printer is on fire",
        True,
    )
    assert "tool fail failed" in caplog.text


def undocumented(a: int) -> int:
    return a


def unannotated(a) -> None:
    """Does."""


def positional(a: int, /) -> None:
    """Does."""


def variadic(*a: int) -> None:
    """Does."""


def generator() -> Iterator[int]:
    """Does."""
    yield 1


def unschematic(a: threading.Event) -> None:
    """Does."""


@pytest.mark.parametrize(
    "function", [undocumented, unannotated, positional, variadic, generator, unschematic]
)
def test_a_function_a_model_could_not_call_is_refused(function):
    with pytest.raises(BadDefinition, match=function.__name__):
        define(function)


async def test_an_unknown_tool_is_answered_with_the_known_ones():
    registry = Registry([define(book), define(positional_ok, name="other")])
    outcome = await registry.call("boook", {})
    assert outcome.error
    assert outcome.text == (
        "there is no tool named boook; the tools are: book, other; did you mean book?"
    )


def positional_ok(a: int) -> int:
    """Does."""
    return a


async def test_a_registry_calls_its_tools_by_name():
    registry = Registry([define(positional_ok, name="other")])
    assert [spec.name for spec in registry.specs()] == ["other"]
    assert (await registry.call("other", {"a": "7"})).text == "7"


def test_two_tools_cannot_share_a_name():
    with pytest.raises(BadDefinition, match="book"):
        Registry([define(book), define(positional_ok, name="book")])


async def test_a_tool_reports_its_progress_from_a_thread_and_from_the_loop():
    def in_thread(context: Context) -> str:
        """Does."""
        for step in range(3):
            context.report(f"step {step}", step, 3)
        return "done"

    async def in_loop(context: Context) -> str:
        """Does."""
        context.report("half")
        return "done"

    async def pieces() -> AsyncIterator[Any]:
        """Does."""
        yield "one"
        yield Progress("half")
        yield {"two": 2}

    for function, reports, text in (
        (in_thread, [Progress(f"step {step}", step, 3) for step in range(3)], "done"),
        (in_loop, [Progress("half")], "done"),
        (pieces, [Progress("half")], 'one\n{"two":2}'),
    ):
        heard = []
        tool = define(function)
        assert tool.spec.parameters["properties"] == {}
        result = await tool.call({}, Context(on_progress=heard.append))
        assert (result.text, heard) == (text, reports)


async def test_threads_that_were_given_up_keep_no_other_call_from_running():
    released = threading.Event()

    def block() -> str:
        """Blocks."""
        released.wait(30)
        return "done"

    stuck = define(block, timeout=0.01)
    ended = await asyncio.gather(*(stuck.call({}) for _ in range(50)))
    assert {result.ending for result in ended} == {Ending.TIMED_OUT}
    assert (await define(positional_ok).call({"a": 1})).text == "1"
    released.set()


@pytest.mark.parametrize("raised", [SystemExit(2), asyncio.CancelledError()])
async def test_a_tool_cannot_end_the_agent_that_calls_it(raised):
    def leave() -> str:
        """Leaves."""
        raise raised

    async def leave_loop() -> str:
        """Leaves."""
        raise asyncio.CancelledError

    assert (await define(leave).call({})).ending is Ending.BROKEN
    assert (await define(leave_loop).call({})).ending is Ending.BROKEN


async def test_what_json_cannot_say_is_no_result():
    def give() -> Any:
        """Gives."""
        return threading.Event()

    result = await define(give).call({})
    assert result.ending is Ending.BROKEN
    assert "Unable to serialize unknown type" in result.text


def test_an_effectful_tool_cannot_be_repeated():
    with pytest.raises(BadDefinition, match="never repeated"):
        define(book, attempts=2)
    assert define(book, attempts=2, effect=Effect.PURE).attempts == 2


def remote(schema: dict[str, Any]):
    async def echo(arguments: dict[str, Any], context: Context) -> Any:
        return arguments

    return define_by_schema(ToolSpec(name="echo", description="Echoes.", parameters=schema), echo)


REMOTE = {
    "type": "object",
    "properties": {"n": {"type": "integer", "minimum": 1}, "of": {"$ref": "#/definitions/kind"}},
    "required": ["n", "of"],
    "additionalProperties": False,
    "definitions": {"kind": {"enum": ["a", "b"]}},
}


async def test_a_tool_that_others_describe_is_checked_by_its_schema():
    tool = remote(REMOTE)
    assert tool.spec.parameters == REMOTE
    assert (await tool.call({"n": "2", "of": "a"})).text == '{"n":2,"of":"a"}'
    refused = await tool.call({"n": "0", "off": "a"})
    assert refused.text.splitlines()[1:] == [
        '- of: missing; expected one of "a", "b"',
        "- off: no such parameter; the parameters are: n, of; did you mean of?",
        "- n: 0 is less than the minimum of 1; expected integer of at least 1",
    ]


@pytest.mark.parametrize("schema", [{"type": "array"}, {"type": "object", "required": 3}])
def test_a_schema_that_no_arguments_could_fit_is_refused(schema):
    with pytest.raises(BadDefinition, match="echo"):
        remote(schema)


@pytest.mark.parametrize("written", ["1e999", "-1e999", "Infinity", "NaN", "inf", float("inf")])
async def test_no_number_that_json_cannot_say_reaches_a_tool(written):
    def half(of: float) -> float:
        """Halves."""
        raise AssertionError

    result = await define(half).call({"of": written})
    assert result.ending is Ending.REFUSED
