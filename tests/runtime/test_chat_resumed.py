"""`torpor chat` on a real engine: suspended, and gone on with where nothing is in memory."""

from tests.backends.chat_process import Chat


async def test_a_suspended_chat_goes_on_from_all_that_is_stored(stage, torpor, flush, tmp_path):
    options = ("--session", "zoe", "--system", "You are Torpor.", "--tools", "calculator")
    with Chat(stage.runtime.url, *options, home=tmp_path) as chat:
        chat.prompt("zoe")
        chat.say("Remember: the code of harbour is 4712.")
        chat.prompt("zoe")
        chat.say("What is 318 + 264?")
        shown = chat.prompt("zoe")
        assert "← calculator: 582" in shown
        assert "2 turns" in shown
        chat.press("z")
        code, left = chat.end()
        assert code == 0
        assert "suspended, durable: fsync" in left

    stage.runtime.kill()
    await flush()
    stage.runtime.start()

    with Chat(stage.runtime.url, "--continue", home=tmp_path) as chat:
        shown = chat.prompt("zoe")
        (view,) = [one async for one in torpor.sessions(labels={"chat": "zoe"})]
        assert f"resumed: {view.boundary} of {view.tokens} tokens can be picked up, " in shown
        for line in ("user: What is 318 + 264?", "tool: 582", "assistant: 318 + 264 = 582."):
            assert line in shown.splitlines()
        chat.say("What is the code of harbour?")
        shown = chat.prompt("zoe")
        assert "The code of harbour is 4712." in shown
        assert f"reused {view.boundary} of " in shown
        recomputed = view.tokens - view.boundary
        assert f" recomputed {recomputed} (past the last boundary) · " in shown
        chat.say("/rewind 2")
        chat.prompt("zoe")
        chat.say("/fork")
        chat.prompt("zoe/2")
        chat.say("What is the code of harbour?")
        assert "The code of harbour is 4712." in chat.prompt("zoe/2")
        chat.press("d")
        chat.end()
    for name in ("zoe", "zoe/2"):
        async for made in torpor.sessions(labels={"chat": name}):
            assert made.residency == "stored" or name == "zoe"
            await torpor.delete(made.id)


async def test_calls_that_broke_off_are_told_of(stage, torpor, registry, tmp_path):
    session = await torpor.create(tools=registry.specs())
    await torpor.turn(session.id, "What is 318 + 264?")
    with Chat(stage.runtime.url, "--session", session.id, home=tmp_path) as chat:
        shown = chat.prompt(session.id)
        assert '→ calculator {"expression": "318 + 264"}' in shown
        assert "these calls broke off" in shown
        assert "cannot be run here" in shown
        assert "file_search" in shown
        chat.say("/rewind")
        assert "back at 0 tokens" in chat.prompt(session.id)
        chat.press("d")
        assert chat.end()[0] == 0
    assert (await torpor.get(session.id)).head is None
    await torpor.delete(session.id)
