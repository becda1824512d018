"""Which addresses webhooks may go to."""

from ipaddress import ip_network

import pytest
from easel_server.outbound.ssrf import is_allowed, parse_address

PUBLIC = ["93.184.216.34", "8.8.8.8", "2606:4700:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808", "2002:808:808::1"]

REFUSED = {
    "loopback": "127.0.0.1",
    "all of loopback": "127.9.9.9",
    "loopback, IPv6": "::1",
    "private 10/8": "10.0.0.1",
    "private 172.16/12": "172.31.255.255",
    "private 192.168/16": "192.168.1.1",
    "unique local": "fd00:ec2::254",
    "link-local and metadata": "169.254.169.254",
    "link-local, IPv6": "fe80::1",
    "link-local with a zone": "fe80::1%eth0",
    "carrier-grade NAT": "100.100.100.200",
    "Azure's platform": "168.63.129.16",
    "Oracle's metadata": "192.0.0.192",
    "unspecified": "0.0.0.0",
    "unspecified, IPv6": "::",
    "multicast": "224.0.0.1",
    "multicast, globally scoped": "233.1.2.3",
    "multicast, IPv6": "ff02::1",
    "broadcast": "255.255.255.255",
    "reserved": "240.0.0.1",
    "documentation": "192.0.2.1",
    "site-local": "fec0::1",
    "mapped loopback": "::ffff:127.0.0.1",
    "mapped metadata": "::ffff:a9fe:a9fe",
    "compatible loopback": "::7f00:1",
    "NAT64 metadata": "64:ff9b::a9fe:a9fe",
    "local NAT64 private": "64:ff9b:1::a00:1",
    "6to4 private": "2002:a00:1::1",
}


@pytest.mark.parametrize("address", PUBLIC)
def test_public_addresses_are_allowed(address: str) -> None:
    assert is_allowed(parse_address(address), ())


@pytest.mark.parametrize("address", REFUSED.values(), ids=REFUSED.keys())
def test_addresses_inside_are_refused(address: str) -> None:
    assert not is_allowed(parse_address(address), ())


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("10.1.2.3", True),
        ("::ffff:10.1.2.3", True),
        ("64:ff9b::a01:203", True),
        ("10.2.0.1", False),
        ("fd00:1::5", True),
        ("127.0.0.1", False),
        ("8.8.8.8", True),
    ],
)
def test_listed_networks_are_allowed_beside_the_public_ones(address: str, *, expected: bool) -> None:
    networks = (ip_network("10.1.0.0/16"), ip_network("fd00:1::/32"))
    assert is_allowed(parse_address(address), networks) is expected
