"""Which addresses may be called at somebody else's wish: a webhook's, an input image's. Pure.

A client chooses the URL, so without this check it could make a gateway call anything that a gateway can reach: other
pods, the node, the cloud's metadata service. https://owasp.org/www-community/attacks/Server_Side_Request_Forgery
"""

from collections.abc import Iterator, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

# https://www.rfc-editor.org/rfc/rfc6052 and rfc8215: IPv6 addresses that a gateway on the way turns into IPv4.
NAT64_NETWORKS: Final = (IPv6Network("64:ff9b::/96"), IPv6Network("64:ff9b:1::/48"))
IPV4_COMPATIBLE: Final = IPv6Network("::/96")  # deprecated, RFC 4291

# Public by their numbers, private by their use.
REFUSED_NETWORKS: Final = (
    ip_network("168.63.129.16/32"),  # Azure's platform endpoint
    ip_network("192.0.0.0/24"),  # Oracle's metadata, and other protocols' own; Python 3.11 takes it for public
    ip_network("fec0::/10"),  # site-local, deprecated
)


def parse_address(text: str) -> Address:
    """The address that a resolver gave, without an IPv6 zone. Raises ValueError if it is none."""
    return ip_address(text.partition("%")[0])


def is_allowed(address: Address, allowed_networks: Sequence[Network]) -> bool:
    """Whether it may be called: a public unicast address, or one inside ``allowed_networks``.

    IPv4 addresses inside IPv6 ones are judged as what they lead to.
    """
    return all(_is_allowed(inner, allowed_networks) for inner in _unwrap(address))


def _is_allowed(address: Address, allowed_networks: Sequence[Network]) -> bool:
    if any(address in network for network in allowed_networks):
        return True
    if any(address in network for network in REFUSED_NETWORKS):
        return False
    return address.is_global and not address.is_multicast and not address.is_unspecified and not address.is_reserved


def _unwrap(address: Address) -> Iterator[Address]:
    """What the address leads to: itself, or the IPv4 addresses inside it."""
    if isinstance(address, IPv4Address):
        yield address
    elif address.ipv4_mapped is not None:
        yield address.ipv4_mapped
    elif any(address in network for network in (*NAT64_NETWORKS, IPV4_COMPATIBLE)) and int(address) > 1:
        yield IPv4Address(int(address) & 0xFFFF_FFFF)
    elif address.sixtofour is not None:
        yield address.sixtofour
    elif address.teredo is not None:
        yield from address.teredo
    else:
        yield address
