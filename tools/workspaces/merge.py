"""What two branches made of the same files, put together."""

from __future__ import annotations

from tools.errors import WorkspacesDiffer
from tools.workspaces.manifest import File, Folder, Link, Manifest

_MOST_NAMED = 10


def merged(base: Manifest, ours: Manifest, theirs: Manifest) -> Manifest:
    """The files of `ours`, with what `theirs` changed since `base`.

    Raises WorkspacesDiffer for what both changed in different ways: contents are not mixed.
    """
    before, left, right = (_by_path(one) for one in (base, ours, theirs))
    found: dict[str, File | Folder | Link] = {}
    differ = []
    for path in sorted({*left, *right}):
        was, mine, other = before.get(path), left.get(path), right.get(path)
        if mine not in (was, other) and other != was:
            differ.append(path)
        kept = other if mine == was else mine
        if kept is not None:
            found[path] = kept
    differ += [path for path in found if not _has_folders(path, found)]
    if differ:
        named = ", ".join(sorted(differ)[:_MOST_NAMED])
        raise WorkspacesDiffer(
            f"both branches changed {len(differ)} files in different ways ({named}); nothing was "
            "changed. Make them alike in one of the branches, and merge again.",
            sorted(differ),
        )
    return Manifest(entries=tuple(found[path] for path in sorted(found)))


def _by_path(manifest: Manifest) -> dict[str, File | Folder | Link]:
    return {entry.path: entry for entry in manifest.entries}


def _has_folders(path: str, found: dict[str, File | Folder | Link]) -> bool:
    """Not if one branch removed the folder, or put something else there."""
    above, _, _ = path.rpartition("/")
    return not above or isinstance(found.get(above), Folder)
