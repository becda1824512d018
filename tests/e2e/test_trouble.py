"""Trouble that comes at night: each gives a condition that says what to do; nothing crashes, nothing is lost."""

import asyncio

import openai
import pytest

from demo.cluster import NAMESPACE, devcluster_binary, run
from demo.load import Tally, burst, first_image, forwarded
from demo.observe import is_ready
from tests.e2e.waiting import Services, quick, tiny, wait_until


def test_a_model_that_is_not_there_is_named(services: Services) -> None:
    name = services.apply(tiny("lost-model", model__source__persistentVolumeClaim__path="not-there"))
    loaded = services.wait_for(name, "ModelLoaded", "False", "ModelLoadFailed")
    assert "not-there" in loaded["message"]
    assert services.condition(name, "Ready")["status"] == "False"

    services.apply(tiny("lost-model"))  # the right path
    services.wait_for(name, "ModelLoaded", "True")
    services.wait_for(name, "Ready", "True")


def test_no_gpu_free_is_reported_with_the_schedulers_words(services: Services) -> None:
    name = services.apply(quick("greedy", worker__gpu__count=3))  # nodes have two each
    capacity = services.wait_for(name, "CapacityAvailable", "False", "InsufficientCapacity")
    assert "nvidia.com/gpu" in capacity["message"]
    assert services.condition(name, "Ready")["status"] == "False"
    services.apply(quick("greedy", worker__gpu__count=2))
    services.wait_for(name, "CapacityAvailable", "True")
    services.wait_for(name, "Ready", "True")


def test_an_image_that_cannot_be_pulled_is_reported(services: Services) -> None:
    name = services.apply(quick("no-image", worker__image="ghcr.io/nobody/nothing:1"))
    loaded = services.wait_for(name, "ModelLoaded", "False", "ImagePullFailed")
    assert "ghcr.io/nobody/nothing:1" in loaded["message"]


def _is_served(url: str) -> bool:
    try:
        return bool(first_image(url, seed=100))
    except openai.InternalServerError:
        return False


def test_redis_away_is_said_and_survived(services: Services) -> None:
    name = services.apply(quick("thirsty", replicas=2, scaling=None))
    services.wait_for(name, "ModelLoaded", "True")
    services.wait_for(name, "Ready", "True")
    tally = Tally()
    kubectl = services.cluster.kubectl
    with forwarded(services.cluster, name) as url:
        first_image(url)
        kubectl("scale", "statefulset/easel-redis", "-n", NAMESPACE, "--replicas=0")
        try:
            condition = services.wait_for(name, "Ready", "False", "RedisUnavailable")
            assert "Redis" in condition["message"]
            with pytest.raises(Exception, match="503"):
                first_image(url, seed=99)
        finally:
            kubectl("scale", "statefulset/easel-redis", "-n", NAMESPACE, "--replicas=1")
        services.wait_for(name, "Ready", "True")
        # One pod that reaches Redis makes it so; a gateway that doesn't yet says when to ask again.
        wait_until(lambda: _is_served(url), bool, "the gateway reaches Redis again", 30)
        asyncio.run(burst(url, tally, requests=10, clients=4, steps=5))
    assert (tally.delivered, tally.failures) == (10, [])
    restarts = [
        status["restartCount"]
        for component in ("gateway", "worker")
        for pod in services.pods(name, component)
        for status in pod["status"]["containerStatuses"]
    ]
    assert restarts == [0] * len(restarts), "no pod crashed over it"


@pytest.mark.embedded
def test_a_node_that_dies_loses_no_work(services: Services) -> None:
    name = services.apply(quick("survivor", replicas=2, scaling=None, worker__gpu__count=2))  # one on each node
    placed = wait_until(
        lambda: {pod["spec"].get("nodeName") for pod in services.pods(name, "worker") if is_ready(pod)},
        lambda nodes: len(nodes) == 2,
        "a worker on each GPU node",
        90,
    )
    assert placed == {"gpu-0", "gpu-1"}
    node = [devcluster_binary(), "node"]
    state = ["--state-dir", str(services.cluster.state / "cluster")]
    tally = Tally()

    async def load_and_power_cut(url: str) -> None:
        working = asyncio.Event()
        load = asyncio.create_task(burst(url, tally, requests=30, clients=6, steps=40, on_delivery=working.set))
        await working.wait()
        await asyncio.to_thread(run, *node, "kill", "gpu-0", *state)
        await load

    with forwarded(services.cluster, name) as url:
        try:
            asyncio.run(load_and_power_cut(url))
        finally:
            run(*node, "restart", "gpu-0", *state)
    assert (tally.delivered, tally.failures) == (30, [])
    services.cluster.kubectl("wait", "--for=condition=Ready", "node/gpu-0", "--timeout=240s")
