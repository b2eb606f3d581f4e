"""SHA-256 of large files, remembered for as long as they stay what they are.

A checkpoint of 60 GB takes a core most of a minute to hash, and must not take that at each start,
nor once per rank: hashes are kept in `$XDG_CACHE_HOME/torpor/sha256` (by default under `~/.cache`).
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from io import FileIO
from pathlib import Path

logger = logging.getLogger(__name__)

_LARGE = 64 << 20  # bytes: what is smaller is read in no time
_THREADS = 16  # hashing lets go of the interpreter
_HASH = re.compile(rb"[0-9a-f]{64}")  # else a write was cut short, or a disk lost it
_MOST_READ = 65  # bytes: one more than a hash has


def sha256_of(paths: Sequence[Path]) -> list[str]:
    """In hexadecimal, of each file's whole content.

    Of at least 64 MiB it is remembered. A file is known by its device, inode, size and times (the
    inode's own included, which no tool sets back). Ranks that start together hash each file once.
    Where nothing can be kept a warning is logged, and all is read each time.
    """
    if not paths:
        return []
    with ThreadPoolExecutor(min(_THREADS, len(paths))) as threads:
        return list(threads.map(_hash_of, paths))


def _hash_of(path: Path) -> str:
    if path.stat().st_size < _LARGE:
        return _sha256(path)
    try:
        file = _locked(_folder() / _identity(path))
    except (OSError, RuntimeError) as error:  # the latter where there is no home
        logger.warning("the hash of %s is not kept, and taken at each start: %s", path, error)
        return _sha256(path)
    with file:
        if _HASH.fullmatch(kept := file.read(_MOST_READ)):
            return kept.decode()
        hashed = _sha256(path)
        try:
            file.truncate(0)
            file.write(hashed.encode())
        except OSError as error:
            logger.warning("the hash of %s could not be kept: %s", path, error)
        return hashed


def _locked(place: Path) -> FileIO:
    """The file at `place`, made if it is not there, once nobody else has it. Raises OSError."""
    place.parent.mkdir(parents=True, exist_ok=True)
    file = place.open("a+b", buffering=0)  # else closing it writes again what could not be written
    try:
        fcntl.flock(file, fcntl.LOCK_EX)  # others wait here for the one that hashes
        file.seek(0)
    except OSError:
        file.close()
        raise
    return file


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _identity(path: Path) -> str:
    stat = path.stat()
    facts = (stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)
    return hashlib.sha256(repr((str(path.resolve()), *facts)).encode()).hexdigest()


def _folder() -> Path:
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(cache).expanduser() / "torpor" / "sha256"
