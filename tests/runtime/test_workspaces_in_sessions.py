"""Files go with model state, on a real engine."""

from agent_runtime.workspaces import SessionWorkspaces
from tools.files import file_tools
from tools.workspaces import Workspaces


async def test_a_fork_inside_a_turn_has_the_files_of_where_it_is(torpor, tmp_path):
    here = SessionWorkspaces(torpor, Workspaces(tmp_path), file_tools)
    session = await torpor.create(system="You are Torpor.")
    await torpor.turn(session.id, "Hello.", max_tokens=8)
    (await here.open(session.id)).path.joinpath("plan").write_text("one")
    version = await here.keep(session.id)
    await torpor.turn(session.id, "Look at the plan.", max_tokens=8, workspace=version)
    first, second = await torpor.snapshots(session.id)
    assert (first.workspace, second.workspace) == (None, version)
    forks = [
        await torpor.fork(session.id, tokens=tokens)
        for tokens in (second.prompt_tokens - 2, second.prompt_tokens + 2)
    ]
    versions = [(await torpor.files.get(fork.id)).version for fork in forks]
    assert versions == [None, version]
    await torpor.suspend(session.id)
    await torpor.turn(session.id, "Thanks.", max_tokens=8)
    assert (await torpor.files.get(session.id)).version == version
    for one in (session, *forks):
        await torpor.delete(one.id)
