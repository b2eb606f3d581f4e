"""Where objects go that nobody has used for a while: a directory or an object store.

    archive = open_archive("file:///var/lib/torpor/archive")

An archived object is its stored value as it stood in Redis, header and checksum and all. While
its cold key in Redis names a generation, the archive has the bytes of all ranks under it:

                     chill (bytes written and read back)
        in Redis  ───────────────────────────────────────>  cold
        keys, pins <─────────────────────────────────────  cold key, pins
                     warm (bytes back in Redis)              │
                            │                                │ unpin (nobody holds it any more)
                            └────────> condemned <───────────┘
                                 generations to be deleted from the archive, then forgotten

Each arrow is one script in the object's slot. What a crash leaves between them is bytes in the
archive that no cold key names; `collect_orphans` finds them once their move is too old to be
finished.
"""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote, urlsplit

from state_store.archive.base import Archive
from state_store.archive.bucket import Bucket
from state_store.archive.directory import Directory
from state_store.archive.reader import ArchiveReader
from state_store.errors import ArchiveRefused

__all__ = ["Archive", "ArchiveReader", "open_archive"]

_CLOUDS = ("s3", "gs", "az")


def open_archive(url: str, *, timeout: float = 60.0) -> Archive:
    """The archive at file:///path, s3://bucket/path, gs://bucket/path or
    az://account/container/path. Raises ArchiveRefused for any other URL.

    timeout: seconds that a request to a bucket may take, and after which none is repeated. Nothing
    ends what waits for a file system: mount one that may hang, such as NFS, so that it gives up.
    """
    split = urlsplit(url)
    if split.scheme == "file" and split.path and not split.netloc:
        return Directory(Path(unquote(split.path)))
    if split.scheme in _CLOUDS and split.netloc:
        return Bucket(url, timeout=timeout)
    raise ArchiveRefused(
        f"{split.scheme}://{split.netloc.rpartition('@')[2]}{split.path} is not an archive's URL; "
        "use file:///path, s3://bucket/path, gs://bucket/path or az://account/container/path."
    )
