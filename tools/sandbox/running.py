"""Runs one command in a sandbox of its own, and tells what became of it."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import functools
import json
import logging
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tools.errors import FolderMissing, SandboxUnavailable
from tools.sandbox import hints, seccomp
from tools.sandbox.cgroups import Group
from tools.sandbox.command import Descriptors, command_line, identity_files, options
from tools.sandbox.explain import explain
from tools.sandbox.limits import Limits, size
from tools.sandbox.watching import EVERY, Watch
from tools.workspaces.owner import owner

logger = logging.getLogger(__name__)

_CHUNK = 65_536


@dataclass(frozen=True)
class Ran:
    """exit_code: as a shell has it: 128 + n for a command that signal n ended
    output:    what it printed, errors among it, up to the limit; not UTF-8 is shown as �
    seconds:   from start to end
    ended:     the limit that ended it, as a sentence; empty if it ended by itself
    hints:     limits that its own error messages speak of
    held_by:   what held all its processes together to their memory: control groups, or a watch
               and why there were no control groups
    """

    exit_code: int
    output: str
    seconds: float
    ended: str = ""
    hints: tuple[str, ...] = ()
    held_by: str = ""

    def text(self) -> str:
        """All of it, for a model to read."""
        lines = [self.output.rstrip("\n")] if self.output.strip() else []
        if self.ended:
            lines.append(f"[ended: {self.ended}]")
        elif self.exit_code:
            lines.append(f"[exit code {self.exit_code}]")
        lines += [f"[{hint}]" for hint in self.hints]
        return "\n".join(lines) or "[no output]"


@dataclass(frozen=True)
class Sandbox:
    """limits:  for every command, unless one is given its own
    network: the whole network of this machine, with all that listens on its loopback; off unless
             that is really meant
    strict:  refuse to run where control groups don't hold memory and processes, see `Ran.held_by`
    """

    limits: Limits = field(default_factory=Limits)
    network: bool = False
    strict: bool = False

    async def run(
        self,
        command: Sequence[str],
        workspace: Path,
        *,
        files: Mapping[str, bytes] | None = None,
        limits: Limits | None = None,
    ) -> Ran:
        """Run `command` in `workspace`, which is all it can change.

        files: path inside -> content of read-only files to put there, such as /run/main.py
        When this is cancelled, every process of the command ends. Raises FolderMissing,
        SandboxUnavailable if no sandbox can be made here; then nothing was run.
        """
        limits = limits or self.limits
        workspace = _checked(workspace)
        started = time.monotonic()
        async with contextlib.AsyncExitStack() as stack:
            group, held_by = self._group(limits)
            if group is not None:
                stack.push_async_callback(asyncio.to_thread, group.close)
            status, status_in = os.pipe()
            contents = identity_files() | dict(files or {})
            opened = Descriptors(
                seccomp=_readable(seccomp.program(), stack),
                status=status_in,
                files={path: _readable(content, stack) for path, content in contents.items()},
            )
            told = await _reader(status, stack)
            try:
                made = options(workspace, limits, network=self.network, open_files=opened)
                read = _readable(made, stack)
                line = command_line(command, workspace, limits, options=read)
                process = await asyncio.create_subprocess_exec(
                    *(line if group is None else group.entered(line)),
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=asyncio.subprocess.PIPE,
                    stderr=asyncio.subprocess.STDOUT,
                    pass_fds=(read, opened.seccomp, opened.status, *opened.files.values()),
                    cwd="/",
                    env={"PATH": os.environ.get("PATH", os.defpath)},  # it is seen inside
                )
            finally:
                os.close(status_in)
            try:
                ran = await _follow(process, told, workspace, limits, group, started, self.network)
                return dataclasses.replace(ran, held_by=held_by)
            finally:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()  # --die-with-parent takes everything inside along
                await process.wait()

    def _group(self, limits: Limits) -> tuple[Group | None, str]:
        """One for a command, and what holds it in words. Raises SandboxUnavailable if there is none
        and that will not do."""
        try:
            group = Group(limits)
        except SandboxUnavailable as error:
            if self.strict or limits.cpus is not None:
                needed = "control groups are needed" if self.strict else "cpus is limited"
                raise SandboxUnavailable(f"{needed}, and {error}; nothing was run.") from error
            held_by = f"a watch every {EVERY * 1000:.0f} ms, because {error}"
            _tell_once(held_by)
            return None, held_by
        return group, f"control groups (cgroup v{group.version})"


@functools.cache
def _tell_once(held_by: str) -> None:
    logger.warning("the memory of sandboxed commands is held by %s", held_by)


def _checked(workspace: Path) -> Path:
    workspace = workspace.resolve()
    if not workspace.is_dir():
        raise FolderMissing(f"the workspace {workspace} is not a folder; nothing was run.")
    if workspace.stat().st_uid != owner():
        raise SandboxUnavailable(
            f"the workspace {workspace} belongs to user {workspace.stat().st_uid}, but commands "
            f"run as user {owner()} and could not write there; nothing was run. Make workspaces "
            "with tools.workspaces.Workspaces, or change the owner."
        )
    return workspace


def _readable(content: bytes, stack: contextlib.AsyncExitStack) -> int:
    """A descriptor to read `content` from, open until `stack` is left."""
    number = os.memfd_create("sandbox")
    stack.callback(os.close, number)
    with os.fdopen(os.dup(number), "wb") as file:
        file.write(content)
    os.lseek(number, 0, os.SEEK_SET)
    return number


async def _reader(number: int, stack: contextlib.AsyncExitStack) -> asyncio.StreamReader:
    reader = asyncio.StreamReader()
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(number, "rb", buffering=0)
    )
    stack.callback(transport.close)
    return reader


async def _follow(
    process: asyncio.subprocess.Process,
    told: asyncio.StreamReader,
    workspace: Path,
    limits: Limits,
    group: Group | None,
    started: float,
    network: bool,
) -> Ran:
    status = await _status(told, "child-pid")
    watch = None
    if status is not None:
        with contextlib.suppress(ProcessLookupError):  # over already
            watch = Watch(status, workspace, limits, group)
            watch.start()
    try:
        output = await _printed(process, limits, watch)
        exit_code = await _status(told, "exit-code")
        await process.wait()
    finally:
        if watch is not None:
            await asyncio.to_thread(watch.close)
    text = output.decode(errors="replace")
    ended = watch.reached if watch is not None else ""
    ended = ended or (group.reached() if group is not None else "")
    if exit_code is None and not ended:
        raise SandboxUnavailable(
            f"no sandbox could be made here, nothing was run: {text.strip()}: {explain(text)}"
        )
    code = 137 if exit_code is None else exit_code
    return Ran(
        code,
        text,
        time.monotonic() - started,
        ended or hints.signal(code, limits),
        () if ended else hints.errors(text, code, limits, network=network),
    )


async def _printed(
    process: asyncio.subprocess.Process, limits: Limits, watch: Watch | None
) -> bytes:
    assert process.stdout is not None
    kept = bytearray()
    while chunk := await process.stdout.read(_CHUNK):
        room = limits.output_bytes - len(kept)
        kept += chunk[:room]
        if len(chunk) > room and watch is not None:
            watch.end(f"it printed more than {size(limits.output_bytes)}; print less, or to a file")
    return bytes(kept)


async def _status(told: asyncio.StreamReader, key: str) -> int | None:
    """The next message of bubblewrap that has `key`; None if there is none any more."""
    while line := await told.readline():
        message: dict[str, Any] = json.loads(line)
        if key in message:
            return int(message[key])
    return None
