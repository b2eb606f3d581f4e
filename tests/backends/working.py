"""Messages that make the scripted model write files in a workspace, and what is there then."""

from agent_runtime.graph import ask, build_agent
from tests.backends.scripted import call, says
from tools.registry import Registry


def writes(path: str, content: str, call_id: str = "call_a"):
    return says(call("write_file", call_id, path=path, content=content), finish="tool_calls")


async def work(torpor, said, workspaces, session_id: str, *files: tuple[str, str]) -> None:
    """One message, which makes the model write files."""
    said.scripted += [writes(*one) for one in files] + [says({"content": "Done."})]
    agent = build_agent(torpor, Registry(), workspaces=workspaces)
    steps = await ask(agent, session_id, "Go on.")
    assert [step.text for step in steps if step.kind == "model"][-1] == "Done."


async def files_of(workspaces, session_id: str) -> dict[str, str]:
    path = (await workspaces.open(session_id)).path
    found = (one for one in sorted(path.rglob("*")) if one.is_file())
    return {str(one.relative_to(path)): one.read_text() for one in found}
