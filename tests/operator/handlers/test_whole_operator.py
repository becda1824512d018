"""Reconciler, scaling loop and cleanup together, through a life of services, with every request failing once.

However one request ends, and wherever the operator is killed, what there is in the end is what an undisturbed operator
leaves; what isn't a service's own is never written.
"""

import copy
import logging
from collections.abc import Callable, Iterator
from functools import partial
from random import Random

import pytest
from easel_contract import names
from easel_operator.objects import CHILD_RESOURCES, PODS

from tests.operator.handlers.disturbed_world import (
    NAMESPACE,
    PATH,
    READ_FAULTS,
    WRITE_FAULTS,
    Fault,
    World,
    submit,
)
from tests.operator.objects import HUB_MODEL, build_pod

logger = logging.getLogger(__name__)

RANDOM_LIVES = 6

SCALING = {"minReplicas": 0, "maxReplicas": 8, "targetQueueDepth": 2}
REACHED = {
    "model": HUB_MODEL,
    "scaling": SCALING,
    "gateway": {"apiKeysSecretName": "team-keys", "ingress": {"hosts": ["images.example.com"]}},
    "networkPolicy": {},
}


def create(world: World) -> None:
    submit(world, REACHED)
    submit(world, {"model": HUB_MODEL, "replicas": 1}, name="taken", uid="uid-taken")
    for role in (names.COMPONENT_GATEWAY, names.COMPONENT_WORKER):
        pod = build_pod(role)
        world.api.store(PODS.path(NAMESPACE, pod["metadata"]["name"]), {"kind": "Pod", **pod})


def fix_the_number(world: World) -> None:
    submit(world, {"model": HUB_MODEL, "replicas": 3})


def scale_again(world: World) -> None:
    submit(world, REACHED)


def lose_the_metrics_api(world: World) -> None:
    world.is_direct = True


def meddle(world: World) -> None:
    """Somebody deletes one child and edits another."""
    del world.api.objects[f"/api/v1/namespaces/{NAMESPACE}/configmaps/painter-config"]
    path = f"/api/v1/namespaces/{NAMESPACE}/services/painter"
    live = copy.deepcopy(world.api.objects[path])
    live["spec"]["ports"] = []
    world.api.store(path, live)


def replace_the_service(world: World) -> None:
    """Deleted, and made again under its name, before anybody has looked."""
    del world.api.objects[PATH]
    submit(world, REACHED, uid="8f3b4c52-0000-4000-8000-00000000000f")


def delete(world: World) -> None:
    del world.api.objects[PATH]


STEPS = (create, fix_the_number, scale_again, lose_the_metrics_api, meddle, replace_the_service, delete)


async def live(*, until: str) -> tuple[World, World]:
    """An undisturbed life: the world before a step, and after it."""
    world = World.build()
    for step in STEPS:
        before = world.fork()
        before.is_direct = world.is_direct
        step(world)
        await world.settle()
        if step.__name__ == until:
            return before, world
    raise AssertionError(until)


def choose_one(number: int, fault: Fault, each: int, _method: str, _path: str) -> Fault | None:
    return fault if each == number else None


def list_faults(requests: list[tuple[str, str]]) -> Iterator[tuple[int, Fault]]:
    for number, (method, _) in enumerate(requests):
        for fault in READ_FAULTS if method == "GET" else WRITE_FAULTS:
            yield number, fault


@pytest.mark.parametrize("step", STEPS, ids=lambda step: step.__name__)
async def test_whichever_request_fails_and_wherever_the_operator_is_killed_the_end_is_the_same(
    step: Callable[[World], None],
) -> None:
    before, undisturbed = await live(until=step.__name__)
    wanted = undisturbed.describe()
    course = before.fork()
    step(course)
    await course.settle()
    assert course.describe() == wanted, "the same course comes to the same end"
    # The last looks, which wrote nothing, are like each other: their first requests stand for all.
    last_write = max(number for number, (method, _) in enumerate(course.api.requests) if method != "GET")
    for number, fault in list_faults(course.api.requests[: last_write + 1]):
        world = before.fork()
        step(world)
        world.api.choose = partial(choose_one, number, fault)
        await world.settle()
        said = f"{fault} at request {number}, {course.api.requests[number]}"
        assert world.describe() == wanted, said
        assert world.api.trespasses == [], said


@pytest.mark.parametrize("seed", range(RANDOM_LIVES))
async def test_a_life_full_of_faults_and_late_lists_comes_to_the_same_end(seed: int) -> None:
    logger.info("seed %d", seed)
    random = Random(seed)  # noqa: S311 - guards nothing
    _, undisturbed = await live(until="replace_the_service")
    world = World.build()
    for step in STEPS[:-1]:
        step(world)
        faults = random.randint(3, 12)

        def choose(_number: int, method: str, _path: str) -> Fault | None:
            nonlocal faults
            if faults == 0 or random.random() > 0.15:
                return None
            faults -= 1
            return random.choice(READ_FAULTS if method == "GET" else WRITE_FAULTS)

        world.api.choose, world.stale = choose, random
        await world.settle()
    assert world.describe() == undisturbed.describe()
    assert world.api.trespasses == []


async def test_the_life_goes_through_what_an_operator_writes() -> None:
    """Else what is said above would be said of less."""
    world = World.build()
    for step in STEPS:
        step(world)
        await world.settle()
    written = {(method, path.removeprefix("/").split("/")[-2]) for method, path in world.api.writes}
    subresources = {path.rpartition("/")[2] for _, path in world.api.writes}
    made = {kind for method, kind in written if method == "PATCH"}
    # Of a Gateway API, and of models that are cached, there is none in this life.
    assert {each.plural for each in CHILD_RESOURCES} - made <= {
        *("httproutes", "podmonitors", "prometheusrules"),
        *("jobs", "persistentvolumeclaims"),
    }
    assert ("DELETE", "horizontalpodautoscalers") in written
    assert {"status", "scale"} <= subresources
    assert world.redis.keys == {"easel:{studio/taken/uid-taken}:"}
