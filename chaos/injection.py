"""How each fault is done to a cluster, and undone."""

import json
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

from chaos.plan import QUIET_SECONDS, FaultKind, PlannedFault
from chaos.recovery import Injected
from chaos.world import SERVICE, World
from demo import cluster as clusters
from demo.cluster import NAMESPACE, ClusterError

GRACE_SECONDS: Final = 15  # that a spot node has from the warning to its end
AWAY_SECONDS: Final = 40.0  # that a dead node is away
DRAINED_SECONDS: Final = 20.0
CONTROL_PLANE_SECONDS: Final = 10.0
METRICS_SECONDS: Final = 45.0
NODE_SECONDS: Final = 60.0  # within which a node is ready again
READY_SECONDS: Final = 60.0  # within which there is a pod that a fault can hit
MAX_WORKERS: Final = 4
NO_IMAGE: Final = "ghcr.io/easel-dev/no-such-image:1"
METRICS_SERVICE: Final = "easel-metrics"

Moments = dict[str, float]


class Injector:
    """Does what is planned, one fault after the other. ``away_share``: of the times that something is away."""

    def __init__(self, world: World, began: float, values: tuple[str, ...] = (), away_share: float = 1.0) -> None:
        """``began``: the run's beginning, on the machine's monotonic clock; ``values``: of the installed chart."""
        self._world = world
        self._began = began
        self._values = values
        self._away_share = away_share
        self._upgrades = 0
        self._ways: dict[FaultKind, Callable[[int, Moments], str]] = {
            FaultKind.WORKER_KILLED: self._kill_worker,
            FaultKind.GATEWAY_KILLED: self._kill_gateway,
            FaultKind.NODE_DRAINED: self._drain_node,
            FaultKind.NODE_RECLAIMED: self._reclaim_node,
            FaultKind.NODE_LOST: self._lose_node,
            FaultKind.REDIS_KILLED: self._kill_redis,
            FaultKind.REDIS_NODE_LOST: self._lose_master,
            FaultKind.OPERATOR_KILLED: self._kill_operator,
            FaultKind.API_SERVER_RESTARTED: self._restart_api_server,
            FaultKind.ETCD_RESTARTED: self._restart_etcd,
            FaultKind.METRICS_AWAY: self._take_metrics_away,
            FaultKind.ROLLOUT_FAILED: self._roll_out_nonsense,
            FaultKind.CHART_UPGRADED: self._upgrade_chart,
            FaultKind.BURST: self._watch_burst,
        }

    def inject(self, fault: PlannedFault) -> Injected:
        """Wait for its moment, do it, undo it. What it was to hit may not be there just then, and is said."""
        self._sleep_until(fault.at_seconds)
        began, moments = self._now(), Moments()
        try:
            target = self._ways[fault.kind](fault.number, moments)
        except ClusterError as error:
            target = f"not done: {str(error)[-200:]}"  # behind the command, what it said
        return Injected(fault.kind, target, began, self._now(), moments)

    def _now(self) -> float:
        return time.monotonic() - self._began

    def _sleep_until(self, moment: float) -> None:
        time.sleep(max(0.0, moment - self._now()))

    def _stay_away(self, seconds: float) -> None:
        time.sleep(seconds * self._away_share)

    def _kill_one(self, component: str, number: int) -> str:
        pods = self._await_pods(component)
        return self._world.kill_pod(pods[number % len(pods)])

    def _await_pods(self, component: str) -> list[dict[str, Any]]:
        """The ready ones, once there are any. Raises ClusterError."""
        found: list[dict[str, Any]] = []

        def look() -> list[dict[str, Any]]:
            found[:] = self._world.list_pods(component)
            return found

        if self._world.wait_until(look, bool, READY_SECONDS) is None:
            raise ClusterError(f"no {component} was ready within {READY_SECONDS:.0f} s")
        return found

    def _kill_worker(self, number: int, _: Moments) -> str:
        return self._kill_one("worker", number)

    def _kill_gateway(self, number: int, _: Moments) -> str:
        return self._kill_one("gateway", number)

    def _kill_operator(self, _: int, __: Moments) -> str:
        """The one that leads."""
        lease = self._world.cluster.get("lease", "easel-operator", "-n", NAMESPACE)
        leader = lease["spec"].get("holderIdentity", "")
        pods = self._await_pods("operator")
        found = [pod for pod in pods if pod["metadata"]["name"] == leader] or pods
        return self._world.kill_pod(found[0])

    def _kill_redis(self, _: int, __: Moments) -> str:
        return self._world.kill_pod(self._world.find_master())

    def _find_gpu_node(self, number: int) -> str:
        """One with a worker, if there are workers."""
        workers = self._await_pods("worker")
        return str(workers[number % len(workers)]["spec"]["nodeName"])

    def _drain_node(self, number: int, _: Moments) -> str:
        node = self._find_gpu_node(number)
        try:
            self._world.devcluster("node", "drain", node)
            self._stay_away(DRAINED_SECONDS)
        finally:
            self._world.devcluster("node", "uncordon", node)
        return node

    def _reclaim_node(self, number: int, moments: Moments) -> str:
        """As a cloud does it: told beforehand, drained as far as the time goes, gone."""
        node = self._find_gpu_node(number)
        began = time.monotonic()
        drain = threading.Thread(target=self._drain_within_grace, args=(node,))
        drain.start()
        time.sleep(max(0.0, GRACE_SECONDS - (time.monotonic() - began)))
        self._be_without(node, moments)
        drain.join()
        self._world.devcluster("node", "uncordon", node)
        return node

    def _drain_within_grace(self, node: str) -> None:
        words = ("--ignore-daemonsets", "--delete-emptydir-data", "--force", f"--timeout={GRACE_SECONDS}s")
        with suppress(ClusterError):  # what isn't gone by then dies with its node
            self._world.cluster.kubectl("drain", node, f"--grace-period={GRACE_SECONDS}", *words)

    def _lose_node(self, number: int, moments: Moments) -> str:
        node = self._find_gpu_node(number)
        self._be_without(node, moments)
        return node

    def _lose_master(self, _: int, moments: Moments) -> str:
        pod = self._world.find_master()
        self._be_without(pod["spec"]["nodeName"], moments)
        return f"{pod['metadata']['name']} on {pod['spec']['nodeName']}"

    def _be_without(self, node: str, moments: Moments) -> None:
        self._world.devcluster("node", "kill", node)
        began = time.monotonic()
        try:
            self._stay_away(AWAY_SECONDS)
        finally:
            self._world.devcluster("node", "restart", node)
        moments["node_back_after_seconds"] = time.monotonic() - began
        self._world.wait_until(lambda: self._is_node_ready(node), bool, NODE_SECONDS)

    def _is_node_ready(self, node: str) -> bool:
        conditions = self._world.cluster.get("node", node)["status"]["conditions"]
        return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)

    def _restart_api_server(self, _: int, moments: Moments) -> str:
        return self._restart_component("apiserver", moments)

    def _restart_etcd(self, _: int, moments: Moments) -> str:
        return self._restart_component("etcd", moments)

    def _restart_component(self, name: str, moments: Moments) -> str:
        began = time.monotonic()
        self._world.devcluster("kill", name)
        try:
            self._stay_away(CONTROL_PLANE_SECONDS)
        finally:
            self._world.devcluster("restart", name)
        ready = self._world.wait_until(
            lambda: self._world.cluster.kubectl("get", "--raw", "/readyz"), bool, NODE_SECONDS
        )
        if ready is not None:
            moments["api_server_ready_after_seconds"] = time.monotonic() - began
        return name

    def _take_metrics_away(self, _: int, __: Moments) -> str:
        """The Service in front of the operator's API leads nowhere: the API server answers 503 in its place."""
        service = self._world.cluster.get("service", METRICS_SERVICE, "-n", NAMESPACE)
        try:
            self._select(METRICS_SERVICE, {"app.kubernetes.io/component": "nobody"})
            self._stay_away(METRICS_SECONDS)
        finally:
            self._select(METRICS_SERVICE, service["spec"]["selector"])
        return METRICS_SERVICE

    def _select(self, service: str, selector: dict[str, str]) -> None:
        patch = json.dumps({"spec": {"selector": selector}})
        self._world.cluster.kubectl("patch", "service", service, "-n", NAMESPACE, "--type=merge", "-p", patch)

    def _roll_out_nonsense(self, _: int, moments: Moments) -> str:
        """An image that isn't there; the service goes back by itself. Then its spec is mended."""
        self._world.patch_service({"worker": {"image": NO_IMAGE}})
        try:
            back = self._world.wait_until(
                lambda: self._world.read_condition("Progressing"), lambda seen: seen[1] == "RolledBack", 120
            )
        finally:
            self._world.patch_service({"worker": {"image": None}})
        if back is None:
            raise ClusterError(f"{SERVICE} did not go back within 120 s")
        moments["went_back_after_seconds"] = back
        return f"worker.image: {NO_IMAGE}"

    def _upgrade_chart(self, _: int, moments: Moments) -> str:
        """Other annotations of all pods: operators, gateways and workers are replaced."""
        self._upgrades += 1
        mark = f"metadata.annotations.upgrade=number-{self._upgrades}"
        pods = [f"defaults.{role}.podTemplate.{mark}" for role in ("gateway", "worker")]
        began = time.monotonic()
        clusters.install_chart(
            self._world.cluster, *self._values, *pods, f"operator.podAnnotations.upgrade=n{self._upgrades}"
        )
        moments["installed_after_seconds"] = time.monotonic() - began
        replaced = self._world.wait_until(self._are_replaced, bool, 90)
        if replaced is not None:
            moments["replaced_after_seconds"] = time.monotonic() - began
        return f"{NAMESPACE}/{clusters.RELEASE}"

    def _are_replaced(self) -> bool:
        pods = self._world.list_pods("gateway") + self._world.list_pods("worker")
        marks = {pod["metadata"].get("annotations", {}).get("upgrade") for pod in pods}
        return marks == {f"number-{self._upgrades}"}

    def _watch_burst(self, _: int, moments: Moments) -> str:
        """The load itself is planned so: nothing is asked for, then much at once."""
        began = time.monotonic()
        zero = self._world.wait_until(self._count_workers, lambda count: count == 0, QUIET_SECONDS)
        if zero is not None:
            moments["zero_workers_after_seconds"] = zero
        time.sleep(max(0.0, QUIET_SECONDS - (time.monotonic() - began)))
        full = self._world.wait_until(self._count_workers, lambda count: count >= MAX_WORKERS, 50)
        if full is not None:
            moments["all_workers_after_the_burst_seconds"] = full
        return SERVICE if zero is not None else f"{SERVICE}, which did not go to zero"

    def _count_workers(self) -> int:
        pods: list[Any] = self._world.list_pods("worker")
        return len(pods)
