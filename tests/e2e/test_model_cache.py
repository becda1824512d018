"""A model's cache on real claims: filled once by a Job from a Hub, read by workers that ask the Hub for nothing."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from demo.cluster import Cluster, ClusterError
from demo.load import first_image, forwarded
from demo.observe import is_ready
from tests.e2e.hub import ClusterHub, serve_cluster_hub
from tests.e2e.waiting import Services, tiny, wait_until

pytestmark = pytest.mark.embedded  # the Hub's stand-in is in its network

SHARED = "shared-models"
WEIGHTS = "unet/diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def hub(cluster: Cluster) -> Iterator[ClusterHub]:
    with serve_cluster_hub(cluster) as running:
        yield running


@pytest.fixture
def shared_claim(cluster: Cluster) -> Iterator[str]:
    """One that services share, as a platform team makes it."""
    spec = {"accessModes": ["ReadWriteMany"], "resources": {"requests": {"storage": "1Gi"}}}
    claim = {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": SHARED}, "spec": spec}
    cluster.kubectl("apply", "-f", "-", stdin=json.dumps(claim))
    yield SHARED
    cluster.kubectl("delete", "pvc", SHARED, "--wait=false")  # once its last pod is gone


def cached(name: str, hub: ClusterHub, *, repository: str = "tiny/sd15", **changes: Any) -> dict[str, Any]:
    """A service of a repository of the Hub, with a cache; one worker."""
    service = {
        "replicas": 1,
        "scaling": None,
        "model__source": {"huggingFace": {"repository": repository}},
        "model__cache": {"size": "1Gi"},
        "downloads__hubEndpoint": hub.address,
    }
    return tiny(name, **{**service, **changes})


def find_job(services: Services, name: str) -> dict[str, Any]:
    (job,) = services.cluster.get("jobs", "-l", f"easel.dev/service={name}")["items"]
    found: dict[str, Any] = job
    return found


def list_claims(services: Services, name: str) -> list[str]:
    listed = services.cluster.get("pvc", "-l", f"easel.dev/service={name}")["items"]
    return [each["metadata"]["name"] for each in listed]


def test_the_job_fetches_each_file_once_and_workers_ask_the_hub_for_nothing(
    services: Services, hub: ClusterHub
) -> None:
    hub.forget()
    name = services.apply(cached("cached", hub))
    services.wait_for(name, "Ready", "True", timeout_seconds=180)
    assert find_job(services, name)["status"]["succeeded"] == 1
    assert hub.downloads[WEIGHTS] == 1
    assert set(hub.downloads.values()) == {1}, "the Job has fetched, and the worker hasn't"
    services.wait_for(name, "ModelLoaded", "True")
    status = services.cluster.get("sds", name)["status"]
    assert "modelCache" not in status, "it is whole"

    hub.forget()
    services.apply(cached("cached", hub, replicas=2))
    wait_until(lambda: len([pod for pod in services.pods(name, "worker") if is_ready(pod)]), (2).__eq__, "two", 120)
    assert hub.requests == []
    with forwarded(services.cluster, name) as url:
        assert first_image(url).startswith(b"\x89PNG")

    (pod, *_) = services.pods(name, "worker")
    with pytest.raises(ClusterError, match="Read-only file system"):
        services.cluster.kubectl("exec", pod["metadata"]["name"], "--", "touch", "/model-cache/x")

    assert list_claims(services, name) == ["cached-models"]
    services.cluster.kubectl("delete", "sds", name)
    services.wait_gone(name)
    wait_until(lambda: list_claims(services, name), lambda left: not left, "its own claim goes with it", 60)


@pytest.mark.nightly
def test_a_second_service_on_the_claim_downloads_nothing_and_the_claim_outlives_both(
    services: Services, hub: ClusterHub, shared_claim: str
) -> None:
    on_claim: dict[str, Any] = {"model__cache": {"claimName": shared_claim}}
    first = services.apply(cached("first", hub, **on_claim))
    services.wait_for(first, "Ready", "True", timeout_seconds=180)
    hub.forget()
    second = services.apply(cached("second", hub, **on_claim))
    services.wait_for(second, "Ready", "True", timeout_seconds=180)
    assert hub.requests == []
    for name in (first, second):
        services.cluster.kubectl("delete", "sds", name)
        services.wait_gone(name)
    assert services.cluster.get("pvc", shared_claim)["status"]["phase"] == "Bound"
    hub.forget()
    third = services.apply(cached("third", hub, **on_claim))
    services.wait_for(third, "Ready", "True", timeout_seconds=180)
    assert hub.requests == [], "what is on the claim stays there"


@pytest.mark.nightly
def test_a_job_without_a_token_says_which_field_wants_one(services: Services, hub: ClusterHub) -> None:
    private = services.apply(cached("no-token", hub, repository="private/sd15"))
    loaded = services.wait_for(private, "ModelLoaded", "False", "ModelLoadFailed", timeout_seconds=120)
    assert "private/sd15" in loaded["message"]
    assert "model.source.huggingFace.tokenSecretName" in loaded["message"]
    assert services.pods(private, "worker") == [], "no GPU waits for it"

    token = ("create", "secret", "generic", "hub-token", "--from-literal=token=hf_right")
    services.cluster.kubectl(*token)
    try:
        source = {"huggingFace": {"repository": "private/sd15", "tokenSecretName": "hub-token"}}
        services.apply(cached("no-token", hub, model__source=source))
        services.wait_for(private, "Ready", "True", timeout_seconds=180)
    finally:
        services.cluster.kubectl("delete", "secret", "hub-token")


@pytest.mark.nightly
def test_a_file_that_comes_damaged_is_never_loaded_and_is_named(services: Services, hub: ClusterHub) -> None:
    hub.behave(damaged={f"other/sd15/{WEIGHTS}": [1000] * 100})
    name = services.apply(cached("damaged", hub, repository="other/sd15"))
    loaded = services.wait_for(name, "ModelLoaded", "False", "ModelLoadFailed", timeout_seconds=120)
    assert "diffusion_pytorch_model.safetensors came damaged twice" in loaded["message"]
    assert "check the proxy or the mirror" in loaded["message"]
    assert services.pods(name, "worker") == []
    hub.behave(damaged={})
    services.wait_for(name, "Ready", "True", timeout_seconds=180)  # nobody has to do anything


def test_a_model_that_does_not_fit_the_claim_is_not_begun(services: Services, hub: ClusterHub) -> None:
    hub.behave(claimed_bytes={f"other/sd15/{WEIGHTS}": 10**16})
    hub.forget()
    name = services.apply(cached("too-large", hub, repository="other/sd15"))
    loaded = services.wait_for(name, "ModelLoaded", "False", "ModelLoadFailed", timeout_seconds=120)
    assert "make the claim of model.cache larger" in loaded["message"]
    assert hub.downloads[WEIGHTS] == 0
    hub.behave(claimed_bytes={})
