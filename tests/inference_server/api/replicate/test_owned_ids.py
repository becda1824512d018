"""A prediction's id belongs to its owner: whoever else names it, takes nothing and learns nothing."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
import pytest
from easel_server.generation.request import job_id_for_client_id, job_id_for_key

from tests.inference_server.api.serving import RunningGateway, wait_for

CAT, DOG = {"input": {"prompt": "a cat", "seed": 1}}, {"input": {"prompt": "a dog", "seed": 2}}


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[RunningGateway]:
    for name in ("alice", "bob"):
        (tmp_path / name).write_text(f"{name}s-key")
    with RunningGateway(keys=tmp_path) as gateway:
        yield gateway


@pytest.fixture
def alice(guarded: RunningGateway) -> Iterator[httpx2.Client]:
    with guarded.client(Authorization="Bearer alices-key") as client:
        yield client


@pytest.fixture
def bob(guarded: RunningGateway) -> Iterator[httpx2.Client]:
    with guarded.client(Authorization="Bearer bobs-key") as client:
        yield client


def test_a_guessed_idempotency_key_does_not_take_the_id(alice: httpx2.Client, bob: httpx2.Client) -> None:
    guessed = job_id_for_key("alice", "order-17")
    assert bob.put(f"/v1/predictions/{guessed}", json=DOG).status_code == 201
    answer = alice.post("/v1/predictions", json=CAT, headers={"Idempotency-Key": "order-17"})
    assert (answer.status_code, answer.json()["input"]["prompt"]) == (201, "a cat")
    image = alice.post("/v1/images/generations", json={"prompt": "a cat"}, headers={"Idempotency-Key": "order-18"})
    assert image.status_code == 200


@pytest.mark.parametrize("make_id", [lambda: "order-0017", lambda: job_id_for_client_id("alice", "order-0017")])
def test_the_same_id_is_another_prediction_for_each_customer(alice: httpx2.Client, bob: httpx2.Client, make_id) -> None:
    own = alice.put("/v1/predictions/order-0017", json=CAT, headers={"Prefer": "wait=20"}).json()
    name = make_id()
    theirs = bob.put(f"/v1/predictions/{name}", json=DOG, headers={"Prefer": "wait=20"})
    assert theirs.status_code == 201, "nothing says that somebody else has it"
    assert own["id"] == alice.get("/v1/predictions/order-0017").json()["id"] == "order-0017"
    assert theirs.json()["id"] == bob.get(f"/v1/predictions/{name}").json()["id"] == name
    prompts = [
        one.get(f"/v1/predictions/{each}").json()["input"]["prompt"]
        for one, each in ((alice, "order-0017"), (bob, name))
    ]
    assert prompts == ["a cat", "a dog"]


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", ""), ("GET", "/stream"), ("GET", "/output/0"), ("GET", "/previews/0"), ("POST", "/cancel")],
)
def test_anothers_prediction_looks_exactly_like_a_missing_one(
    alice: httpx2.Client, bob: httpx2.Client, method: str, path: str
) -> None:
    made = alice.put("/v1/predictions/order-0017", json=CAT, headers={"Prefer": "wait=20"}).json()
    stored = made["urls"]["get"].rpartition("/")[2]
    for name in ("order-0017", stored):
        there = bob.request(method, f"/v1/predictions/{name}{path}")
        missing = bob.request(method, f"/v1/predictions/{'x' * len(name)}{path}")
        assert there.status_code == missing.status_code == 404
        assert there.text.replace(name, "ID") == missing.text.replace("x" * len(name), "ID")


def test_one_goes_on_with_ones_own_prediction_by_either_name(alice: httpx2.Client) -> None:
    made = alice.put("/v1/predictions/order-0017", json=CAT, headers={"Prefer": "wait=20"}).json()
    for url in (made["urls"]["get"], "/v1/predictions/order-0017"):
        found = alice.get(url).json()
        assert (found["id"], found["status"], found["urls"]) == ("order-0017", "succeeded", made["urls"])
        assert alice.get(f"{url}/output/0").content == b"a cat 1"
    assert alice.put("/v1/predictions/order-0017", json=CAT).status_code == 200
    assert alice.put(made["urls"]["get"], json=CAT).status_code == 200


def test_a_put_of_ones_own_random_id_is_that_prediction(alice: httpx2.Client) -> None:
    made = alice.post("/v1/predictions", json=CAT).json()
    again = alice.put(made["urls"]["get"], json=CAT)
    assert (again.status_code, again.json()["id"]) == (200, made["id"])


def test_the_header_names_it_as_its_client_does(alice: httpx2.Client) -> None:
    assert alice.put("/v1/predictions/order-0017", json=CAT).headers["X-Prediction-Id"] == "order-0017"


def test_progress_and_interrupts_are_of_ones_own_work(
    guarded: RunningGateway, alice: httpx2.Client, bob: httpx2.Client
) -> None:
    with ThreadPoolExecutor() as pool:
        generating = pool.submit(alice.post, "/sdapi/v1/txt2img", json={"prompt": "slow", "seed": 1})
        wait_for(lambda: alice.get("/sdapi/v1/progress").json()["state"]["job_count"] == 1)
        assert bob.get("/sdapi/v1/progress").json()["state"]["job_count"] == 0
        assert bob.post("/sdapi/v1/interrupt").status_code == 200
        assert not generating.done()
        alice.post("/sdapi/v1/interrupt")
        assert generating.result(timeout=20).json()["images"] == []
