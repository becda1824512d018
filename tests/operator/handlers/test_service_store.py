"""The services as kopf's watch reports them, healed by lists."""

from easel_operator.handlers.service_store import ServiceStore
from easel_operator.objects import Json, ServiceKey

A, B = ServiceKey("ns", "a"), ServiceKey("ns", "b")


def body(name: str, version: int, uid: str = "1", generation: int = 1) -> Json:
    return {
        "metadata": {
            "namespace": "ns",
            "name": name,
            "uid": uid,
            "resourceVersion": str(version),
            "generation": generation,
        }
    }


def build_store() -> tuple[ServiceStore, list[ServiceKey]]:
    reported: list[ServiceKey] = []
    return ServiceStore(on_change=reported.append), reported


def test_events_are_reported_and_repetitions_are_not() -> None:
    store, reported = build_store()
    store.observe(None, body("a", 1))
    store.observe("MODIFIED", body("a", 1))
    store.observe("MODIFIED", body("a", 3))
    store.observe("MODIFIED", body("a", 2))
    assert reported == [A, A]
    assert store.get(A) == body("a", 3)


def test_a_late_deletion_of_an_earlier_service_of_that_name_is_ignored() -> None:
    store, _ = build_store()
    store.observe(None, body("a", 5, uid="2"))
    store.observe("DELETED", body("a", 4, uid="1"))
    assert store.get(A) is not None
    store.observe("DELETED", body("a", 6, uid="2"))
    assert store.get(A) is None


def test_a_list_heals_a_deletion_that_the_watch_missed() -> None:
    store, reported = build_store()
    store.observe(None, body("a", 1))
    store.observe(None, body("b", 2))
    reported.clear()
    store.replace_all([body("b", 2)])
    assert store.get(A) is None
    assert set(reported) == {A, B}, "those that are left are looked at anew"


def test_a_watch_that_misses_changes_twice_running_is_silent() -> None:
    store, _ = build_store()
    store.replace_all([body("a", 1)])
    assert store.describe_silence() is None, "one list may overtake the watch"
    store.replace_all([body("a", 2, generation=2)])
    assert store.describe_silence() is not None
    store.replace_all([body("a", 2, generation=2)])
    assert store.describe_silence() is None


def test_a_watch_that_delivers_is_not_silent() -> None:
    store, _ = build_store()
    for version in range(1, 5):
        store.observe("MODIFIED", body("a", version, generation=version))
        store.replace_all([body("a", version, generation=version)])
    assert store.describe_silence() is None
