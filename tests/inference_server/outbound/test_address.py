"""A URL that is accepted when a job is submitted can be called; any other is refused then, by the field's name."""

import ssl
from collections.abc import Sequence
from contextlib import aclosing

import httpcore2
import httpx2
import pytest
from easel_server.outbound.address import find_address_fault
from easel_server.outbound.guarded_transport import GuardedTransport, RefusedAddressError
from easel_server.outbound.resolver import Resolver
from easel_server.outbound.ssrf import Address, parse_address
from easel_server.webhooks.deliverer import build_client
from hypothesis import given, settings
from hypothesis import strategies as st

GOOD = (
    "https://example.com/hook?a=b#c",
    "http://user:password@example.com:8080/",
    "http://192.0.2.1",
    "http://[2001:db8::1]:80/x",
    "http://xn--mgbh0fb.xn--kgbechtv/",
    "http://under_score.svc.cluster.local./%20",
)
BAD = (
    "",
    "example.com/hook",
    "//example.com/",
    "ftp://example.com/",
    "http://",
    "http:///path",
    "http://a..b/",
    "http://.",
    "http://*/",
    "http://%zz/",
    "http://a%00b/",
    "http://h:0/",
    "http://h:65536/",
    "http://h:x/",
    "http://[::1/",
    "http://[::g]/",
    "http://[v1.x]/",
    f"http://{'a' * 64}.example/",
    f"http://{'a.' * 200}example/",
    "https://xn--/",
    "http://exa mple/",
    "http://ex\u00e4mple.com/",
    "http://example.com/\n",
)


@pytest.mark.parametrize("url", GOOD)
def test_a_url_that_can_be_called_is_accepted(url: str) -> None:
    assert find_address_fault(url) is None


@pytest.mark.parametrize("url", BAD)
def test_a_url_that_cannot_be_called_is_refused_in_words(url: str) -> None:
    assert find_address_fault(url)


async def nowhere(host: str, port: int) -> Sequence[Address]:
    del host, port
    return [parse_address("10.0.0.1")]


WORDS = r"http:// https:// xn-- xn--a [ ] ::1 : @ / ? # % %00 .. . - _ example .com 0x7f.1 1e9 65536 * \ %25eth0"
PIECES = st.sampled_from([*WORDS.split(" "), "a" * 70, "\u0665", "\ud800", "\x7f", " "])
URLS = st.one_of(
    st.lists(PIECES, max_size=8).map("".join),
    st.lists(PIECES, max_size=8).map(lambda pieces: "https://" + "".join(pieces)),
    st.text(max_size=30).map(lambda text: "http://" + text),
)


TLS = ssl.create_default_context()  # once: to make one takes longer than all the rest


@settings(max_examples=1000)
@given(url=URLS)
async def test_whatever_is_accepted_is_delivered_or_refused_for_where_it_leads(url: str) -> None:
    if find_address_fault(url) is not None:
        return
    async with build_client(GuardedTransport(resolve=nowhere, ssl_context=TLS)) as client:
        with pytest.raises(RefusedAddressError):
            async with client.stream("POST", url, content=b"{}"):
                pass


@pytest.mark.parametrize(("host", "address"), [("127.1", "127.0.0.1"), ("0x7f000001", "127.0.0.1"), ("::1", "::1")])
async def test_an_address_in_any_spelling_is_itself_and_nobody_is_asked(host: str, address: str) -> None:
    async with aclosing(Resolver(nameservers=["127.0.0.1"], udp_port=1)) as resolver:
        assert list(await resolver(host, 80)) == [parse_address(address)]


async def test_the_hosts_file_is_read() -> None:
    async with aclosing(Resolver()) as resolver:
        assert parse_address("127.0.0.1") in await resolver("localhost", 80)


async def test_a_name_server_that_is_away_is_a_failed_connection() -> None:
    away = Resolver(nameservers=["127.0.0.1"], udp_port=1, timeout=0.1)
    async with aclosing(away) as resolver, build_client(GuardedTransport(resolve=resolver)) as client:
        with pytest.raises(httpcore2.ConnectError, match="can't be resolved"):
            async with client.stream("POST", "http://away.example/", content=b"{}"):
                pass


def test_the_parser_is_the_clients_own() -> None:
    assert httpx2.URL(GOOD[0]).host == "example.com"
