import asyncio
import threading
from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, Field

from tools.define import define
from tools.errors import BadDefinition, ToolFailed
from tools.registry import Registry


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
        ({}, "- place: missing"),
        ({"place": "Rome"}, "- place: Input should be a valid dictionary"),
        ({"place": '{"town": "Rome"}'}, "- place.city: missing"),
        ({"place": '{"city": "Rome"}', "nights": "31"}, "less than or equal to 30, got '31'"),
        ({"place": '{"city": "Rome"}', "nights": "many"}, "valid integer"),
        ({"place": '{"city": "Rome"}', "meals": '["tea"]'}, "- meals.0: Input should be 'break"),
        (
            {"place": '{"city": "Rome"}', "night": "2"},
            "- night: no such parameter; the parameters are: place, nights, meals, quiet, copy",
        ),
    ],
)
async def test_wrong_arguments_are_explained_and_nothing_runs(arguments, line):
    outcome = await define(book).call(arguments)
    assert outcome.error
    assert outcome.text.startswith("book was not run, its arguments are wrong:\n")
    assert line in outcome.text


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
    assert (await tool.call({"times": "25"})).text == "A" * 10 + "\n[cut: 10 of 25 characters]"


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


def unschematic(a: threading.Event) -> None:
    """Does."""


@pytest.mark.parametrize("function", [undocumented, unannotated, positional, variadic, unschematic])
def test_a_function_a_model_could_not_call_is_refused(function):
    with pytest.raises(BadDefinition, match=function.__name__):
        define(function)


async def test_an_unknown_tool_is_answered_with_the_known_ones():
    registry = Registry([define(book), define(positional_ok, name="other")])
    outcome = await registry.call("boook", {})
    assert outcome.error
    assert outcome.text == "there is no tool named boook; the tools are: book, other"


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
