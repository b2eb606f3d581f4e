"""Recovery goes on past what it cannot recover."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator

from state_store.errors import StoreError, StoreUnavailable

REPAIR = "`torpor store check --repair` mends it"

logger = logging.getLogger(__name__)


@contextlib.contextmanager
def going_on_without(what: str) -> Iterator[None]:
    """One thing that cannot be recovered keeps no others from it, as long as the store answers."""
    try:
        yield
    except StoreUnavailable:
        raise
    except (StoreError, UnicodeDecodeError) as error:
        logger.error("recovery goes on without %s: %s; %s", what, error, REPAIR)
