"""Every patch is in place in a real process, and a server that lacks one says so and ends."""

import os
import subprocess
import sys
import textwrap

import pytest

from engine.cpu import patches

from .server import ARGUMENTS, ENVIRONMENT, MODEL, REPOSITORY

PREAMBLE = """
import os, pkgutil, sys
from engine import serve  # installs the import stand-ins
"""
SECONDS = 180


def python(script, *arguments, path=None, **environment):
    """Run `script` as a main module; from a file if `path` is given, so that children find it."""
    source = PREAMBLE + textwrap.dedent(script)
    command = [sys.executable, "-c", source, *arguments]
    if path is not None:
        path.write_text(source)
        command = [sys.executable, str(path), *arguments]
    return subprocess.run(
        command,
        cwd=REPOSITORY,
        env={**os.environ, **ENVIRONMENT, **environment},
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )


def test_every_target_is_patched_and_undoing_any_one_is_noticed():
    done = python(
        """
        from sglang.srt.plugins import load_plugins
        from engine.errors import PatchError
        from engine.patch import Kind, in_place
        from engine.cpu.patches import ALL, verify_patches
        from engine.plugin import register

        assert not any(in_place(p) for p in ALL), "patched before the plugin ran"
        load_plugins()
        verify_patches()
        register()  # a second time changes nothing
        for patch in ALL:
            if patch.kind is Kind.OPERATOR:
                continue  # torch cannot forget a kernel while its library is alive
            path, _, name = patch.target.rpartition(".")
            owner = pkgutil.resolve_name(path)
            ours = vars(owner)[name]
            setattr(owner, name, getattr(ours, "__wrapped__", None))
            try:
                verify_patches()
            except PatchError as error:
                assert patch.target in str(error), error
                assert patch.reason in str(error), error
            else:
                raise AssertionError(patch.target)
            setattr(owner, name, ours)
        verify_patches()
        print("checked", len(ALL))
        """
    )
    assert done.returncode == 0, done.stderr
    assert f"checked {len(patches.ALL)}" in done.stdout


@pytest.mark.slow
def test_nothing_of_the_cpu_engine_is_applied_on_a_gpu_machine():
    done = python(
        """
        assert not any("engine.cpu" in type(finder).__module__ for finder in sys.meta_path)
        from engine.cpu import imports
        imports.install()  # this machine has no triton; a GPU machine has the real one
        from engine.plugin import register
        register()
        assert "engine.cpu.patches" not in sys.modules
        from sglang.srt.plugins.hook_registry import HookRegistry
        from engine.cpu.patches import ALL
        assert not {patch.target for patch in ALL} & set(HookRegistry._hooks)
        """,
        SGLANG_USE_CPU_ENGINE="0",
    )
    assert done.returncode == 0, done.stderr


BREAK_ONE = """
from engine.cpu import patches, processes
from engine.patch import Kind, Patch

patches.ALL = tuple(patch for patch in patches.ALL if patch not in processes.PATCHES)
if __name__ == {where!r}:
    moved = "sglang.srt.managers.scheduler.Scheduler.moved_away"
    patches.ALL = (*patches.ALL, Patch(moved, Kind.REPLACE, len, "the reason"))
if __name__ == "__main__":
    serve.main(sys.argv[1:])
"""


@pytest.mark.slow
@pytest.mark.parametrize("where", ["__main__", "__mp_main__"], ids=["main", "scheduler"])
def test_a_server_with_a_moved_target_ends_and_names_it(tmp_path, where):
    """Spawned processes, as there are on a GPU, apply patches themselves. `__mp_main__` is the main
    module in them: there only the children are broken."""
    script = BREAK_ONE.format(where=where)
    arguments = ["--model-path", str(MODEL), *ARGUMENTS]
    done = python(script, *arguments, path=tmp_path / "broken.py")
    assert done.returncode == 1
    assert "torpor: PatchError: 1 of" in done.stderr
    assert "Scheduler.moved_away (replace): the reason" in done.stderr


@pytest.mark.slow
def test_a_server_whose_plugin_was_left_out_ends_with_one_line():
    done = python("serve.main(['--model-path', 'any'])", SGLANG_PLUGINS="another")
    assert done.returncode == 1
    assert "SGLang did not run the plugin 'torpor'" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
