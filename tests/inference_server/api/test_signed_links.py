"""With keys on, links of images and events open without one: for that one object, until they expire."""

import logging
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlencode, urlsplit, urlunsplit

import httpx2
import openai
import pytest
from easel_contract.gateway_config import GatewayConfig, ResultsConfig
from easel_server.gateway.link_signer import LinkKeys

from tests.inference_server.api.serving import RunningGateway

CAT = {"input": {"prompt": "a cat", "seed": 5, "num_outputs": 2}}
ALICE, BOB = "Bearer alices-key", "Bearer bobs-key"


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    directory = tmp_path / "keys"
    directory.mkdir()
    for name in ("alice", "bob"):
        (directory / name).write_text(f"{name}s-key")
    return directory


@pytest.fixture
def guarded(directory: Path) -> Iterator[RunningGateway]:
    with RunningGateway(keys=directory) as gateway:
        yield gateway


def generate(gateway: RunningGateway, body: dict | None = None, key: str = ALICE) -> dict:
    with gateway.client(Authorization=key) as client:
        answer = client.post("/v1/predictions", json=body or CAT, headers={"Prefer": "wait=20"})
    assert answer.status_code == 201, answer.text
    return answer.json()


def change(url: str, **changes: str) -> str:
    """The link with other words in its query."""
    parts = urlsplit(url)
    query = {name: values[0] for name, values in parse_qs(parts.query).items()} | changes
    return urlunsplit(parts._replace(query=urlencode(query)))


def test_a_browser_opens_the_images_of_a_prediction_without_a_key(guarded: RunningGateway) -> None:
    answers = [httpx2.get(url) for url in generate(guarded)["output"]]
    assert [answer.content for answer in answers] == [b"a cat 5", b"a cat 6"]
    assert all(answer.headers["Cache-Control"].startswith("private") for answer in answers)


def test_any_client_opens_the_link_that_openais_api_gave_and_it_is_absolute(guarded: RunningGateway) -> None:
    with openai.OpenAI(base_url=f"{guarded.url}/v1", api_key="alices-key", max_retries=0) as client:
        answer = client.images.generate(prompt="a cat", response_format="url", extra_body={"seed": 5})
    url = str((answer.data or [])[0].url)
    assert url.startswith(f"{guarded.url}/v1/predictions/")
    assert httpx2.get(url).content == b"a cat 5"


def test_events_and_previews_are_followed_without_a_key(guarded: RunningGateway) -> None:
    body = {"input": {"prompt": "step by step", "seed": 5, "previews": 1, "num_inference_steps": 3}}
    with guarded.client(Authorization=ALICE) as client:
        prediction = client.post("/v1/predictions", json=body).json()
        guarded.do(guarded.worker.steps.release)

        def links() -> list[str]:
            return client.get(prediction["urls"]["get"]).json()["progress"]["previews"]

        while not (previews := links()):
            pass
        assert httpx2.get(previews[0]).content == b"preview 2"
        for _ in range(2):
            guarded.do(guarded.worker.steps.release)
    text = httpx2.get(prediction["urls"]["stream"], timeout=20).text
    output = next(line for line in text.splitlines() if line.startswith("data: http")).removeprefix("data: ")
    assert httpx2.get(output).content == b"step by step 5"


def test_a_link_that_is_looked_at_twice_is_the_same(guarded: RunningGateway) -> None:
    prediction = generate(guarded)
    with guarded.client(Authorization=ALICE) as client:
        assert client.get(prediction["urls"]["get"]).json()["output"] == prediction["output"]


def test_a_link_opens_nothing_but_its_own_object(guarded: RunningGateway) -> None:
    mine, other = generate(guarded), generate(guarded, key=BOB)
    query = urlsplit(mine["output"][0]).query
    plain = [*mine["output"][1:], *other["output"], mine["urls"]["stream"], mine["urls"]["get"], mine["urls"]["cancel"]]
    for url in plain:
        answer = httpx2.get(f"{url.partition('?')[0]}?{query}")
        assert answer.status_code in (401, 403, 405), url
    assert httpx2.post(f"{mine['urls']['cancel']}?{query}").status_code == 401
    assert httpx2.put(f"{mine['urls']['get']}?{query}", json=CAT).status_code == 401


@pytest.mark.parametrize("changes", [{"signature": "x" * 43}, {"signature": ""}, {"signature": "é"}, {"expires": "x"}])
def test_a_forged_link_is_refused_in_a_sentence(guarded: RunningGateway, changes: dict[str, str]) -> None:
    answer = httpx2.get(change(generate(guarded)["output"][0], **changes))
    assert (answer.status_code, answer.json()["code"]) == (403, "invalid_link")
    assert "signature doesn't fit" in answer.json()["detail"]


def test_the_time_of_a_link_cannot_be_stretched(guarded: RunningGateway) -> None:
    assert httpx2.get(change(generate(guarded)["output"][0], expires="99999999999")).status_code == 403


def test_a_forged_link_says_nothing_of_whether_a_prediction_exists(guarded: RunningGateway) -> None:
    url = change(generate(guarded)["output"][0], signature="x" * 43)
    there, missing = httpx2.get(url), httpx2.get(url.replace("/predictions/", "/predictions/x"))
    assert (there.status_code, there.json()) == (missing.status_code, missing.json())


def test_a_key_is_as_good_as_ever_beside_a_link_that_is_not(guarded: RunningGateway) -> None:
    url = change(generate(guarded)["output"][0], signature="x" * 43)
    assert httpx2.get(url, headers={"Authorization": ALICE}).status_code == 200
    assert httpx2.get(url, headers={"Authorization": BOB}).status_code == 404


def test_links_lead_to_the_configured_address(directory: Path) -> None:
    config = GatewayConfig(public_url="https://images.example.com", results=ResultsConfig(ttl_seconds=60))
    with RunningGateway(config, keys=directory) as gateway:
        url = generate(gateway)["output"][0]
        assert url.startswith("https://images.example.com/v1/predictions/")
        inside = url.replace("https://images.example.com", gateway.url)
        assert httpx2.get(inside).content == b"a cat 5"


@pytest.mark.parametrize("host", ["a b", "evil/path", "x" * 300, "a?b", "user@host"])
def test_a_host_that_is_none_gets_no_part_of_a_link(guarded: RunningGateway, host: str) -> None:
    with guarded.client(Authorization=ALICE) as client:
        answer = client.post("/v1/predictions", json=CAT, headers={"Host": host})
    assert answer.status_code == 201
    assert answer.json()["urls"]["get"].startswith("/v1/predictions/")


def test_links_that_are_out_stay_valid_while_keys_rotate(directory: Path, tmp_path: Path) -> None:
    old, new = "o" * 64, "n" * 64
    file = tmp_path / "links"
    file.write_text(old)
    clock = [0.0]
    with RunningGateway(keys=directory, link_keys=LinkKeys(file=file, clock=lambda: clock[0])) as gateway:
        before = generate(gateway)["output"][0]
        file.write_text(f"{new} {old}")
        clock[0] += 1.0
        after = generate(gateway)["output"][0]
        assert [httpx2.get(url).status_code for url in (before, after)] == [200, 200]
        file.write_text(new)
        clock[0] += 1.0
        assert [httpx2.get(url).status_code for url in (before, after)] == [403, 200]
        file.unlink()  # what is known stays good
        clock[0] += 1.0
        assert httpx2.get(after).status_code == 200


def test_two_gateways_with_the_same_keys_open_each_others_links(directory: Path) -> None:
    keys = LinkKeys(text="k" * 64)
    with (
        RunningGateway(keys=directory, link_keys=keys) as one,
        RunningGateway(keys=directory, link_keys=LinkKeys(text="k" * 64)) as two,
        RunningGateway(keys=directory) as stranger,
    ):
        url = generate(one)["output"][0]
        # Their stores aren't shared here: what is asked for isn't there, but the right to it is seen.
        assert httpx2.get(url.replace(one.url, two.url)).status_code == 404
        assert httpx2.get(url.replace(one.url, stranger.url)).status_code == 403


def test_without_keys_links_are_plain(gateway: RunningGateway) -> None:
    with gateway.client() as client:
        prediction = client.post("/v1/predictions", json=CAT, headers={"Prefer": "wait=20"}).json()
    assert "?" not in "".join([*prediction["output"], *prediction["urls"].values()])


def test_no_line_in_the_log_holds_a_signature(guarded: RunningGateway, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    url = generate(guarded)["output"][0]
    signature = parse_qs(urlsplit(url).query)["signature"][0]
    assert httpx2.get(url).status_code == 200
    httpx2.get(change(url, expires="1"))
    lines = [f"{record.getMessage()} {vars(record)}" for record in caplog.records if record.name.startswith("easel")]
    assert any("output" in line for line in lines)
    assert not any(signature in line for line in lines)
    assert not any(signature in str(count) for count in guarded.metrics.counts)
