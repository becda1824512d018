"""With keys on, a customer learns nothing of what others asked for: no hit, no shared run, no kept answer."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest
from easel_contract.gateway_config import CacheConfig, CacheScope, GatewayConfig

from tests.inference_server.api.serving import RunningGateway, wait_for

CAT = {"prompt": "a cat", "seed": 5}
IMAGES = "/v1/images/generations"


@contextmanager
def serve(directory: Path, **cache: object) -> Iterator[tuple[RunningGateway, httpx2.Client, httpx2.Client]]:
    """A gateway with two customers."""
    for name in ("alice", "bob"):
        (directory / name).write_text(f"{name}s-key")
    config = GatewayConfig(cache=CacheConfig(**cache))
    with (
        RunningGateway(config, keys=directory) as gateway,
        gateway.client(Authorization="Bearer alices-key") as alice,
        gateway.client(Authorization="Bearer bobs-key") as bob,
    ):
        yield gateway, alice, bob


def warm_up(client: httpx2.Client) -> None:
    """As often as puts an answer wherever answers are kept."""
    assert [client.post(IMAGES, json=CAT).headers["X-Cache"] for _ in range(3)] == ["miss", "hit", "hit"]


def test_ones_own_images_come_from_the_cache_and_anothers_do_not(tmp_path: Path) -> None:
    with serve(tmp_path) as (gateway, alice, bob):
        warm_up(alice)
        warm_up(bob)
        assert len(gateway.worker.seen) == 2


@pytest.mark.parametrize(
    ("path", "body"),
    [(IMAGES, CAT), ("/v1/predictions", {"input": CAT}), ("/sdapi/v1/txt2img", CAT)],
)
def test_only_if_cached_is_no_oracle(tmp_path: Path, path: str, body: dict) -> None:
    with serve(tmp_path) as (_, alice, bob):
        alice.post(path, json=body, headers={"Prefer": "wait=20"})
        asked = {"Cache-Control": "only-if-cached"}
        assert bob.post(path, json=body, headers=asked).status_code == 504
        assert alice.post(path, json=body, headers=asked).status_code in (200, 201)


def test_an_equal_request_under_way_is_followed_by_its_own_customer_alone(tmp_path: Path) -> None:
    with serve(tmp_path) as (gateway, alice, bob):
        gateway.call(gateway.worker.hold())
        results = [
            client.post("/v1/predictions", json={"input": CAT}).headers["X-Cache"] for client in (alice, bob, alice)
        ]
        assert results == ["miss", "miss", "shared"]
        gateway.do(gateway.worker.go_on)
        wait_for(lambda: len(gateway.worker.seen) == 2)


def test_without_a_seed_it_is_the_same(tmp_path: Path) -> None:
    with serve(tmp_path, unseeded=True) as (_, alice, bob):
        for client in (alice, bob):
            assert client.post(IMAGES, json={"prompt": "a cat"}).headers["X-Cache"] == "miss"


def test_a_service_may_choose_to_share_with_everybody(tmp_path: Path) -> None:
    with serve(tmp_path, scope=CacheScope.SERVICE) as (gateway, alice, bob):
        warm_up(alice)
        assert [bob.post(IMAGES, json=CAT).headers["X-Cache"] for _ in range(2)] == ["hit", "hit"]
        assert len(gateway.worker.seen) == 1


def test_without_keys_everybody_is_one_customer(client: httpx2.Client, gateway: RunningGateway) -> None:
    body = {"prompt": "a cat of everybody's", "seed": 5}
    assert client.post(IMAGES, json=body).headers["X-Cache"] == "miss"
    with gateway.client() as another:
        assert another.post(IMAGES, json=body).headers["X-Cache"] == "hit"
