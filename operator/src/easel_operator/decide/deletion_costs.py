"""Which pods a ReplicaSet should give up first: those that run nothing.

It compares the annotation pod-deletion-cost before age, so it must be right at the moment when the number falls; at any
other time nobody reads it, and it isn't written.
https://kubernetes.io/docs/concepts/workloads/controllers/replicaset/#pod-deletion-cost
"""

from collections.abc import Collection
from typing import Final

from easel_operator.decide.pods import PodFacts

IDLE_COST: Final = -100
MAXIMUM_WRITES: Final = 64  # per service and tick


def decide_deletion_costs(
    workers: Collection[PodFacts], idle_pods: frozenset[str], *, replicas: int, desired_replicas: int
) -> dict[str, int | None]:
    """The costs to write, by pod name, before ``desired_replicas`` is published; None takes the annotation away.

    Empty unless the number of pods falls. A busy pod that was idle once is as dear as any other again.
    """
    if desired_replicas >= replicas:
        return {}
    wanted = {worker.name: IDLE_COST if worker.name in idle_pods else None for worker in workers}
    # Busy pods first: to lose one of them is what this is about.
    changed = sorted(
        (worker for worker in workers if worker.deletion_cost != wanted[worker.name]),
        key=lambda worker: (worker.deletion_cost is None, worker.name),
    )
    return {worker.name: wanted[worker.name] for worker in changed[:MAXIMUM_WRITES]}
