"""An archive in an object store: S3 and what speaks its protocol, Google Cloud, Azure.

Through `obstore`, bindings to Rust's `object_store`. Against fsspec, the other well-kept library
for this: its blocking calls are truly blocking and give up the interpreter lock, while fsspec's
run every request through one event loop of Python's; one compiled package reaches all clouds,
where fsspec wants s3fs with aiobotocore, gcsfs and adlfs; buffers go out without a copy, where
fsspec takes `bytes`; and retries, timeouts and bulk deletes are its own. Its `memory://` is left
out: an archive that ends with the process is none.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import Any, cast
from urllib.parse import parse_qsl, urlsplit

import obstore
from obstore.exceptions import (
    BaseError,
    InvalidPathError,
    NotSupportedError,
    PermissionDeniedError,
    UnauthenticatedError,
    UnknownConfigurationKeyError,
)
from obstore.store import from_url

from state_store.archive.base import Archive, StoredFile, pieces_of
from state_store.errors import ArchiveRefused, ArchiveUnavailable
from state_store.resp import Value

_REFUSALS = (
    InvalidPathError,
    NotSupportedError,
    PermissionDeniedError,
    UnauthenticatedError,
    UnknownConfigurationKeyError,
)
_CONNECT = 10.0  # seconds at most to connect
_RETRIES = 5


class Bucket(Archive):
    """Objects in a bucket, below the URL's path.

    Credentials come from where the cloud's own tools look (environment, instance role); other
    settings may stand in the query, by the library's names:
    `s3://bucket/path?endpoint=https://minio.local&region=us-east-1`.
    Raises ArchiveRefused for a URL or setting that the library does not know.
    """

    def __init__(self, url: str, *, timeout: float) -> None:
        """timeout: seconds that a request may take, and seconds after which none is repeated"""
        split = urlsplit(url)
        self.url = f"{split.scheme}://{split.netloc.rpartition('@')[2]}{split.path}"
        settings: dict[str, Any] = dict(parse_qsl(split.query))
        limit = timedelta(seconds=timeout)
        client: dict[str, Any] = {
            "timeout": limit, "connect_timeout": timedelta(seconds=min(timeout, _CONNECT)),
        }  # fmt: skip
        if settings.get("endpoint", "").startswith("http://"):
            client["allow_http"] = True
        try:
            self._store: Any = cast(Any, from_url)(
                f"{split.scheme}://{split.netloc}{split.path}",
                config=settings or None,
                client_options=client,
                retry_config={"max_retries": _RETRIES, "retry_timeout": limit},
            )
        except (BaseError, ValueError) as error:  # its text may quote a setting
            raise ArchiveRefused(
                f"{self.url} cannot be opened: {type(error).__name__}; check the URL, the names "
                "of the settings in its query and the credentials in the environment."
            ) from error

    def put(self, name: str, value: Value) -> None:
        pieces = pieces_of(value)
        with self._guard():  # one buffer a request: several go out as one that is joined
            obstore.put(self._store, name, pieces[0] if len(pieces) == 1 else b"".join(pieces))

    def get_into(self, name: str, value: Value) -> int | None:
        with self._guard():
            try:
                found = obstore.get(self._store, name)
            except FileNotFoundError as error:
                if "NoSuchBucket" in str(error):
                    raise ArchiveUnavailable(f"the bucket of {self.url} is gone.") from error
                return None
            size = int(found.meta["size"])
            pieces = pieces_of(value)
            if size <= sum(map(len, pieces)):
                rest = memoryview(found.buffer())
                for piece in pieces:
                    count = min(len(piece), len(rest))
                    piece[:count] = rest[:count]
                    rest = rest[count:]
            return size

    def delete(self, names: Sequence[str]) -> None:
        if not names:
            return
        with self._guard():
            try:
                obstore.delete(self._store, list(names))
            except FileNotFoundError:  # some clouds mind, and which were removed is unknown
                for name in names:
                    with contextlib.suppress(FileNotFoundError):
                        obstore.delete(self._store, name)

    def list(self, folder: str) -> Iterator[StoredFile]:
        with self._guard():
            for chunk in obstore.list(self._store, prefix=folder):
                for found in chunk:
                    yield StoredFile(found["path"], found["size"])

    @contextlib.contextmanager
    def _guard(self) -> Iterator[None]:
        try:
            yield
        except _REFUSALS as error:
            raise ArchiveRefused(f"the archive at {self.url} refused: {_brief(error)}") from error
        except (BaseError, OSError) as error:
            raise ArchiveUnavailable(
                f"the archive at {self.url} does not answer: {_brief(error)}"
            ) from error


def _brief(error: Exception) -> str:
    """Its first line: the rest repeats the request, with its headers."""
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0][:200]}"
