"""How long an answer may be is what the turn says, or its session, or else the runtime."""

from types import SimpleNamespace

import httpx
import pytest

from agent_runtime.sdk import Torpor
from agent_runtime.turns.prompting import with_defaults
from agent_runtime.wire.messages import Message
from agent_runtime.wire.turns import SamplingDefaults, TurnRequest
from tests.backends.scripted import says, scripted_runtime


def asked_of(said):
    request = said.seen[-1][1]
    return request["max_tokens"], request["temperature"]


@pytest.mark.parametrize(("settings", "most"), [({}, 4096), ({"answer_tokens": 700}, 700)])
async def test_without_a_limit_it_is_the_runtimes(bare_store, said, settings, most):
    said.scripted += [says({"content": "Yes."}) for _ in range(5)]
    async with (
        scripted_runtime(bare_store.url, said, **settings) as app,
        Torpor("http://scripted", transport=httpx.ASGITransport(app)) as torpor,
    ):
        session = await torpor.create()
        await torpor.turn(session.id, "Hello.")
        assert asked_of(said) == (most, 0)
        await torpor.converse([Message(role="user", content="Hello?")])
        assert asked_of(said) == (most, 0)
        await torpor.turn(session.id, "Hello!", max_tokens=9, temperature=0.5)
        assert asked_of(said) == (9, 0.5)
        own = await torpor.create(sampling=SamplingDefaults(max_tokens=33))
        await torpor.turn(own.id, "Hello.")
        assert asked_of(said) == (33, 0)
        await torpor.turn(own.id, "Hello.", max_tokens=34)
        assert asked_of(said) == (34, 0)


@pytest.mark.parametrize(
    ("asked", "session", "fits"),
    [
        ({}, {}, True),
        ({"fit": False}, {}, False),
        ({"max_tokens": 5}, {}, False),
        ({"max_tokens": 5, "fit": True}, {}, True),
        ({}, {"max_tokens": 5}, False),
        ({"fit": True}, {"max_tokens": 5}, True),
    ],
)
def test_only_a_limit_that_nobody_has_set_gives_way_to_the_context(asked, session, fits):
    request = TurnRequest(messages=[Message(role="user", content="Hi.")], **asked)
    kept = SimpleNamespace(body=SimpleNamespace(meta={"sampling": session}))
    assert with_defaults(request, kept, answer_tokens=7).fit is fits
