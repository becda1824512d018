"""Services that no operator looks after are warned of, once; those of another release aren't."""

from typing import Any

import pytest
from easel_operator.cluster.client import KubernetesClient
from easel_operator.cluster.object_store import ObjectStore
from easel_operator.cluster.writer import ClusterWriter
from easel_operator.handlers.tenancy.outside_services import OutsideServices
from easel_operator.objects import Json
from prometheus_client import REGISTRY

from tests.operator.fake_api import FakeApi
from tests.operator.objects import NOW, build_service


class Cluster(FakeApi):
    """Has these services, in whatever namespace."""

    def __init__(self) -> None:
        super().__init__()
        self.services: list[Json] = []

    async def list_all(self, *_: object, **__: object) -> tuple[list[Json], str]:
        return list(self.services), "1"

    def submit(self, namespace: str, *, observed: int | None = None) -> Json:
        status: dict[str, Any] = {} if observed is None else {"observedGeneration": observed}
        service = build_service(**status)
        service["metadata"] |= {"namespace": namespace, "uid": namespace}
        self.services.append(service)
        return service

    @property
    def events(self) -> list[Json]:
        return [body for path, body in self.bodies.items() if path.endswith("/events")]


def build(api: KubernetesClient) -> OutsideServices:
    writer = ClusterWriter(api, ObjectStore(on_change=lambda _: None), pod_name="a", clock=lambda: NOW)
    return OutsideServices(
        api, writer, wanted=("team-a", "team-b"), namespace="easel-system", is_leader=lambda: True, look_seconds=0
    )


async def test_its_team_reads_in_an_event_why_nothing_happens(caplog: pytest.LogCaptureFixture) -> None:
    api = Cluster()
    api.submit("team-a")
    api.submit("elsewhere")
    outside = build(api)
    await outside.look()
    assert api.events == [], "another release's operator may be about to look at it"
    for _ in range(3):
        await outside.look()
    (event,) = api.events
    assert event["regarding"]["namespace"] == "elsewhere"
    assert event["reason"] == "NotWatched"
    assert "in namespace easel-system watches team-a, team-b, and not elsewhere" in event["note"]
    assert sum(path.endswith("/events") for _, path in api.writes) == 1
    assert REGISTRY.get_sample_value("easel_operator_outside_services") == 1
    assert "elsewhere/painter" in caplog.text


async def test_one_that_another_operator_has_looked_at_is_its_own_affair_until_it_stops() -> None:
    api = Cluster()
    service = api.submit("elsewhere", observed=3)
    outside = build(api)
    for _ in range(3):
        await outside.look()
    assert api.events == []
    service["metadata"]["generation"] = 4
    for _ in range(2):
        await outside.look()
    assert len(api.events) == 1
    service["status"]["observedGeneration"] = 4
    await outside.look()
    assert REGISTRY.get_sample_value("easel_operator_outside_services") == 0
