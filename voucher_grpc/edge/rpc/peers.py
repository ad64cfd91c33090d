"""Where a call comes from, as gRPC names it."""

import ipaddress
from functools import lru_cache
from urllib.parse import unquote

# What one customer of a network usually has (RFC 6177): more addresses cost nothing there.
_IPV6_PREFIX_BITS = 64


@lru_cache(maxsize=16_384)
def address_of(peer: str) -> str:
    """The address of a peer as `ipv4:127.0.0.1:5000`, without the port; of IPv6 its /64.

    Anything else, as a Unix socket, is one address.
    """
    kind, _, rest = peer.partition(":")
    host = unquote(rest).rpartition(":")[0].strip("[]").partition("%")[0]
    if kind not in ("ipv4", "ipv6"):
        return kind
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return kind
    if isinstance(address, ipaddress.IPv4Address):
        return str(address)
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ipaddress.ip_network((address, _IPV6_PREFIX_BITS), strict=False))
