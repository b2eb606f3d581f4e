"""Real SGLang servers with the linker, and sessions on them as the runtime would hold them."""

from __future__ import annotations

import asyncio
import json
import random
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
from engine_cpu.server import PAGE_SIZE, Server, running

from engine.client import Sampling
from engine.linker.config import LinkerConfig
from engine.pool import Engine
from engine.replies import Prefetch
from state_store.identity import page_hashes

SALT = "the salt of these tests"
SECONDS = 60.0
NEW_TOKENS = 24


def linker_arguments(url: str, **settings: object) -> list[str]:
    """SGLang's arguments for our linker. settings: fields of `LinkerConfig`"""
    given = {"engine_id": "engine", "boot_id": secrets.token_hex(8), "timeout": 3.0, **settings}
    config = LinkerConfig.model_validate({"url": url, **given})
    linker = {
        "linker": "TorporLinker",
        "linker_module_path": "engine.linker.linker",
        "linker_extra_config": config.model_dump(mode="json"),
    }
    return [
        "--enable-unified-cache-external-linker",
        *("--unified-cache-external-linker-backend", "dynamic"),
        *("--unified-cache-external-linker-config", json.dumps(linker)),
        "--enable-session-radix-cache",
    ]


@contextmanager
def linked(model: Path, folder: Path, url: str, *more: str, **settings: object) -> Iterator[Server]:
    """A server over the store at `url`, with its log in `folder`."""
    log = folder / f"{secrets.token_hex(4)}.log"
    with running(model, log, *linker_arguments(url, **settings), *more) as server:
        yield server


@dataclass(frozen=True)
class Answer:
    """ids: generated greedily; cached: prompt tokens not computed; top: logprobs per place;
    margin: between the logprobs of the best token and the next, where they are closest"""

    ids: list[int]
    cached: int
    accept_length: float | None
    top: list[float]
    margin: float


async def ask(
    engine: Engine, prompt: Sequence[int], new_tokens: int = NEW_TOKENS, *, restore: bool = True
) -> Answer:
    """Raises LoadFailed."""
    ids: list[int] = []
    top: list[float] = []
    margins: list[float] = []
    last = None
    sampling = Sampling(max_new_tokens=new_tokens, ignore_eos=True)
    stream = engine.client.generate(prompt, sampling, salt=SALT, top_logprobs=2, restore=restore)
    async for chunk in stream:
        ids += chunk.new_ids
        top += [place.logprob for place in chunk.logprobs]
        margins += [place.top[0][1] - place.top[1][1] for place in chunk.logprobs]
        last = chunk
    assert last is not None
    return Answer(ids, last.cached_tokens, last.accept_length, top, min(margins))


async def ask_all(engine: Engine, prompts: Sequence[Sequence[int]]) -> list[Answer]:
    """All at once: they run in one batch."""
    return list(await asyncio.gather(*(ask(engine, prompt) for prompt in prompts)))


def chain(engine: Engine, tokens: Sequence[int]) -> list[str]:
    """Names of the whole pages of `tokens`."""
    fingerprint = engine.record.fingerprint
    return page_hashes(list(tokens), PAGE_SIZE, salt=SALT, bigram=fingerprint.bigram)


async def stored_pages(engine: Engine, tokens: Sequence[int]) -> int:
    """Pages of `tokens` up to the last boundary that every rank has stored."""
    settled = await engine.settle(chain(engine, tokens), timeout=SECONDS)
    assert settled.reason is None
    return max(settled.states, default=0)


async def make_ready(engine: Engine, tokens: Sequence[int]) -> Prefetch:
    """Stage the pages of `tokens` and the state at their end."""
    return await engine.prefetch(chain(engine, tokens), timeout=SECONDS)


async def used(server: Server) -> tuple[int, int, int]:
    """Tokens that its pools hold, requests that run, requests that wait."""
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{server.port}") as client:
        (load,) = (await client.get("/v1/loads")).json()["loads"]
    return load["num_used_tokens"], load["num_running_reqs"], load["num_waiting_reqs"]


def random_tokens(seed: int, count: int, vocabulary: int = 512) -> list[int]:
    """Random ids: no model has seen them, so no answer comes from habit."""
    rng = random.Random(seed)
    return [rng.randrange(3, vocabulary) for _ in range(count)]
