"""Which pods are marked before the number falls."""

from typing import Any

import pytest
from easel_contract import names
from easel_operator.cluster.informer import trim
from easel_operator.decide.pod_status import PodStatus, read_pod
from easel_operator.decide.scaling import IDLE_COST, MAX_WRITES, decide_deletion_costs
from easel_operator.objects import PODS

from tests.operator.objects import NOW, build_pod


def worker(name: str, cost: str | None = None) -> PodStatus:
    pod: Any = build_pod(names.COMPONENT_WORKER, name)
    pod["metadata"]["annotations"] = {"other": "kept out"}
    if cost is not None:
        pod["metadata"]["annotations"][names.ANNOTATION_DELETION_COST] = cost
    return read_pod(trim(pod, PODS), NOW)  # as the informer keeps it


IDLE = frozenset({"a", "b"})
CASES: dict[str, tuple[list[PodStatus], int, dict[str, int | None]]] = {
    "the number stays": ([worker("a"), worker("c")], 2, {}),
    "the number rises": ([worker("a"), worker("c")], 3, {}),
    "it falls: idle pods are marked": ([worker("a"), worker("b"), worker("c")], 1, {"a": IDLE_COST, "b": IDLE_COST}),
    "what is marked isn't written again": ([worker("a", str(IDLE_COST)), worker("c")], 1, {}),
    "a marked pod that is busy now": ([worker("a"), worker("c", str(IDLE_COST))], 1, {"a": IDLE_COST, "c": None}),
    "nonsense in the annotation": ([worker("a", "soon"), worker("c")], 1, {"a": IDLE_COST}),
}


@pytest.mark.parametrize(("workers", "desired", "expected"), CASES.values(), ids=CASES.keys())
def test_costs(workers: list[PodStatus], desired: int, expected: dict[str, int | None]) -> None:
    assert decide_deletion_costs(workers, IDLE, replicas=2, desired_replicas=desired) == expected


def test_writes_are_bounded_and_busy_pods_come_first() -> None:
    workers = [worker(f"idle-{number}") for number in range(200)] + [worker("zz-busy", str(IDLE_COST))]
    idle = frozenset(pod.name for pod in workers[:-1])
    costs = decide_deletion_costs(workers, idle, replicas=201, desired_replicas=1)
    assert len(costs) == MAX_WRITES
    assert costs["zz-busy"] is None
