"""What is fetched from URLs that others give: from listed hosts at public addresses, within bounds, on real servers."""

import asyncio
import gzip
import hashlib
import resource
import ssl
import zlib
from collections.abc import Sequence
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest
from easel_server.outbound import fetch as fetch_module
from easel_server.outbound.fetch import Fetcher, FetchError, FetchFailure, is_listed
from easel_server.outbound.ssrf import Address, parse_address

from tests.inference_server.outbound.test_guarded_transport import LOOPBACK, FakeResolver
from tests.inference_server.outbound.test_ssrf import REFUSED
from tests.support.web_hosts import answer, redirect, serving, trickle, write_forever

BODY = b"weights or pixels" * 1000


def fetcher(*hosts: str, resolve: Any = None, timeout_seconds: float = 20, networks: Any = LOOPBACK) -> Fetcher:
    resolve = resolve or FakeResolver(["127.0.0.1"])
    return Fetcher(
        hosts or ("images.example",),
        networks,
        timeout_seconds=timeout_seconds,
        setting="gateway.inputs.allowedHosts",
        resolve=resolve,
    )


async def fetch(url: str, *, max_bytes: int = 1 << 20, **options: Any) -> bytes:
    hosts = options.pop("hosts", ())
    async with fetcher(*hosts, **options) as one:
        return await one.fetch(url, max_bytes=max_bytes)


async def fail(url: str, **options: Any) -> FetchError:
    with pytest.raises(FetchError) as caught:
        await fetch(url, **options)
    return caught.value


@pytest.mark.parametrize(
    ("host", "listed", "expected"),
    [
        ("images.example", ["images.example"], True),
        ("IMAGES.example.", ["images.EXAMPLE"], True),
        ("a.images.example", ["images.example"], False),
        ("a.b.images.example", ["*.images.example"], True),
        ("images.example", ["*.images.example"], False),
        ("evilimages.example", ["*.images.example"], False),
        ("images.example.evil", ["images.example", "*.images.example"], False),
        ("anything", ["*"], True),
        ("anything", [], False),
    ],
)
def test_a_host_is_listed_by_name_by_suffix_or_as_any(host: str, listed: list[str], *, expected: bool) -> None:
    assert is_listed(host, listed) is expected


async def test_what_a_listed_host_serves_is_fetched_and_asked_for_unpacked() -> None:
    async with serving(answer(BODY)) as (port, heads):
        assert await fetch(f"http://images.example:{port}/a%20b.png?signature=x#part") == BODY
    assert heads[0].startswith("GET /a%20b.png?signature=x HTTP/1.1\r\n")
    assert "accept-encoding: identity" in heads[0].lower()
    assert f"host: images.example:{port}" in heads[0].lower()


async def test_a_file_is_written_part_by_part_with_its_digest(tmp_path: Path) -> None:
    async with serving(answer(BODY)) as (port, _), fetcher() as one:
        fetched = await one.fetch_to_file(f"http://images.example:{port}/", tmp_path / "file", max_bytes=len(BODY))
    assert (tmp_path / "file").read_bytes() == BODY
    assert (fetched.sha256, fetched.size_bytes) == (hashlib.sha256(BODY).hexdigest(), len(BODY))


async def test_nothing_is_left_of_a_file_that_could_not_be_fetched_whole(tmp_path: Path) -> None:
    async with serving(answer(BODY)) as (port, _), fetcher() as one:
        with pytest.raises(FetchError):
            await one.fetch_to_file(f"http://images.example:{port}/", tmp_path / "file", max_bytes=len(BODY) - 1)
    assert not (tmp_path / "file").exists()


async def test_an_error_of_the_disk_is_not_taken_for_one_of_the_network(tmp_path: Path) -> None:
    async with serving(answer(BODY)) as (port, _), fetcher() as one:
        with pytest.raises(IsADirectoryError):
            await one.fetch_to_file(f"http://images.example:{port}/", tmp_path, max_bytes=len(BODY))
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(BODY) // 2, before[1]))  # stands for a full disk
        try:
            with pytest.raises(OSError, match="File too large"):
                await one.fetch_to_file(f"http://images.example:{port}/", tmp_path / "file", max_bytes=len(BODY))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)


async def test_a_host_that_is_not_listed_is_refused_with_the_list_before_its_name_is_asked_for() -> None:
    resolve = FakeResolver(["127.0.0.1"])
    error = await fail("https://evil.example/x.png", hosts=("images.example", "*.cdn.example"), resolve=resolve)
    assert error.failure is FetchFailure.REFUSED
    assert "evil.example" in str(error)
    assert "images.example, *.cdn.example" in str(error)
    assert "gateway.inputs.allowedHosts" in str(error)
    assert resolve.questions == []


@pytest.mark.parametrize("url", ["ftp://images.example/", "file:///etc/passwd", "http://", "gopher://x", "/etc/passwd"])
async def test_what_is_no_web_address_is_refused(url: str) -> None:
    assert (await fail(url, hosts=("*",))).failure is FetchFailure.REFUSED


async def test_a_password_in_the_url_is_refused_and_not_repeated() -> None:
    error = await fail("https://me:hunter2@images.example/")
    assert error.failure is FetchFailure.REFUSED
    assert "hunter2" not in str(error)


@pytest.mark.parametrize("address", REFUSED.values(), ids=REFUSED.keys())
async def test_a_listed_name_that_leads_inside_is_not_called_and_its_address_not_named(address: str) -> None:
    error = await fail("http://images.example/", resolve=FakeResolver([address]), networks=())
    assert error.failure is FetchFailure.UNREACHABLE
    assert address.partition("%")[0] not in str(error)


@pytest.mark.parametrize("host", ["127.0.0.1", "2130706433", "0x7f.1", "[::1]", "[::ffff:127.0.0.1]", "localhost"])
async def test_where_any_host_is_allowed_the_inside_is_still_not(host: str) -> None:
    async with serving(answer(BODY)) as (port, heads):
        one = Fetcher(("*",), timeout_seconds=5, setting="x")
        async with one:
            with pytest.raises(FetchError) as caught:
                await one.fetch(f"http://{host}:{port}/", max_bytes=1 << 20)
        assert caught.value.failure is FetchFailure.UNREACHABLE
        assert heads == []


async def test_whether_a_name_exists_inside_cannot_be_learned() -> None:
    """No such name, a private address, and nothing that listens: one message but for the name."""

    async def unknown(host: str, port: int) -> Sequence[Address]:
        raise OSError("no such host")

    async with serving(answer(BODY)) as (closed_port, _):
        pass
    url = f"http://redis.internal.example:{closed_port}/"
    cases = [(unknown, LOOPBACK), (FakeResolver(["10.0.0.7"]), ()), (FakeResolver(["127.0.0.1"]), LOOPBACK)]
    said = {str(await fail(url, hosts=("*",), resolve=resolve, networks=networks)) for resolve, networks in cases}
    assert len(said) == 1


async def test_an_answer_of_the_name_server_that_changes_gains_nothing() -> None:
    """The name is asked for once a connection, and a second connection is judged anew."""
    async with serving(answer(BODY)) as (port, heads):
        resolve = FakeResolver(["127.0.0.1"], ["127.0.0.2"])
        async with fetcher(resolve=resolve) as one:
            assert await one.fetch(f"http://images.example:{port}/", max_bytes=1 << 20) == BODY
            assert len(resolve.questions) == 1
            with pytest.raises(FetchError):
                await one.fetch(f"http://images.example:{port}/", max_bytes=1 << 20)
        assert len(heads) == 1


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_is_followed_to_a_listed_host(status: int) -> None:
    async with (
        serving(answer(BODY)) as (port, _),
        serving(redirect(f"http://cdn.example:{port}/b", status)) as (first, _),
    ):
        assert await fetch(f"http://images.example:{first}/a", hosts=("images.example", "cdn.example")) == BODY


async def test_a_redirect_may_be_relative() -> None:
    async def serve(head: str, writer: asyncio.StreamWriter) -> None:
        await (redirect("../b?c") if head.startswith("GET /x/a ") else answer(BODY))(head, writer)

    async with serving(serve) as (port, heads):
        assert await fetch(f"http://images.example:{port}/x/a") == BODY
    assert heads[1].startswith("GET /b?c ")


async def test_a_redirect_to_a_host_that_is_not_listed_is_not_followed() -> None:
    async with serving(answer(BODY)) as (inside, heads):
        async with serving(redirect(f"http://127.0.0.1:{inside}/latest/meta-data")) as (port, _):
            error = await fail(f"http://images.example:{port}/")
        assert error.failure is FetchFailure.REFUSED
        assert "redirects to 127.0.0.1" in str(error)
        assert heads == []


@pytest.mark.parametrize("address", ["127.0.0.2", "10.0.0.1", "169.254.169.254", "::1", "fd00::1"])
async def test_a_redirect_to_a_listed_host_that_leads_inside_is_not_called(address: str) -> None:
    """Though the first host may be called: its address is in an allowed network, the second's isn't."""

    class ByName(FakeResolver):
        async def __call__(self, host: str, port: int) -> Sequence[Address]:
            return [parse_address("127.0.0.1" if host == "images.example" else address)]

    async with (
        serving(answer(BODY)) as (inside, heads),
        serving(redirect(f"http://cdn.example:{inside}/")) as (port, _),
    ):
        hosts = ("images.example", "cdn.example")
        error = await fail(f"http://images.example:{port}/", hosts=hosts, resolve=ByName([]))
        assert error.failure is FetchFailure.UNREACHABLE
        assert heads == []


@pytest.mark.parametrize("location", ["file:///etc/passwd", "ftp://images.example/", "http://[::1", "", "//", "\\\\x"])
async def test_a_redirect_to_no_web_address_is_refused(location: str) -> None:
    async with serving(redirect(location)) as (port, _):
        error = await fail(f"http://images.example:{port}/", hosts=("images.example",))
        assert error.failure is FetchFailure.REFUSED


async def test_redirects_in_a_circle_end() -> None:
    async with serving(redirect("/again")) as (port, heads):
        error = await fail(f"http://images.example:{port}/")
    assert error.failure is FetchFailure.REFUSED
    assert len(heads) == fetch_module.MAX_REDIRECTS + 1


async def test_a_token_does_not_go_along_to_another_host() -> None:
    headers = {"authorization": "Bearer secret"}
    async with (
        serving(answer(BODY)) as (port, heads),
        serving(redirect(f"http://cdn.example:{port}/")) as (first, seen),
    ):
        one = fetcher("*")
        await one.fetch(f"http://images.example:{first}/", max_bytes=1 << 20, headers=headers)
        await one.aclose()
    assert "Bearer secret" in seen[0]
    assert "secret" not in heads[0]


async def test_a_length_beyond_the_bound_is_refused_before_a_byte_is_read() -> None:
    async with serving(answer(b"", length=1 << 40)) as (port, _):
        error = await fail(f"http://images.example:{port}/", max_bytes=1000)
    assert error.failure is FetchFailure.TOO_LARGE
    assert "1000 bytes" in str(error)


@pytest.mark.parametrize("head", ["", "Transfer-Encoding: chunked\r\n"], ids=["until it closes", "chunked"])
async def test_an_endless_body_ends_at_the_bound(head: str) -> None:
    async def serve(_: str, writer: asyncio.StreamWriter) -> None:
        writer.write(f"HTTP/1.1 200 OK\r\n{head}\r\n".encode())
        await write_forever(writer, b"1000\r\n" + bytes(0x1000) + b"\r\n" if head else bytes(0x1000))

    async with serving(serve) as (port, _):
        assert (await fail(f"http://images.example:{port}/", max_bytes=1 << 20)).failure is FetchFailure.TOO_LARGE


async def test_a_body_longer_than_its_length_is_cut_at_it_and_a_shorter_one_refused() -> None:
    async with serving(answer(BODY, length=10)) as (port, _):
        assert await fetch(f"http://images.example:{port}/") == BODY[:10]
    async with serving(answer(BODY, length=len(BODY) + 1)) as (port, _):
        assert (await fail(f"http://images.example:{port}/")).failure is FetchFailure.ANSWER


async def test_a_packed_body_is_unpacked() -> None:
    async with serving(answer(gzip.compress(BODY), "Content-Encoding: gzip")) as (port, _):
        assert await fetch(f"http://images.example:{port}/", max_bytes=len(BODY)) == BODY


async def test_a_body_that_unpacks_to_too_much_ends_at_the_bound() -> None:
    packer = zlib.compressobj(9, wbits=31)
    bomb = b"".join(packer.compress(bytes(1 << 20)) for _ in range(64)) + packer.flush()
    assert len(bomb) < 100_000
    async with serving(answer(bomb, "Content-Encoding: gzip")) as (port, _), fetcher() as one:
        written: list[int] = []
        with pytest.raises(FetchError) as caught:
            await one._fetch(f"http://images.example:{port}/", lambda part: written.append(len(part)), 1 << 20, {})
    assert caught.value.failure is FetchFailure.TOO_LARGE
    assert sum(written) <= 1 << 20
    assert max(written) <= fetch_module.UNPACKED_PART_BYTES


@pytest.mark.parametrize("encoding", ["br", "zstd", "gzip, gzip", "deflate"])
async def test_what_is_packed_otherwise_is_refused_by_name(encoding: str) -> None:
    async with serving(answer(BODY, f"Content-Encoding: {encoding}")) as (port, _):
        error = await fail(f"http://images.example:{port}/")
    assert error.failure is FetchFailure.ANSWER
    assert encoding in str(error)


@pytest.mark.parametrize(
    "body",
    [BODY, gzip.compress(BODY)[:-9], gzip.compress(BODY)[:30] + b"x" * 99],
    ids=["not packed", "cut", "damaged"],
)
async def test_a_packed_body_that_is_none_is_refused(body: bytes) -> None:
    async with serving(answer(body, "Content-Encoding: gzip")) as (port, _):
        assert (await fail(f"http://images.example:{port}/")).failure is FetchFailure.ANSWER


async def test_who_sends_a_byte_at_a_time_is_left_when_the_time_is_over() -> None:
    async with serving(trickle) as (port, _):
        error = await fail(f"http://images.example:{port}/", timeout_seconds=0.3)
    assert error.failure is FetchFailure.TOO_SLOW
    assert "0.3 seconds" in str(error)


async def test_who_sends_a_byte_at_a_time_is_left_long_before_a_large_file_would_be(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("easel_server.outbound.fetch.PACE_SECONDS", 0.1)
    async with serving(trickle) as (port, _):
        error = await fail(f"http://images.example:{port}/", timeout_seconds=1800)
    assert error.failure is FetchFailure.TOO_SLOW
    assert "bytes in 0.1 seconds" in str(error)


async def test_who_sends_headers_for_ever_is_left() -> None:
    async def serve(_: str, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n")
        await write_forever(writer, b"X-More: 1\r\n" * 100)

    async with serving(serve) as (port, _):
        assert (await fail(f"http://images.example:{port}/")).failure is FetchFailure.ANSWER


async def test_who_says_nothing_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch_module, "SILENCE_TIMEOUT_SECONDS", 0.1)
    over = asyncio.Event()

    async def serve(_: str, writer: asyncio.StreamWriter) -> None:
        await over.wait()

    async with serving(serve) as (port, _):
        assert (await fail(f"http://images.example:{port}/")).failure is FetchFailure.TOO_SLOW
        over.set()


@pytest.mark.parametrize("status", ["404 Not Found", "403 Forbidden", "500 Oops", "204 No Content", "206 Partial"])
async def test_any_other_answer_is_said_by_its_number_alone(status: str) -> None:
    async with serving(answer(b"secret of the inside", "X-Secret: secret", status=status)) as (port, _):
        error = await fail(f"http://images.example:{port}/")
    assert error.failure is FetchFailure.ANSWER
    assert status[:3] in str(error)
    assert "secret" not in str(error).lower()


async def test_what_is_no_http_is_refused() -> None:
    async def serve(_: str, writer: asyncio.StreamWriter) -> None:
        writer.write(b"-ERR unknown command 'GET'\r\n")
        await writer.drain()

    async with serving(serve) as (port, _):
        error = await fail(f"http://images.example:{port}/")
    assert error.failure is FetchFailure.ANSWER
    assert "ERR" not in str(error)


async def test_a_certificate_that_nobody_vouches_for_is_refused(certificate: tuple[Path, Path]) -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(*certificate)
    server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0, ssl=context)
    async with server:
        error = await fail(f"https://images.example:{server.sockets[0].getsockname()[1]}/")
    assert error.failure is FetchFailure.UNREACHABLE


async def test_https_is_not_left_for_http(certificate: tuple[Path, Path]) -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(*certificate)

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        await redirect("http://receiver.example/")("", writer)
        writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0, ssl=context)
    trusting = ssl.create_default_context(cafile=certificate[0])
    resolve = FakeResolver(["127.0.0.1"])
    one = Fetcher(("*",), LOOPBACK, timeout_seconds=20, setting="x", resolve=resolve, ssl_context=trusting)
    async with server, one:
        with pytest.raises(FetchError, match="from https:// to http://"):
            await one.fetch(f"https://receiver.example:{server.sockets[0].getsockname()[1]}/", max_bytes=9)


async def test_an_allowed_network_opens_what_is_private() -> None:
    async with serving(answer(BODY)) as (port, _):
        networks = (ip_network("127.0.0.0/8"),)
        assert await fetch(f"http://images.example:{port}/", networks=networks) == BODY
