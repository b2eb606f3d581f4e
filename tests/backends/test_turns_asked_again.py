"""Who follows a kept turn waits for the runtime that is committing it, and for nothing else."""

import pytest

from agent_runtime import kept_turns
from agent_runtime.errors import KeyReused, StillRunning
from agent_runtime.kept_turns import KeptTurn, followed
from agent_runtime.sdk.errors import ApiError
from agent_runtime.wire.problems import Problem
from agent_runtime.wire.turns import TurnResult, Usage

KEPT = KeptTurn(key="k", messages=[], options={}, said=[5])


class Client:
    """Refuses a turn as often as it is told to."""

    def __init__(self, refusals, code):
        self.refusals, self.code, self.asked = refusals, code, 0

    async def turn(self, session_id, messages, *, idempotency_key):
        self.asked += 1
        if self.asked <= self.refusals:
            raise ApiError(Problem(title="t", status=409, detail="d", code=self.code))
        usage = Usage.model_construct()
        return TurnResult.model_construct(
            session_id=session_id, token_ids=[5], snapshot="snp", kept=False, usage=usage
        )


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch):
    monkeypatch.setattr(kept_turns, "_PAUSES", (0, 0, 0))


async def test_a_turn_that_is_being_committed_is_asked_for_again():
    client = Client(3, StillRunning.code)
    assert await followed(client, "ses", None, [KEPT]) == ("snp", [])
    assert client.asked == 4


@pytest.mark.parametrize(
    ("refusals", "code", "asked"), [(9, StillRunning.code, 4), (1, KeyReused.code, 1)]
)
async def test_it_is_not_waited_for_without_end_nor_after_another_refusal(refusals, code, asked):
    client = Client(refusals, code)
    with pytest.raises(ApiError):
        await followed(client, "ses", None, [KEPT])
    assert client.asked == asked
