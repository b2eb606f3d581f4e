"""Every error has a status and a code of its own."""

import re
from pathlib import Path

import pytest

from agent_runtime import errors as runtime
from agent_runtime.http.document import codes_of, problems
from agent_runtime.http.status import problem_of
from engine import errors as engine
from state_store import errors as store
from tools import errors as tools

# Never raised to a client of the service: commands and start-up raise them.
AT_START = {
    engine.BackendKeyMissing,
    engine.EngineStartFailed,
    engine.ImpossiblePlan,
    engine.OtherEngineLives,
    engine.PatchError,
    engine.UnsupportedLayout,
    engine.UnsupportedModel,
    engine.UnsupportedOption,
    store.EmbeddedServerFailed,
    runtime.SetupError,
    store.InvalidUrl,
    tools.FolderMissing,
    tools.ToolFailed,
}
TOLD_AS_ANOTHER = {store.ForeignTenant: "not_found"}


def kinds(base):
    yield base
    for kind in base.__subclasses__():
        if kind.__module__ == base.__module__:
            yield from kinds(kind)


def made(kind):
    """An error as its own constructor makes it."""
    error = kind.__new__(kind)
    Exception.__init__(error, "what happened")
    return error


@pytest.mark.parametrize(
    "kind",
    [
        kind
        for base in (
            engine.EngineError, runtime.TorporError, store.StoreError, tools.ToolsError,
        )
        for kind in kinds(base)
        if kind not in AT_START | TOLD_AS_ANOTHER.keys()
    ],
)  # fmt: skip
def test_an_error_has_a_code_of_its_own(kind):
    problem = problem_of(made(kind))
    snake = re.sub(r"(?<!^)(?=[A-Z])", "_", kind.__name__).lower()
    assert problem.code == ("internal" if kind is runtime.TorporError else snake)
    assert 400 <= problem.status < 600
    assert problem.detail == "what happened"


def test_codes_tell_errors_apart():
    codes = {}
    for base in (engine.EngineError, runtime.TorporError, store.StoreError, tools.ToolsError):
        for kind in set(kinds(base)) - AT_START - TOLD_AS_ANOTHER.keys():
            codes.setdefault(problem_of(made(kind)).code, set()).add(problem_of(made(kind)).status)
    assert all(len(statuses) == 1 for statuses in codes.values()), codes


def test_what_is_anothers_is_told_as_not_there():
    own, foreign = (
        problem_of(kind("no session ses-1.")) for kind in (store.NotFound, store.ForeignTenant)
    )
    assert foreign == own


def test_the_document_of_the_api_names_every_error_that_its_routes_raise():
    raised = (runtime.TorporError, engine.EngineError, store.StoreError, tools.ToolsError)
    documented = problems(*raised)
    for base in raised:
        for kind in set(kinds(base)) - AT_START - {runtime.ClientGone}:
            problem = problem_of(made(kind))
            assert f"`{problem.code}`" in documented[problem.status]["description"], kind
    assert "`store_full`" not in str(problems(engine.EngineError))


def test_the_page_has_every_code_with_its_status():
    page = Path("docs/errors.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \| (\d+) \| \S.*\|$", page, re.MULTILINE)
    told = [(int(status), code) for code, status in rows]
    at_the_edge = {(status, code) for status, codes in codes_of().items() for code in codes}
    of_paths = {(404, "no_such_path"), (405, "method_not_allowed")}
    raised = {
        (problem.status, problem.code)
        for base in (runtime.TorporError, engine.EngineError, store.StoreError, tools.ToolsError)
        for kind in set(kinds(base)) - AT_START - {runtime.ClientGone}
        for problem in (problem_of(made(kind)),)
    }
    assert told == sorted(raised | at_the_edge | of_paths)
