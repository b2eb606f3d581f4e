"""What tools give back, and how what is too long is cut."""

from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from tools.results import Ending, FilePart, JsonPart, TextPart, ToolResult, cut_text


class Total(BaseModel):
    sum: int


CHART = FilePart(name="chart.png", media_type="image/png", size=3, data=b"\xff\x00\x01")


def test_text_json_and_files_are_read_by_the_model_in_their_order():
    result = ToolResult.of(["Done.", CHART, {"sum": 3}])
    assert result.text == 'Done.\n[file chart.png: image/png, 3 bytes]\n{"sum":3}'
    assert result.files == (CHART,)
    assert not result.error


def test_what_functions_return_becomes_a_result():
    assert ToolResult.of("a").parts == (TextPart(content="a"),)
    assert ToolResult.of(Total(sum=3)).parts == (JsonPart(value={"sum": 3}),)
    assert ToolResult.of([1, 2]).parts == (JsonPart(value=[1, 2]),)
    assert ToolResult.of(None).text == "null"
    assert ToolResult.of(CHART).parts == (CHART,)
    failed = ToolResult.failed("no")
    assert ToolResult.of(failed) is failed
    assert failed.error


def test_a_result_survives_being_written_down():
    result = ToolResult.of(["a", CHART, {"b": [1, None]}]).noted("twice")
    again = ToolResult.model_validate_json(result.model_dump_json())
    assert again == result
    assert again.ending is Ending.DONE


def test_a_long_result_keeps_its_beginning_its_end_and_its_files():
    log = "\n".join(f"line {number}" for number in range(1, 1001))
    cut = ToolResult.of([log, CHART]).cut(200, "Read the file.")
    text = cut.parts[0].text
    head, note, tail = text.partition("[")[0], text[text.index("[") : text.index("]") + 1], text
    assert head.endswith("\n")
    assert log.startswith(head)
    last = tail[tail.index("]\n") + 2 :]
    assert log.endswith("\n" + last)
    shown = head.count("\n")
    first_left, last_left = shown + 1, 1000 - last.count("\n") - 1
    assert note.endswith(f"lines {first_left} to {last_left}. Read the file.]")
    assert cut.files == (CHART,)


@given(st.text(), st.integers(1, 40))
def test_the_cut_says_exactly_what_is_left_out(text, most):
    cut = cut_text(text, most, "Ask.")
    if len(text) <= most:
        assert cut == text
        return
    first, last = (
        int(word.replace(",", ""))
        for word in cut.rpartition("[left out: characters ")[2].split(" of ")[0].split(" to ")
    )
    left = text[first - 1 : last]
    head, _, tail = text.partition(left) if text.count(left) == 1 else ("", "", "")
    assert len(text) - len(left) <= most
    assert len(left) >= len(text) - most
    if head:
        assert cut.startswith(head.removesuffix("\n"))
        assert cut.endswith(tail.removesuffix("\n"))
