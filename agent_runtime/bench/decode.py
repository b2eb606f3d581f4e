"""What snapshots cost while tokens are generated, and whether speculation changes any of them.

Two engines run side by side, one with the linker and one without, and take turns: whatever else
the machine does meanwhile slows both alike. Of two processes of the very same engine one is faster
than the other by some percent, as long as they live; so there are several pairs, one after the
other. An engine without MTP then repeats what they said.
"""

from __future__ import annotations

import secrets
import statistics
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack, ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from agent_runtime.bench.spread import quartiles
from agent_runtime.deployment import Layout
from agent_runtime.messages.chat import ChatFormat
from agent_runtime.wire.messages import Message
from engine.client import EngineClient, Sampling
from engine.demo_model import dialogues
from engine.launch import EngineOptions, EngineProcess, checked_model, free_port
from engine.profiles import Profile
from state_store.embedded import EmbeddedServer

_TURNS = 4  # per conversation, so that one turn's offload runs while the next one decodes
_OPENINGS = (
    dialogues.read("The harbour is closed. A warranty is not given.").user,
    dialogues.tally(2).user,
    dialogues.remember("harbour", "4712").user,
    dialogues.tick().user,
)


@dataclass
class _Spoken:
    """ids: of all turns; seconds: from each turn's first token to its last; counted: tokens in
    that time; cpu_seconds: of all processes of the engine, for everything; accept_lengths: one per
    turn, of MTP."""

    ids: list[int] = field(default_factory=list)
    seconds: float = 0.0
    counted: int = 0
    cpu_seconds: float = 0.0
    accept_lengths: list[float] = field(default_factory=list)

    @property
    def rate(self) -> float:
        return self.counted / self.seconds

    @property
    def rate_of_cpu(self) -> float:
        return len(self.ids) / self.cpu_seconds


async def measure(
    *, pairs: int, rounds: int, tokens: int, profile: Profile, model: Path | None, data: Path
) -> dict[str, Any]:
    """One record. tokens: generated per turn. A round is a conversation on each engine of a pair.

    Starts a store, and engines under `data`, two at a time.
    """
    folder = checked_model(model or profile.model)
    chat = ChatFormat(folder)
    layout = Layout(data)
    with EmbeddedServer(layout.store) as store:

        def engine(name: str, *, mtp: bool = True, linker: bool = True) -> EngineProcess:
            return EngineProcess(
                EngineOptions(
                    profile=profile,
                    redis_url=store.url,
                    log_file=layout.data / f"engine-{name}.log",
                    model=folder,
                    port=free_port(),
                    engine_id=name,
                    mtp=mtp,
                    linker=linker,
                    cache_dir=layout.native_cache_beside,
                )
            )

        prompts = [
            chat.opening([Message(role="user", content=text)], system=None, tools=())
            for text in _OPENINGS
        ]
        spoken: list[list[_Spoken]] = [[], []]
        for pair in range(pairs):
            engines = [engine(f"on-{pair}"), engine(f"off-{pair}", linker=False)]
            said = await _speak(engines, prompts, rounds, tokens)
            for side, some in zip(spoken, said, strict=True):
                side += some
        once = min(rounds, len(prompts))
        (plain,) = await _speak([engine("plain", mtp=False)], prompts, once, tokens)
    on, off = spoken
    ratios = [a.rate / b.rate for a, b in zip(on, off, strict=True)]
    of_cpu = [a.rate_of_cpu / b.rate_of_cpu for a, b in zip(on, off, strict=True)]
    of_pairs = [ratios[start : start + rounds] for start in range(0, len(ratios), rounds)]
    accepted = [length for one in on for length in one.accept_lengths]
    return {
        "bench": "decode",
        "pairs": pairs,
        "rounds": rounds,
        "tokens": sum(one.counted for one in on),
        "snapshot_on_off": round(statistics.median(ratios), 3),
        "snapshot_on_off_quartiles": quartiles(ratios, 3),
        "snapshot_on_off_pairs": [round(statistics.median(some), 3) for some in of_pairs],
        "snapshot_on_off_cpu": round(statistics.median(of_cpu), 3),
        "on_tokens_per_s": round(statistics.median(one.rate for one in on), 1),
        "off_tokens_per_s": round(statistics.median(one.rate for one in off), 1),
        "identical": [one.ids for one in on] == [one.ids for one in off],
        "mtp_accept_length": round(statistics.fmean(accepted), 3) if accepted else None,
        "mtp_identical": [one.ids for one in on[: len(plain)]] == [one.ids for one in plain],
    }


async def _speak(
    engines: Sequence[EngineProcess], prompts: Sequence[list[int]], rounds: int, tokens: int
) -> list[list[_Spoken]]:
    """What each engine said in each round; they are started together and take turns."""
    async with AsyncExitStack() as closing:
        with ExitStack() as stopping:
            for engine in engines:
                engine.start()
                stopping.callback(engine.kill)
            clients = []
            for engine in engines:
                engine.wait_until_serving()
                clients.append(EngineClient(engine.url))
                closing.push_async_callback(clients[-1].close)
            for client in clients:  # the first requests of a new engine are slow
                await _converse(client, prompts[0], tokens, "warm-up")
            spoken: list[list[_Spoken]] = [[] for _ in clients]
            for place in range(rounds):
                salt = secrets.token_hex(8)  # nothing is known of the conversation before
                order = list(enumerate(clients))
                for which, client in order if place % 2 else order[::-1]:
                    prompt = prompts[place % len(prompts)]
                    before = _cpu_seconds(engines[which])
                    one = await _converse(client, prompt, tokens, salt)
                    one.cpu_seconds = _cpu_seconds(engines[which]) - before
                    spoken[which].append(one)
            return spoken


def _cpu_seconds(engine: EngineProcess) -> float:
    """Of the engine and its children so far. What others do on the machine does not count."""
    server = psutil.Process(engine.pid)
    times = [process.cpu_times() for process in (server, *server.children(recursive=True))]
    return sum(t.user + t.system for t in times)


async def _converse(client: EngineClient, prompt: Sequence[int], tokens: int, salt: str) -> _Spoken:
    """Generate `_TURNS` times, each continuing what is there by then."""
    spoken = _Spoken()
    sampling = Sampling(max_new_tokens=tokens, ignore_eos=True)
    for _ in range(_TURNS):
        first: float | None = None
        accept_length = None
        async for chunk in client.generate([*prompt, *spoken.ids], sampling, salt=salt):
            now = time.perf_counter()
            if chunk.new_ids and first is None:
                first, since = now, len(chunk.new_ids)
                started = len(spoken.ids)
            spoken.ids += chunk.new_ids
            accept_length = chunk.accept_length or accept_length
        assert first is not None, "the engine generated nothing"
        spoken.seconds += now - first
        spoken.counted += len(spoken.ids) - started - since
        if accept_length is not None:
            spoken.accept_lengths.append(accept_length)
    return spoken
