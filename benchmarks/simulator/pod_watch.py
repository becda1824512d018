"""What happens to a service's worker pods and its Deployment: the API server's events, and when they came."""

import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from easel_contract import names
from kubernetes import client, watch
from urllib3.exceptions import HTTPError

from benchmarks.simulator.comparison import PodLife
from demo.cluster import Cluster
from demo.observe import is_ready, load_configuration

NAMESPACE: Final = "default"
WATCH_SECONDS: Final = 2  # after so long a watch asks again, and can end
RETRY_SECONDS: Final = 0.5
GONE: Final = 410  # the API server no longer has the events since the version that was asked for
FROM_THE_PRESENT: Final = "0"


class WatchError(Exception):
    """What was seen has a gap: the run says nothing."""


@dataclass
class PodTimes:
    """Wall-clock times (seconds since the epoch) of a pod; infinity for what didn't happen."""

    created_at: float
    ready_at: float = math.inf
    leaving_at: float = math.inf
    gone_at: float = math.inf

    @property
    def is_ready(self) -> bool:
        """Whether it became ready and isn't on its way out."""
        return math.isfinite(self.ready_at) and not self.is_leaving

    @property
    def is_leaving(self) -> bool:
        """Whether it was chosen for removal."""
        return math.isfinite(min(self.leaving_at, self.gone_at))

    def to_life(self, began_at: float) -> PodLife:
        """In seconds since ``began_at``."""
        return PodLife(
            self.created_at - began_at, self.ready_at - began_at, self.leaving_at - began_at, self.gone_at - began_at
        )


@dataclass
class Seen:
    """What was seen so far."""

    pods: dict[str, PodTimes] = field(default_factory=dict)  # by name
    orders: list[tuple[float, int]] = field(default_factory=list)  # wall-clock time, spec.replicas of the Deployment


class PodWatch:
    """Watches in two threads of its own while the context is open."""

    def __init__(self, cluster: Cluster, service: str) -> None:
        self._api = client.ApiClient(load_configuration(cluster))
        self._service = service
        self._stop = threading.Event()
        self._lost = ""  # why events are missing, if any are
        self._changed = threading.Condition()
        self.seen = Seen()
        selector = f"{names.LABEL_SERVICE}={service},{names.LABEL_COMPONENT}={names.COMPONENT_WORKER}"
        pods = client.CoreV1Api(self._api).list_namespaced_pod
        deployments = client.AppsV1Api(self._api).list_namespaced_deployment
        self._threads = [
            threading.Thread(target=self._follow, args=(pods, selector, self._note_pod), daemon=True),
            threading.Thread(target=self._follow, args=(deployments, selector, self._note_deployment), daemon=True),
        ]

    def __enter__(self) -> "PodWatch":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()
        if self._lost:
            raise WatchError(
                f"events of {self._service} were lost, so pods may be missing; measure again: {self._lost}"
            )

    def wait_until(self, holds: Callable[[Seen], bool], what: str, timeout_seconds: float) -> None:
        """Raises TimeoutError with what was seen last."""
        with self._changed:
            if not self._changed.wait_for(lambda: holds(self.seen), timeout_seconds):
                raise TimeoutError(f"{what}: not within {timeout_seconds:.0f} s; last seen: {self.seen}")

    def _follow(self, listing: Callable[..., Any], selector: str, note: Callable[[str, dict[str, Any]], None]) -> None:
        """Each event with the time at which it came; a connection that breaks is opened anew where it ended."""
        version = FROM_THE_PRESENT
        while not self._stop.is_set():
            stream: Any = watch.Watch()  # type: ignore[no-untyped-call]
            try:
                for event in stream.stream(
                    listing, NAMESPACE, label_selector=selector, resource_version=version, timeout_seconds=WATCH_SECONDS
                ):
                    body = event["raw_object"]
                    version = body["metadata"]["resourceVersion"]
                    with self._changed:
                        note(event["type"], body)
                        self._changed.notify_all()
            except (client.ApiException, HTTPError) as error:
                if getattr(error, "status", None) == GONE:
                    self._lost, version = str(error), FROM_THE_PRESENT
                self._stop.wait(RETRY_SECONDS)

    def _note_pod(self, kind: str, body: dict[str, Any]) -> None:
        now = time.time()
        name = body["metadata"]["name"]
        pod = self.seen.pods.setdefault(name, PodTimes(created_at=now))
        if is_ready(body):
            pod.ready_at = min(pod.ready_at, now)
        if "deletionTimestamp" in body["metadata"]:
            pod.leaving_at = min(pod.leaving_at, now)
        if kind == "DELETED":
            pod.gone_at = min(pod.gone_at, now)

    def _note_deployment(self, _kind: str, body: dict[str, Any]) -> None:
        replicas = body["spec"]["replicas"]
        if not self.seen.orders or self.seen.orders[-1][1] != replicas:
            self.seen.orders.append((time.time(), replicas))
