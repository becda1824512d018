"""The transport connects to what it has checked, whatever the name server says next."""

import ssl
from collections.abc import Sequence
from ipaddress import ip_network
from pathlib import Path

import httpcore2
import pytest
from easel_server.outbound.guarded_transport import GuardedTransport, RefusedAddressError
from easel_server.outbound.ssrf import Address, parse_address
from easel_server.webhooks.deliverer import build_client

from tests.support.http_receiver import HttpReceiver

LOOPBACK = (ip_network("127.0.0.1/32"),)


class FakeResolver:
    """Answers each question with the next list of addresses; the last one stays."""

    def __init__(self, *answers: Sequence[str]) -> None:
        self._answers = list(answers)
        self.questions: list[str] = []

    async def __call__(self, host: str, port: int) -> Sequence[Address]:
        self.questions.append(host)
        del port
        answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        return [parse_address(text) for text in answer]


async def post(transport: GuardedTransport, url: str) -> int:
    async with build_client(transport) as client, client.stream("POST", url, content=b"{}") as response:
        return response.status_code


async def test_a_name_that_leads_inside_is_refused_and_nothing_is_sent() -> None:
    async with HttpReceiver() as receiver:
        with pytest.raises(RefusedAddressError, match=r"evil\.example resolves to 127\.0\.0\.1"):
            await post(GuardedTransport(resolve=FakeResolver(["127.0.0.1"])), f"http://evil.example:{receiver.port}/")
        assert receiver.received == []


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "2130706433", "0x7f.1", "[::1]", "[::ffff:127.0.0.1]"])
async def test_literal_loopback_in_any_spelling_is_refused(host: str) -> None:
    async with HttpReceiver() as receiver:
        with pytest.raises(RefusedAddressError):
            await post(GuardedTransport(), f"http://{host}:{receiver.port}/")
        assert receiver.received == []


async def test_an_answer_that_changes_after_the_check_gains_nothing() -> None:
    """The name is asked for once a connection, so there is no second answer to be fooled by."""
    async with HttpReceiver() as receiver:
        url = f"http://rebinding.example:{receiver.port}/"
        # 127.0.0.1 stands for the allowed address; 127.0.0.2 is one that isn't, and the second answer.
        resolver = FakeResolver(["127.0.0.1"], ["127.0.0.2"])
        transport = GuardedTransport(LOOPBACK, resolver)
        async with build_client(transport) as client:
            async with client.stream("POST", url, content=b"{}") as response:
                assert response.status_code == 200
            assert resolver.questions == ["rebinding.example"]
            with pytest.raises(RefusedAddressError, match=r"127\.0\.0\.2"):
                async with client.stream("POST", url, content=b"{}"):
                    pass
        assert len(receiver.received) == 1


async def test_only_the_allowed_ones_of_several_addresses_are_connected_to() -> None:
    async with HttpReceiver() as receiver:
        resolver = FakeResolver(["10.0.0.1", "127.0.0.1"])
        assert await post(GuardedTransport(LOOPBACK, resolver), f"http://mixed.example:{receiver.port}/hook?a=b") == 200
        assert receiver.received[0].request_line == "POST /hook?a=b HTTP/1.1"
        assert receiver.received[0].headers["host"] == f"mixed.example:{receiver.port}"


async def test_redirects_are_not_followed() -> None:
    async with HttpReceiver() as target:
        elsewhere = f"http://127.0.0.1:{target.port}/inside"
        async with HttpReceiver(lambda _: f"302 Found\r\nLocation: {elsewhere}") as receiver:
            transport = GuardedTransport(LOOPBACK)
            assert await post(transport, f"http://127.0.0.1:{receiver.port}/") == 302
        assert target.received == []


async def test_a_name_without_addresses_is_a_failed_connection() -> None:
    async def resolve(host: str, port: int) -> Sequence[Address]:
        raise OSError("no such host")

    with pytest.raises(httpcore2.ConnectError, match=r"gone\.example can't be resolved"):
        await post(GuardedTransport(resolve=resolve), "http://gone.example/")


async def test_tls_checks_the_name_not_the_address(certificate: tuple[Path, Path]) -> None:
    serving = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    serving.load_cert_chain(*certificate)
    trusting = ssl.create_default_context(cafile=certificate[0])
    async with HttpReceiver(ssl_context=serving) as receiver:

        def transport() -> GuardedTransport:
            return GuardedTransport(LOOPBACK, FakeResolver(["127.0.0.1"]), ssl_context=trusting)

        assert await post(transport(), f"https://receiver.example:{receiver.port}/") == 200
        with pytest.raises(httpcore2.ConnectError, match="Hostname mismatch"):
            await post(transport(), f"https://other.example:{receiver.port}/")
