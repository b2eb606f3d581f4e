"""The store's user that docs/deploy-store.md describes."""

import re
from pathlib import Path

import redis

PAGE = Path(__file__).parents[2] / "docs" / "deploy-store.md"


def limited_url(stage):
    """Of the stage's store, for that user. It is made anew: a store that was restarted meanwhile
    has forgotten it."""
    (line,) = re.findall(r"^ACL SETUSER torpor (.*)$", PAGE.read_text("utf-8"), re.MULTILINE)
    with redis.Redis.from_url(stage.store.url) as admin:
        admin.execute_command("ACL", "SETUSER", "torpor", *line.split(" "))
    return stage.store.url.replace("unix://", "unix://torpor:PASSWORD@")
