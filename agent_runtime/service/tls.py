"""The certificate that the service shows, looked at before anything is started with it."""

from __future__ import annotations

import ssl
from pathlib import Path

from agent_runtime.errors import SetupError


def require_certificate(certificate: Path, key: Path | None) -> None:
    """Raises SetupError unless a server can show the certificates in PEM with their key, which
    stands in the same file if `key` is None."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    where = str(certificate) if key is None else f"{certificate} with {key}"
    try:
        context.load_cert_chain(certificate, key, password=_refuse)
    except _Encrypted:
        raise SetupError(
            f"the key of {where} is encrypted, and nobody is asked for its password. Decrypt it "
            "into a file that only the service can read."
        ) from None
    except ssl.SSLError as error:
        raise SetupError(
            f"{where} is no certificate with its key, both in PEM: {error.reason or error}."
        ) from error
    except OSError as error:
        raise SetupError(f"{where} cannot be read: {error.strerror}.") from error


class _Encrypted(Exception):
    pass


def _refuse() -> str:
    raise _Encrypted
