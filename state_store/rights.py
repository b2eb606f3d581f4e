"""The rights that a user of a server needs for Torpor, each with a harmless command that tries it.

docs/deploy-store.md and compose.yaml give them; `torpor doctor` tries them.
"""

from __future__ import annotations

_DATA = (
    "SET key 0 PX 10000",  # first, so that the others find a string, and most of them do nothing
    "BLPOP key 0.01",
    "EVAL return 0",
    "EVALSHA 0000000000000000000000000000000000000000 0",
    "EXISTS key",
    "EXPIRE key 10",
    "GET key",
    "GETRANGE key 0 0",
    "HDEL key a",
    "HEXISTS key a",
    "HGET key a",
    "HGETALL key",
    "HINCRBY key a 0",
    "HKEYS key",
    "HMGET key a",
    "HSCAN key 0",
    "HSET key a 0",
    "HSETNX key a 0",
    "HSTRLEN key a",
    "HVALS key",
    "INCR key",
    "INFO server",
    "LRANGE key 0 0",
    "MGET key",
    "OBJECT IDLETIME key",
    "PERSIST key",
    "PEXPIRE key 10000",
    "PTTL key",
    "RPOP key",
    "RPUSH key a",
    "SADD key a",
    "SCAN 0 MATCH key COUNT 1",
    "SCARD key",
    "SISMEMBER key a",
    "SMEMBERS key",
    "SRANDMEMBER key",
    "SREM key a",
    "STRLEN key",
    "TIME",
    "TTL key",
    "XADD key * a 0",
    "XRANGE key - +",
    "XREVRANGE key + -",
    "ZADD key 0 a",
    "ZCARD key",
    "ZMSCORE key a",
    "ZRANGE key 0 0",
    "ZRANGEBYLEX key - +",
    "ZRANGEBYSCORE key 0 0",
    "ZREM key a",
    "ZREMRANGEBYSCORE key 0 0",
    "ZREVRANGE key 0 0",
    "ZREVRANGEBYLEX key + -",
    "ZREVRANGEBYSCORE key 0 0",
    "ZSCAN key 0",
    "ZSCORE key a",
    "DEL key",
    "UNLINK key",
)
_CONNECTION = ("PING", "CLIENT NO-TOUCH OFF", "WAIT 0 1", "WAITAOF 0 0 1")
_TOPOLOGIES = {
    "": (),
    "sentinel": ("ROLE",),
    "cluster": ("CLUSTER SLOTS", "CLUSTER NODES", "COMMAND"),
}
_PARTS = ("OBJECT", "CLIENT", "CLUSTER")  # of these, a right is to one subcommand


def trials(prefix: str, topology: str) -> dict[str, list[str]]:
    """Commands, as words, by the right that each needs, as an ACL writes it: `object|idletime`.

    They are to be sent in this order. Of their errors only NOPERM says anything: on a cluster the
    key may be another member's. They change one key below `prefix`, which is gone in the end.

    topology: what the URL's scheme says after its `+`: `sentinel`, `cluster` or nothing
    """
    found = {}
    for line in (*_DATA, *_CONNECTION, *_TOPOLOGIES[topology]):
        words = line.split(" ")
        right = "|".join(words[: 2 if words[0] in _PARTS else 1]).lower()
        found[right] = [f"{prefix}:doctor:rights" if word == "key" else word for word in words]
    return found
