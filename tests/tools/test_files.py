"""The file tools read and write what the model asks for, below its workspace and nowhere else."""

import asyncio
import os
import tracemalloc

import pytest

from tools.calls import ToolCall
from tools.code import code_tools
from tools.errors import FolderMissing
from tools.files import file_tools
from tools.registry import Registry
from tools.results import Ending
from tools.running import Executor, Place
from tools.workspaces.owner import owner

PLACE = Place("main", "message-1")
MAIN = "def main():\n    return 1\n\n\ndef other():\n    return 1\n"
PAGE = "".join(f"line {number}\n" for number in range(1, 2001))


@pytest.fixture
def path(workspaces):
    path = workspaces.create("one")
    (path / "src").mkdir()
    (path / "src" / "main.py").write_text(
        "def main():\n    return 1\n\n\ndef other():\n    return 1\n"
    )
    (path / "page.txt").write_text(PAGE)
    return path


@pytest.fixture
def call(path):
    registry = Registry(file_tools(path, most_bytes=100_000, most_files=10))

    async def call(name, **arguments):
        result = await registry.call(name, arguments)
        return result.text, result.error

    return call


async def test_files_are_listed_with_their_sizes(call, path):
    (path / "link").symlink_to("page.txt")
    assert await call("list_files") == ("link (link)\npage.txt (18,893)\nsrc/main.py (53)", False)
    assert await call("list_files", path="src") == ("src/main.py (53)", False)
    assert await call("list_files", path="/workspace/src") == ("src/main.py (53)", False)
    assert await call("list_files", pattern="*.txt") == ("page.txt (18,893)", False)
    assert await call("list_files", pattern="*.md") == ("no files", False)
    text, error = await call("list_files", path="nothing")
    assert (text, error) == ("there is no nothing in the workspace", True)


async def test_a_long_list_says_how_much_is_left_out(call, path):
    for number in range(600):
        (path / "src" / f"{number:03}").write_text("")
    text, _ = await call("list_files", path="src", pattern="[0-9]*")
    assert text.endswith("src/499 (0)\n[100 more: name a folder or a pattern]")


async def test_a_file_is_read_whole_or_in_parts(call):
    text, _ = await call("read_file", path="src/main.py")
    assert text == MAIN
    text, _ = await call("read_file", path="page.txt", first=5, last=6)
    assert text == "line 5\nline 6\n\n[lines 5 to 6 of 2000]"
    text, _ = await call("read_file", path="page.txt")
    assert text.endswith("line 1000\n\n[lines 1 to 1000 of 2000]")
    text, error = await call("read_file", path="page.txt", first=3000)
    assert (text, error) == ("page.txt has 2000 lines, none from 3000 to 1000", True)


async def test_what_is_not_text_is_not_shown(call, path):
    (path / "data").write_bytes(b"\0\1\2")
    (path / "large").write_bytes(b"x" * (4 * 2**20 + 1))
    os.mkfifo(path / "pipe")
    assert await call("read_file", path="data") == (
        "data is not a text file; look at it with a program", True
    )  # fmt: skip
    text, _ = await call("read_file", path="large")
    assert text.startswith("large is over 4,194,304 bytes")
    assert await call("read_file", path="pipe") == ("pipe is not a file", True)
    assert await call("read_file", path="src") == ("src is not a file", True)


async def test_text_is_found_as_it_is_written_in_any_case(call, path):
    text, _ = await call("search_files", words="RETURN 1")
    assert text == "2 matches\nsrc/main.py:2: return 1\nsrc/main.py:6: return 1"
    assert (await call("search_files", words="return.1"))[0] == "0 matches"
    assert (await call("search_files", words="line 2000", pattern="*.py"))[0] == "0 matches"
    assert (await call("search_files", words="def", path="src"))[0].startswith("2 matches")
    text, _ = await call("search_files", words="line")
    assert text.startswith("2000 matches\npage.txt:1: line 1\n")
    assert text.endswith("page.txt:100: line 100\n[1,900 more: search for more words]")
    assert (await call("search_files", words=" "))[1]


async def test_a_file_is_made_with_its_folders_and_replaced_as_a_whole(call, path):
    assert await call("write_file", path="a/b/c.txt", content="one\ntwo\n") == (
        "made a/b/c.txt: 2 lines", False
    )  # fmt: skip
    (path / "a" / "b" / "c.txt").chmod(0o755)
    inode = (path / "a" / "b" / "c.txt").stat().st_ino
    text, _ = await call("write_file", path="/workspace/a/b/c.txt", content="three\r\n")
    assert text == "replaced /workspace/a/b/c.txt: 1 lines"
    made = path / "a" / "b" / "c.txt"
    assert made.read_bytes() == b"three\r\n"
    assert made.stat().st_mode & 0o777 == 0o755
    assert made.stat().st_ino != inode
    assert {one.stat().st_uid for one in (made, made.parent, made.parent.parent)} == {owner()}
    assert [one.name for one in made.parent.iterdir()] == ["c.txt"]


async def test_a_piece_is_replaced_where_it_is_the_only_one(call, path):
    text, error = await call(
        "edit_file", path="src/main.py", old="    return 1", new="    return 2"
    )
    assert (text, error) == (
        "src/main.py holds the piece `old` 2 times; add lines around it, or set every", True
    )  # fmt: skip
    text, _ = await call(
        "edit_file", path="src/main.py", old="def other():\n    return 1", new="def other():\n    x"
    )
    assert text == "changed src/main.py at line 5"
    text, _ = await call("edit_file", path="page.txt", old="line 1\n", new="first\n")
    assert text == "changed page.txt at line 1"
    text, _ = await call("edit_file", path="page.txt", old="line ", new="row ", every=True)
    assert text == "changed page.txt in 1999 places"
    assert (
        path / "src" / "main.py"
    ).read_text() == "def main():\n    return 1\n\n\ndef other():\n    x\n"


async def test_an_edit_over_the_limits_is_refused_before_the_text_is_made(call, path):
    (path / "a.txt").write_text("a" * 50_000)
    tracemalloc.start()
    try:
        text, error = await call("edit_file", path="a.txt", old="a", new="é" * 1000, every=True)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert error
    assert "the workspace may hold 100,000 bytes in 10 files" in text
    assert most < 5_000_000
    assert (path / "a.txt").read_text() == "a" * 50_000


async def test_a_piece_that_is_not_there_is_told_with_what_is_near(call, path):
    before = (path / "src" / "main.py").read_text()
    text, error = await call("edit_file", path="src/main.py", old="def mian():", new="x")
    assert error
    assert text == "src/main.py does not hold the piece `old`; line 1 is near: def main():"
    for old, new in (("", "x"), ("def", "def")):
        assert (await call("edit_file", path="src/main.py", old=old, new=new))[1]
    assert (path / "src" / "main.py").read_text() == before


@pytest.mark.parametrize("wrong", ["/etc/passwd", "../x", "out/x", "file", "src/../../x", ""])
async def test_no_path_leads_out(call, path, tmp_path, wrong):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "x").write_text("secret")
    (path / "out").symlink_to(outside)
    (path / "file").symlink_to(outside / "x")
    for name, more in (
        ("read_file", {}),
        ("write_file", {"content": "y"}),
        ("edit_file", {"old": "secret", "new": "y"}),
    ):
        text, error = await call(name, path=wrong, **more)
        assert error
        assert "secret" not in text
    assert (await call("list_files", path="out"))[1]
    assert (await call("search_files", words="secret", path="out"))[1]
    assert (await call("search_files", words="secret"))[0] == "0 matches"
    assert (outside / "x").read_text() == "secret"
    assert [one.name for one in outside.iterdir()] == ["x"]


async def test_nothing_is_written_over_the_limits(call, path):
    text, error = await call("write_file", path="big", content="x" * 90_000)
    assert error
    assert "the workspace may hold 100,000 bytes in 10 files" in text
    for number in range(12):
        text, error = await call("write_file", path=f"f{number}", content="")
    assert error
    assert len(list(path.rglob("*"))) == 10


def test_a_missing_workspace_is_refused(tmp_path):
    for tools in (file_tools, code_tools):
        with pytest.raises(FolderMissing, match="is not a folder"):
            tools(tmp_path / "missing")


async def test_what_file_tools_write_commands_run_and_the_other_way_round(call, path):
    registry = Registry(code_tools(path))
    await call("write_file", path="lib/greeting.py", content="WORD = 'hello'\n")
    await call("write_file", path="lib/__init__.py", content="")
    ran = await registry.call(
        "python", {"code": "from lib.greeting import WORD\nopen('out', 'w').write(WORD * 2)"}
    )
    assert (ran.text, ran.error) == ("[no output]", False)
    assert await call("read_file", path="out") == ("hellohello", False)
    assert await call("edit_file", path="out", old="hellohello", new="bye") == (
        "changed out at line 1", False
    )  # fmt: skip
    ran = await registry.call("shell", {"command": "cat out; echo more >> out; rm lib/greeting.py"})
    assert ran.text == "bye"
    assert (path / "out").read_text() == "byemore\n"


async def test_a_program_that_fails_is_told_with_its_line(path):
    registry = Registry(code_tools(path))
    ran = await registry.call("python", {"code": "import sys\nprint('before')\n1 / 0"})
    assert ran.error
    assert ran.text.startswith("before\nTraceback")
    assert 'File "/run/main.py", line 3, in <module>' in ran.text
    assert ran.text.endswith("ZeroDivisionError: division by zero\n[exit code 1]")


async def test_without_a_sandbox_the_tools_refuse_and_say_why(path, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    ran = await Registry(code_tools(path)).call("shell", {"command": "touch here"})
    assert ran.error
    assert "bwrap is not installed, so nothing was run" in ran.text
    assert not (path / "here").exists()


def edit(number: int) -> ToolCall:
    return ToolCall(
        name="edit_file", arguments={"path": "lines", "old": f"<{number}>", "new": f"[{number}]"}
    )


@pytest.fixture
def lines(path):
    """A file with a line for each edit, in a workspace that takes a while to look through."""
    for number in range(200):
        (path / f"file{number}").touch()
    (path / "lines").write_text("".join(f"<{number}>\n" for number in range(20)))
    return path / "lines"


EDITED = "".join(f"[{number}]\n" for number in range(20))


async def test_edits_of_one_file_in_one_message_are_all_kept(path, lines):
    executor = Executor(Registry(file_tools(path)))
    results = await executor.run([edit(number) for number in range(20)], PLACE)
    assert {result.ending for result in results} == {Ending.DONE}
    assert lines.read_text() == EDITED


async def test_edits_of_one_file_from_anywhere_are_all_kept(path, lines):
    registries = [Registry(file_tools(path)) for _ in range(20)]
    calls = [edit(number) for number in range(20)]
    await asyncio.gather(
        *(one.call(call.name, call.arguments) for one, call in zip(registries, calls, strict=True))
    )
    assert lines.read_text() == EDITED


async def test_a_file_is_read_as_the_calls_before_in_the_message_have_left_it(path):
    executor = Executor(Registry([*file_tools(path), *code_tools(path)]))
    calls = [
        ToolCall(name="write_file", arguments={"path": "out", "content": "old\n"}),
        ToolCall(name="shell", arguments={"command": "sleep 0.2; cat out; echo new > out"}),
        ToolCall(name="list_files", arguments={"path": "nowhere"}),
        ToolCall(name="read_file", arguments={"path": "out"}),
        ToolCall(name="write_file", arguments={"path": "out", "content": "last"}),
    ]
    results = await executor.run(calls, PLACE)
    assert (results[1].text, results[3].text) == ("old", "new\n")
    assert results[2].ending is Ending.FAILED
    assert (path / "out").read_text() == "last"


async def test_a_file_may_be_replaced_in_a_workspace_that_is_full(tmp_path):
    (tmp_path / "a").write_text("x" * 9000)
    (tmp_path / "b").write_text("x")
    registry = Registry(file_tools(tmp_path, most_bytes=17_000, most_files=2))

    async def write(path: str, content: str) -> str:
        return (await registry.call("write_file", {"path": path, "content": content})).text

    assert await write("a", "y" * 9000) == "replaced a: 1 lines"
    edit = {"path": "b", "old": "x", "new": "y"}
    assert (await registry.call("edit_file", edit)).text == "changed b at line 1"
    for path, content in (("a", "y" * 18_000), ("c", "y"), ("folder/c", "y")):
        assert (await write(path, content)).startswith("nothing was written")
    (tmp_path / "b").unlink()
    assert (await write("folder/c", "y")).startswith("nothing was written")
    assert await write("c", "y") == "made c: 1 lines"
