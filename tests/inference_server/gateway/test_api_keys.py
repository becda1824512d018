"""Keys: who gets in, whose jobs are whose, and keys that change under way."""

import base64
import hashlib
import json
from contextlib import suppress

import openai
import pytest
from easel_contract.server_config import Priority
from easel_server.gateway.api_keys import KeyRing
from easel_server.gateway.refusals import RefusalError
from easel_server.generation.request import Customer

from tests.inference_server.api.serving import RunningGateway


@pytest.fixture
def directory(tmp_path):
    (tmp_path / "alice").write_text("alices-key\n")
    (tmp_path / "bob").write_text("bobs-key")
    (tmp_path / "empty").write_text("\n")
    (tmp_path / "..data").mkdir()
    return tmp_path


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def basic(password: str) -> str:
    return "Basic " + base64.b64encode(f"anybody:{password}".encode()).decode()


@pytest.mark.parametrize(
    ("header", "owner"),
    [
        ("Bearer alices-key", "alice"),
        ("bearer bobs-key", "bob"),
        ("Token bobs-key", "bob"),
        (" Bearer  bobs-key ", "bob"),
        (basic("bobs-key"), "bob"),
    ],
)
def test_a_known_key_has_an_owner(directory, header, owner):
    assert KeyRing(directory).find_customer(header).name == owner


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "Bearer",
        "Bearer ",
        "Basic alices-key",
        "alices-key",
        "Bearer carols-key",
        "Bearer é",
        "Bearer \n",
        "Basic é",
        basic(""),
    ],
)
def test_anything_else_has_none(directory, header):
    with pytest.raises(RefusalError) as caught:
        KeyRing(directory).find_customer(header)
    assert caught.value.status == 401


def test_without_a_directory_everybody_is_anonymous():
    assert KeyRing(None).find_customer(None).name == "anonymous"


@pytest.mark.parametrize("name", ["gone", "empty", "of-bad-entries", "a-file"])
@pytest.mark.parametrize("header", [None, "Bearer alices-key"])
def test_without_a_key_to_check_by_nobody_gets_in_and_hears_why(tmp_path, name, header):
    (tmp_path / "empty").mkdir()
    (tmp_path / "of-bad-entries").mkdir()
    (tmp_path / "of-bad-entries" / "alice").write_text("{")
    (tmp_path / "a-file").write_text("alices-key")
    with pytest.raises(RefusalError, match="apiKeysSecretName") as caught:
        KeyRing(tmp_path / name).find_customer(header)
    assert (caught.value.status, caught.value.code) == (503, "api_keys_unavailable")
    assert int(caught.value.headers["Retry-After"]) > 0


def test_a_secret_that_is_made_later_lets_its_customers_in(tmp_path):
    clock = Clock()
    ring = KeyRing(tmp_path / "later", clock)
    with pytest.raises(RefusalError):
        ring.find_customer("Bearer alices-key")
    (tmp_path / "later").mkdir()
    (tmp_path / "later" / "alice").write_text("alices-key")
    clock.now += 1.0
    assert ring.find_customer("Bearer alices-key").name == "alice"


def test_one_entry_that_cannot_be_read_harms_nobody_else(directory, caplog):
    (directory / "carol").symlink_to("/proc/self/mem")  # a regular file whose first byte can't be read
    assert KeyRing(directory).find_customer("Bearer alices-key").name == "alice"
    assert "API keys of customer carol can't be read" in caplog.text


def test_a_gateway_that_began_without_keys_lets_nobody_in_once_they_are_asked_for():
    asked = [False]
    ring = KeyRing(None, asks_for_keys=lambda: asked[0])
    assert ring.find_customer(None).name == "anonymous"
    asked[0] = True
    for header in (None, "Bearer any"):
        with pytest.raises(RefusalError, match="after this gateway began") as caught:
            ring.find_customer(header)
        assert caught.value.status == 503
    asked[0] = False
    assert ring.find_customer(None).name == "anonymous"


def test_a_customer_has_several_keys_so_that_they_can_change(directory):
    digest = hashlib.sha256(b"carols-next-key").hexdigest()
    entry = {"keys": ["carols-key", f"sha256:{digest}"], "weight": 5, "maxPriority": "High"}
    (directory / "carol").write_text(json.dumps(entry))
    ring = KeyRing(directory)
    carol = Customer("carol", weight=5, max_priority=Priority.HIGH)
    assert ring.find_customer("Bearer carols-key") == ring.find_customer("Bearer carols-next-key") == carol
    with pytest.raises(RefusalError):
        ring.find_customer(f"Bearer sha256:{digest}")  # the digest is no key


def test_a_bad_entry_is_reported_without_its_key_and_the_others_work(directory, caplog):
    (directory / "carol").write_text('{"keys": ["carols-key"], "wieght": 5}')
    (directory / "dave").write_text("bobs-key")
    ring = KeyRing(directory)
    assert ring.find_customer("Bearer alices-key").name == "alice"
    assert ring.find_customer("Bearer bobs-key").name == "bob"
    with pytest.raises(RefusalError):
        ring.find_customer("Bearer carols-key")
    assert "API keys of customer carol are ignored: a field is not known" in caplog.text
    assert "an API key of customer dave is ignored: it is bob's too" in caplog.text
    assert "API keys of customer empty are ignored" in caplog.text
    assert not any(key in caplog.text for key in ("carols-key", "bobs-key", "alices-key"))


def test_an_entry_that_goes_bad_locks_its_customer_out_and_nobody_else(directory):
    clock = Clock()
    ring = KeyRing(directory, clock)
    ring.find_customer("Bearer bobs-key")
    (directory / "bob").write_text("{")
    clock.now += 1.0
    with pytest.raises(RefusalError):
        ring.find_customer("Bearer bobs-key")
    assert ring.find_customer("Bearer alices-key").name == "alice"


def test_no_key_is_kept_in_memory_as_it_is(directory):
    ring = KeyRing(directory)
    ring.find_customer("Bearer alices-key")
    assert "alices-key" not in repr(vars(ring))
    assert hashlib.sha256(b"alices-key").digest() not in ring._customers


def test_changes_are_seen_within_a_second(directory):
    clock = Clock()
    ring = KeyRing(directory, clock)
    ring.find_customer("Bearer bobs-key")
    (directory / "bob").unlink()
    (directory / "carol").write_text("carols-key")
    clock.now += 1.0
    assert ring.find_customer("Bearer carols-key").name == "carol"
    with pytest.raises(RefusalError):
        ring.find_customer("Bearer bobs-key")


def test_a_directory_that_vanishes_for_a_moment_locks_nobody_out(directory):
    clock = Clock()
    ring = KeyRing(directory, clock)
    ring.find_customer("Bearer bobs-key")
    moved = directory.rename(directory.with_name("moved"))
    clock.now += 1.0
    assert ring.find_customer("Bearer bobs-key").name == "bob"
    moved.rename(directory)
    clock.now += 60.0
    assert ring.find_customer("Bearer bobs-key").name == "bob"


def test_a_directory_that_stays_away_locks_everybody_out_and_nobody_becomes_anonymous(directory, caplog):
    clock = Clock()
    ring = KeyRing(directory, clock)
    ring.find_customer("Bearer bobs-key")
    moved = directory.rename(directory.with_name("moved"))
    for _ in range(20):
        clock.now += 1.0
        with suppress(RefusalError):
            assert ring.find_customer("Bearer bobs-key").name == "bob"
    for header in ("Bearer bobs-key", None):
        with pytest.raises(RefusalError, match="can't be read") as caught:
            ring.find_customer(header)
        assert caught.value.status == 503
    assert len([line for line in caplog.messages if "can't be read" in line]) == 2, "once when, once when it is over"
    moved.rename(directory)
    clock.now += 1.0
    assert ring.find_customer("Bearer bobs-key").name == "bob"


@pytest.fixture
def guarded(directory):
    with RunningGateway(keys=directory) as gateway:
        yield gateway


def test_the_openai_client_is_let_in_by_its_key_alone(guarded):
    def generate(key: str):
        with openai.OpenAI(base_url=f"{guarded.url}/v1", api_key=key, max_retries=0) as client:
            return client.images.generate(prompt="a cat")

    assert generate("alices-key").data
    with pytest.raises(openai.AuthenticationError) as caught:
        generate("wrong-key")
    assert caught.value.code == "invalid_api_key"
    assert "wrong-key" not in caught.value.response.text


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1/images/generations"),
        ("GET", "/v1/models"),
        ("GET", "/v1/models/any"),
        ("POST", "/v1/predictions"),
        ("PUT", "/v1/predictions/some-job-id"),
        ("GET", "/v1/predictions/some-job-id"),
        ("POST", "/v1/predictions/some-job-id/cancel"),
        ("GET", "/v1/predictions/some-job-id/output/0"),
    ],
)
def test_no_route_of_the_apis_is_open(guarded, method, path):
    with guarded.client() as client:
        answer = client.request(method, path, json={})
    assert answer.status_code == 401
    assert answer.headers["WWW-Authenticate"] == "Bearer"


@pytest.mark.parametrize("path", ["/", "/playground/config", "/healthz"])
def test_what_says_nothing_of_the_customers_is_open(guarded, path):
    with guarded.client() as client:
        assert client.get(path).status_code == 200


@pytest.mark.parametrize("path", ["/docs", "/docs/start.js", "/docs/nothing", "/openapi.json"])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_the_description_is_for_customers_and_a_browser_asks_for_the_key(guarded, method, path):
    with guarded.client() as client:
        answer = client.request(method, path)
        assert answer.status_code == 401
        assert answer.headers["WWW-Authenticate"].startswith("Basic ")
        found = client.request(method, path, headers={"Authorization": basic("alices-key")})
        assert found.status_code == (404 if path.endswith("nothing") else 200)


def test_metrics_are_not_on_the_port_of_customers(guarded):
    with guarded.client(Authorization="Bearer alices-key") as client:
        assert client.get("/metrics").status_code == 404


def test_a_key_sees_its_own_jobs_only(guarded):
    with (
        guarded.client(Authorization="Bearer alices-key") as alice,
        guarded.client(Authorization="Bearer bobs-key") as bob,
    ):
        body = {"input": {"prompt": "a cat"}}
        prediction = alice.post("/v1/predictions", json=body, headers={"Prefer": "wait"}).json()
        assert alice.get(prediction["urls"]["get"]).json()["status"] == "succeeded"
        for url in (prediction["urls"]["get"], *prediction["output"], prediction["urls"]["stream"]):
            assert bob.get(url.partition("?")[0]).status_code == 404
        assert bob.post(prediction["urls"]["cancel"]).status_code == 404


def test_two_owners_may_use_the_same_idempotency_key(guarded):
    ids = set()
    for key in ("alices-key", "bobs-key"):
        with guarded.client(Authorization=f"Bearer {key}", **{"Idempotency-Key": "same"}) as client:
            ids.add(client.post("/v1/predictions", json={"input": {"prompt": "a cat"}}).json()["id"])
    assert len(ids) == 2
