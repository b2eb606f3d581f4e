"""A session that is shorter than a page has lost nothing."""

import pytest

from agent_runtime.sdk import ApiError


async def test_it_is_kept_as_its_tokens(torpor):
    session = await torpor.create()
    await torpor.turn(session.id, "Hi.", max_tokens=2)
    await torpor.suspend(session.id)
    view = await torpor.get(session.id)
    assert (view.residency, view.boundary) == ("tokens", 0)
    assert session.id in [one.id async for one in torpor.sessions(residency="tokens")]
    resumed = await torpor.resume(session.id)
    assert resumed.restorable_tokens == 0
    assert resumed.reason == "it is shorter than a page, and only its tokens are stored"
    with pytest.raises(ApiError, match="shorter than a page"):
        await torpor.resume(session.id, strict=True)
    await torpor.delete(session.id)
