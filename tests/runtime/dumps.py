"""Raw dumps of everything that is stored, to be searched."""

from __future__ import annotations

from pathlib import Path

from redis.asyncio import Redis


async def dumped(url):
    """All that a Redis holds, names and values of every type, as pairs of bytes."""
    readers = {
        b"string": lambda redis, key: redis.get(key),
        b"hash": lambda redis, key: redis.hgetall(key),
        b"list": lambda redis, key: redis.lrange(key, 0, -1),
        b"set": lambda redis, key: redis.smembers(key),
        b"zset": lambda redis, key: redis.zrange(key, 0, -1),
        b"stream": lambda redis, key: redis.xrange(key),
    }
    found = {}
    async with Redis(unix_socket_path=url.removeprefix("unix://")) as redis:
        async for key in redis.scan_iter(count=1000):
            kind = await redis.type(key)
            if kind != b"none":  # expired meanwhile
                found[key] = b"\0".join(parts(await readers[kind](redis, key)))
    return found


def parts(value):
    if isinstance(value, bytes):
        yield value
    elif isinstance(value, dict):
        yield from parts(list(value.items()))
    elif isinstance(value, list | tuple | set):
        for one in value:
            yield from parts(one)


def files_of(url):
    """Of an archive, by path."""
    files = Path(url.removeprefix("file://")).rglob("*")
    return {str(path).encode(): path.read_bytes() for path in files if path.is_file()}


def holding(dump, *needles):
    """Names of what has any of the needles in its name or value."""
    return sorted(k for k, v in dump.items() if any(one in k or one in v for one in needles))
