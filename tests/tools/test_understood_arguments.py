"""Rules and the ledger know arguments as the tool gets them, however the model has written them."""

from typing import Annotated

import pytest
from pydantic import BaseModel, BeforeValidator, SecretStr

from tools.approval import Approval, Rule, Verdict
from tools.calls import ToolCall
from tools.context import Context
from tools.define import ToolSpec, define, define_by_schema
from tools.effects import arguments_hash
from tools.registry import Registry
from tools.running import Executor, Place

PLACE = Place("main", "message-1")


class Target(BaseModel):
    path: str
    deep: bool = False


def delete(path: str, force: bool = False, count: int = 1, target: Target | None = None) -> str:
    """Deletes."""
    return f"deleted {path} force={force} count={count} deep={target and target.deep}"


DELETE = define(delete)
AS_TRUE = ("true", "True", "yes", "on", "1", 1, 1.0, "t", "Y", True)


async def refused(rule: Rule, tool=DELETE, **arguments) -> bool:
    executor = Executor(Registry([tool]), approval=Approval([rule]))
    (result,) = await executor.run([ToolCall(name=rule.tool, arguments=arguments)], PLACE)
    return "is not allowed" in result.text


@pytest.mark.parametrize("written", AS_TRUE)
async def test_no_way_to_write_true_passes_a_rule_about_it(written):
    rule = Rule("delete", Verdict.REFUSE, {"force": "true"})
    assert await refused(rule, path="/", force=written)
    assert not await refused(rule, path="/", force="no")


@pytest.mark.parametrize("written", ["1000", "1000.0", "1e3", 1000, 1000.0])
async def test_no_way_to_write_a_number_passes_a_rule_about_it(written):
    assert await refused(Rule("delete", Verdict.REFUSE, {"count": "1000"}), path="/", count=written)


async def test_a_rule_sees_the_parts_of_a_value_as_they_were_understood():
    rule = Rule("delete", Verdict.REFUSE, {"target": '.*"deep": true.*'})
    assert await refused(rule, path="/", target={"path": "/", "deep": "yes"})
    assert not await refused(rule, path="/", target={"path": "/", "deep": "off"})


@pytest.mark.parametrize(
    "described",
    [
        {"type": "boolean", "default": True},
        {"$ref": "#/$defs/deep"},
        {"allOf": [{"$ref": "#/$defs/deep"}]},
    ],
)
async def test_a_rule_sees_the_default_that_a_schema_gives_what_is_left_out(described):
    properties = {"path": {"type": "string"}, "deep": described}
    deep = {"type": "boolean", "default": True}
    schema = {"type": "object", "properties": properties, "$defs": {"deep": deep}}

    async def run(given, context):
        assert "deep" not in given  # the default is for who has the tool to fill in
        return "deleted"

    tool = define_by_schema(ToolSpec(name="delete", description="", parameters=schema), run)
    rule = Rule("delete", Verdict.REFUSE, {"deep": "true"})
    assert await refused(rule, tool, path="/")
    assert not await refused(Rule("delete", Verdict.REFUSE, {"deep": "false"}), tool, path="/")


async def test_a_rule_sees_the_default_of_what_is_left_out():
    rule = Rule("delete", Verdict.REFUSE, {"force": "false"})
    assert await refused(rule, path="/")
    assert not await refused(rule, path="/", force="yes")


async def test_a_tool_that_is_known_by_its_schema_gets_the_number_that_the_rule_sees():
    schema = {"type": "object", "properties": {"count": {"type": "integer"}}}

    async def run(given: dict, context: Context) -> str:
        return str(given)

    tool = define_by_schema(ToolSpec(name="wipe", description="W.", parameters=schema), run)
    rule = Rule("wipe", Verdict.REFUSE, {"count": "1000"})
    for written in ("1000", "1000.0", "1e3", 1000.0):
        assert await refused(rule, tool, count=written)


def hashes(tool, name, values):
    return {arguments_hash(tool.check({"path": "/", name: one}).arguments) for one in values}


def test_the_ledger_knows_a_call_again_however_it_is_written():
    assert len(hashes(DELETE, "force", AS_TRUE)) == 1
    assert len(hashes(DELETE, "count", ["7", 7, 7.0, "7.0"])) == 1
    assert len(hashes(DELETE, "count", [7, 8])) == 2


def test_what_a_tool_is_taught_later_does_not_make_a_call_another_one():
    """An effect that happened before the tool had a parameter is not repeated."""
    assert DELETE.check({"path": "/"}).arguments == {"path": "/"}


def test_values_that_json_cannot_bring_back_are_told_apart_as_they_were_written():
    def log_in(path: str, word: SecretStr) -> str:
        """Logs in."""
        return path

    def once(value: str) -> str:
        if value.startswith("seen "):
            raise ValueError("it was seen")
        return f"seen {value}"

    def show(path: str, what: Annotated[str, BeforeValidator(once)], loud: bool = False) -> str:
        """Shows."""
        return what

    assert len(hashes(define(log_in), "word", ["one", "two"])) == 2
    checked = define(show).check({"path": "/", "what": "x", "loud": "yes"})
    assert checked.arguments == {"path": "/", "what": "x", "loud": True}
