"""Prompts reach the engine in binary, and what it was sent before is not sent again."""

import secrets
from array import array

import httpx
import pytest

from engine.client import EngineClient, Sampling
from state_store.identity import page_hashes

from .talk import PAGE

GREEDY = Sampling(max_new_tokens=8, ignore_eos=True)


class Conversation:
    """Prompts to one engine under a salt of their own, and how many bytes each took."""

    def __init__(self, url):
        self.client = EngineClient(url)
        self.salt = secrets.token_hex(8)
        self.sent = []
        self.client._http.event_hooks["request"].append(self._count)

    async def _count(self, request):
        self.sent.append(len(request.content))

    async def say(self, ids):
        hashes = page_hashes(ids, PAGE, salt=self.salt, bigram=False)
        chunks = self.client.generate(
            ids, GREEDY, salt=self.salt, page_hashes=hashes, page_size=PAGE
        )
        return [token async for chunk in chunks for token in chunk.new_ids]


@pytest.fixture
async def conversation(stage):
    conversation = Conversation(stage.engine.url)
    yield conversation
    await conversation.client.close()


def prompt(tokens):
    return array("I", [100 + (7 * position) % 500 for position in range(tokens)])


async def test_what_was_sent_is_not_sent_again(conversation):
    ids = prompt(40 * PAGE + 9)
    answer = await conversation.say(ids)
    longer = ids + array("I", [*answer, 5, 6, 7])
    await conversation.say(longer)
    first, second = conversation.sent
    assert first > 4 * len(ids)
    assert second < 4 * (2 * PAGE) + 1000


async def test_a_known_prefix_makes_the_same_prompt(conversation, stage):
    ids = prompt(3 * PAGE + 9)
    await conversation.say(ids)
    longer = ids + array("I", range(200, 300))
    answer = await conversation.say(longer)
    other = Conversation(stage.engine.url)
    assert await other.say(longer) == answer
    await other.client.close()


async def test_an_engine_that_has_forgotten_is_sent_everything(conversation):
    ids = prompt(2 * PAGE)
    unknown = page_hashes(ids, PAGE, salt=conversation.salt, bigram=False)[0]
    conversation.client._remembered[unknown] = PAGE
    expected = await conversation.say(ids)
    with_prefix, whole = conversation.sent
    assert whole > with_prefix
    assert await conversation.say(ids) == expected


@pytest.mark.parametrize("body", [b"", b"{}\n", b"no json\n\x01\x00\x00\x00", b'{"x": 1}\n'])
async def test_a_malformed_prompt_is_refused(stage, body):
    async with httpx.AsyncClient(trust_env=False) as http:
        response = await http.post(f"{stage.engine.url}/torpor/generate", content=body)
    assert response.status_code == 400
    assert "malformed" in response.json()["error"]
