"""Namespaces that are to be watched come, go and lack rights, one by one; against an API server in memory."""

import asyncio
from typing import Any

import pytest
from easel_operator.cluster.client import ApiUnreachableError
from easel_operator.handlers.tenancy.watched_namespaces import WatchedNamespaces
from easel_operator.objects import NAMESPACES, SELF_ACCESS_REVIEWS, Json
from prometheus_client import REGISTRY

from tests.operator.fake_api import FakeApi


class Cluster(FakeApi):
    def __init__(self, *namespaces: str) -> None:
        super().__init__()
        self.forbidden: set[str] = set()
        for name in namespaces:
            self.add(name)

    def add(self, name: str) -> None:
        self.store(NAMESPACES.path(None, name), {"metadata": {"name": name}})

    async def request(self, method: str, path: str, *, body: Any = None, **rest: Any) -> Json:
        answer = await super().request(method, path, body=body, **rest)
        if path == SELF_ACCESS_REVIEWS.path(None):
            asked = body["spec"]["resourceAttributes"]["namespace"]
            return {"status": {"allowed": asked not in self.forbidden}}
        return answer


def look_up(namespaces: WatchedNamespaces) -> dict[str, list[str]]:
    return {"watched": list(namespaces.watched), "missing": list(namespaces.missing)}


def count(state: str) -> float | None:
    return REGISTRY.get_sample_value("easel_operator_watched_namespaces", {"state": state})


async def test_one_that_does_not_exist_is_said_once_and_keeps_no_other_waiting(
    caplog: pytest.LogCaptureFixture,
) -> None:
    namespaces = WatchedNamespaces(Cluster("a"), ("a", "b"), is_listed=lambda _: True)
    for _ in range(3):
        await namespaces.look()
    assert look_up(namespaces) == {"watched": ["a"], "missing": ["b"]}
    assert namespaces.is_settled.is_set()
    assert caplog.text.count("Namespace b of operator.watchNamespaces doesn't exist") == 1
    assert (count("Watched"), count("Missing")) == (1, 1)


async def test_one_without_rights_is_said_and_watched_once_they_are_there(caplog: pytest.LogCaptureFixture) -> None:
    api = Cluster("a")
    api.forbidden.add("a")
    namespaces = WatchedNamespaces(api, ("a",), is_listed=lambda _: True)
    await namespaces.look()
    assert look_up(namespaces)["watched"] == []
    assert "the operator has no rights there. Apply the chart again" in caplog.text
    waiting = asyncio.create_task(namespaces.wait_for_others(()))
    api.forbidden.clear()
    await namespaces.look()
    await asyncio.wait_for(waiting, 5)
    assert look_up(namespaces)["watched"] == ["a"]


async def test_one_that_comes_is_watched_when_its_objects_are_known() -> None:
    api, listed = Cluster(), set[str]()
    namespaces = WatchedNamespaces(api, ("a",), is_listed=lambda name: name in listed)
    await namespaces.look()
    readable = asyncio.create_task(namespaces.wait_until_readable("a"))
    api.add("a")
    await namespaces.look()
    await asyncio.wait_for(readable, 5)
    assert look_up(namespaces)["watched"] == [], "its services' children aren't known yet"
    listed.add("a")
    await namespaces.look()
    assert look_up(namespaces)["watched"] == ["a"]


async def test_one_that_goes_is_missing_and_an_api_server_that_is_away_changes_nothing() -> None:
    api = Cluster("a", "b")
    namespaces = WatchedNamespaces(api, ("a", "b"), is_listed=lambda _: True)
    await namespaces.look()
    api.fault = _away
    await namespaces.look()
    assert look_up(namespaces)["watched"] == ["a", "b"]
    api.fault = lambda _method, _path: None
    del api.objects[NAMESPACES.path(None, "b")]
    await namespaces.look()
    assert look_up(namespaces) == {"watched": ["a"], "missing": ["b"]}


async def test_the_whole_cluster_needs_no_look() -> None:
    api = Cluster()
    namespaces = WatchedNamespaces(api, (), is_listed=lambda _: False)
    assert namespaces.is_cluster_wide
    assert namespaces.is_settled.is_set()
    await namespaces.wait_until_readable(None)
    assert api.requests == []


def _away(method: str, path: str) -> Exception:
    return ApiUnreachableError(method, path, TimeoutError())
