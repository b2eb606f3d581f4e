"""Which of two engines takes a turn."""

from ..talk import HISTORY, PAGE, QUESTIONS, say


async def test_new_sessions_are_spread_and_stay_where_they_are(torpor, new_session):
    sessions = [await new_session() for _ in range(2)]
    homes = []
    for session in sessions:
        (turn,) = await say(torpor, session.id, HISTORY[0])
        assert "least loaded of 2" in turn.engine_because
        homes.append(turn.engine)
    assert set(homes) == {"engine", "second"}
    for session, home in zip(sessions, homes, strict=True):
        for turn in await say(torpor, session.id, *QUESTIONS[:2]):
            assert turn.engine == home
            assert turn.engine_because == "it holds the session's head"
            assert turn.failed_over is None


async def test_a_fork_goes_where_its_parent_is(torpor, new_session):
    for session in [await new_session(), await new_session()]:
        (turn,) = await say(torpor, session.id, HISTORY[0])
        fork = await torpor.fork(session.id)
        (in_fork,) = await say(torpor, fork.id, QUESTIONS[0])
        await torpor.delete(fork.id)
        assert in_fork.engine == turn.engine
        assert in_fork.engine_because.startswith("it holds")
        assert in_fork.usage.recomputed_tokens <= PAGE
