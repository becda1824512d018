"""A canary's life under the whole operator, with every request failing once: however one ends, and wherever the
operator is killed, the same revision runs in the end, and the same is said of it.

The judge's figures are given, and the Deployment controller is a stub: one pod of whatever template there is, beside
one that was there before.
"""

from functools import partial

import pytest
from easel_contract import names
from easel_operator.decide.rollouts.judge import Figures
from easel_operator.decide.rollouts.record import read_step
from easel_operator.decide.rollouts.tally import Tally
from easel_operator.manifests.metadata import read_revision
from easel_operator.objects import PODS, Json

from tests.operator.handlers.disturbed_world import KEY, NAMESPACE, PATH, Operator, World, submit
from tests.operator.handlers.test_whole_operator import choose_one, list_faults
from tests.operator.objects import HUB_MODEL, build_pod

WORKERS = f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments/painter-worker"
CANARY = {"steps": [10, 50], "minJobs": 50}
STABLE: Json = {"model": HUB_MODEL, "replicas": 3, "rollout": {"canary": CANARY}}
CHANGED: Json = {**STABLE, "worker": {"engine": {"compile": "On"}}}
GOOD = Figures(100)
BAD = Figures(100, 40)


class CanaryWorld(World):
    """With workers, and with what they did."""

    figures = GOOD

    async def _look(self, operator: Operator) -> bool:
        live = self.api.objects.get(WORKERS)
        if live is not None and self.api.objects[PATH].get("status"):
            self.add_pod("new", read_revision(live))
            step, status = read_step(live), self.api.objects[PATH].get("status", {})
            is_seen = "readyAt" in status["revisions"][-1] and "canary" in status
            if step is not None and is_seen and status["canary"]["step"] == step.step:  # a job takes a while
                operator.shared.tallies[KEY] = Tally(step, self.figures, GOOD)
        return await super()._look(operator)

    def add_pod(self, name: str, revision: str) -> None:
        """A worker that is ready; its place in the list of writes is nobody's."""
        pod = build_pod(names.COMPONENT_WORKER, f"painter-worker-{name}")
        pod["metadata"]["annotations"] = {names.ANNOTATION_REVISION: revision}
        self.api.store(PODS.path(NAMESPACE, pod["metadata"]["name"]), {"kind": "Pod", **pod})


async def begin(figures: Figures) -> CanaryWorld:
    """A service whose workers have been ready."""
    world = CanaryWorld.build()
    assert isinstance(world, CanaryWorld)
    world.figures = figures
    submit(world, STABLE)
    await world.settle()
    world.add_pod("old", read_revision(world.api.objects[WORKERS]))
    await world.settle()
    return world


def copy(world: CanaryWorld) -> CanaryWorld:
    """The same once more."""
    fork = world.fork()
    copied = CanaryWorld(fork.api, fork.redis, fork.is_direct)
    copied.figures = world.figures
    return copied


@pytest.mark.parametrize(
    ("figures", "runs", "outcome"), [(GOOD, '"compile": "On"', "Passed"), (BAD, "", "Failed")], ids=["good", "bad"]
)
async def test_whichever_request_fails_a_canary_comes_to_the_same_end(
    figures: Figures, runs: str, outcome: str
) -> None:
    before = await begin(figures)
    undisturbed = copy(before)
    submit(undisturbed, CHANGED)
    await undisturbed.settle()
    wanted = undisturbed.describe()
    live = undisturbed.api.objects[WORKERS]
    assert outcome in live["metadata"]["annotations"][names.ANNOTATION_CANARY]
    assert "minReadySeconds" not in live["spec"]
    files: dict[str, str] = undisturbed.api.objects[f"/api/v1/namespaces/{NAMESPACE}/configmaps/painter-config"]["data"]
    assert runs in str(files)
    last_write = max(number for number, (method, _) in enumerate(undisturbed.api.requests) if method != "GET")
    for number, fault in list_faults(undisturbed.api.requests[: last_write + 1]):
        world = copy(before)
        submit(world, CHANGED)
        world.api.choose = partial(choose_one, number, fault)
        await world.settle()
        assert world.describe() == wanted, f"{fault} at request {number}, {undisturbed.api.requests[number]}"
