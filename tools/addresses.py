"""Which addresses a model may reach: public ones, found out once and then held to."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Awaitable, Callable, Collection

from tools.errors import AddressRefused

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Resolve = Callable[[str, int], Awaitable[list[str]]]

# Azure's metadata service; all others are in ranges that are not public.
_PUBLIC_BUT_REFUSED = {ipaddress.ip_address("168.63.129.16")}
# Not public either; some versions of Python take a part of them for that.
_NOT_PUBLIC = [
    ipaddress.ip_network(name)
    for name in (
        "192.0.0.0/24", "192.88.99.0/24", "64:ff9b:1::/48", "3fff::/20", "5f00::/16",
    )
]  # fmt: skip
# 64:ff9b::/96 holds IPv4 addresses, whatever these are.
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


async def resolve(host: str, port: int) -> list[str]:
    """The addresses that the machine's resolver knows for a host, in its order."""
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


async def checked(
    host: str, port: int, *, resolver: Resolve = resolve, allow_private: Collection[str] = ()
) -> str:
    """One address of `host` that may be reached. Connect to it, and do not resolve again.

    allow_private: addresses that may be reached although they are not public
    Raises AddressRefused if any address of the host is not public, since who gives a name both
    kinds wants to get in, or if there is none.
    """
    try:
        found = await resolver(host, port)
    except (OSError, UnicodeError) as error:
        raise AddressRefused(f"the host {host} is not known ({error}); check its name") from error
    if not found:
        raise AddressRefused(f"the host {host} has no address; check its name")
    for text in found:
        if text not in allow_private and not _public(ipaddress.ip_address(text.split("%")[0])):
            raise AddressRefused(
                f"{host} has the address {text}, which is not on the public internet; only public "
                "hosts can be fetched from"
            )
    return found[0]


def _public(address: Address) -> bool:
    if isinstance(address, ipaddress.IPv6Address):
        inside = address.ipv4_mapped or address.sixtofour
        if inside is None and address.teredo is not None:
            inside = address.teredo[1]
        if inside is None and address in _NAT64:
            inside = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if inside is not None:
            return _public(inside)
        if address.is_site_local:
            return False
    return (
        address.is_global
        and not address.is_multicast
        and not address.is_reserved
        and address not in _PUBLIC_BUT_REFUSED
        and not any(address in network for network in _NOT_PUBLIC)
    )
