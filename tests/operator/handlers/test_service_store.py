"""The services as kopf's watch reports them, healed by lists."""

from easel_contract import names
from easel_operator.cluster.object_store import MAX_TOMBSTONES
from easel_operator.handlers.service_store import ServiceStore
from easel_operator.objects import Json, ServiceKey

A, B = ServiceKey("ns", "a"), ServiceKey("ns", "b")


def body(name: str, version: int, uid: str = "1", generation: int = 1) -> Json:
    return {
        "kind": names.KIND,
        "metadata": {
            "namespace": "ns",
            "name": name,
            "uid": uid,
            "resourceVersion": str(version),
            "generation": generation,
        },
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
    store.replace_all([body("b", 2)], "9")
    assert store.get(A) is None
    assert set(reported) == {A, B}, "those that are left are looked at anew"


def test_a_watch_that_misses_changes_twice_running_is_silent() -> None:
    store, _ = build_store()
    store.replace_all([body("a", 1)], "9")
    assert store.describe_silence() is None, "one list may overtake the watch"
    store.replace_all([body("a", 2, generation=2)], "9")
    assert store.describe_silence() is not None
    store.replace_all([body("a", 2, generation=2)], "9")
    assert store.describe_silence() is None


def test_a_watch_that_delivers_is_not_silent() -> None:
    store, _ = build_store()
    for version in range(1, 5):
        store.observe("MODIFIED", body("a", version, generation=version))
        store.replace_all([body("a", version, generation=version)], "9")
    assert store.describe_silence() is None


def test_a_service_that_came_while_an_older_list_was_read_stays() -> None:
    store, reported = build_store()
    store.observe("ADDED", body("a", 12))
    reported.clear()
    store.replace_all([], "10")
    store.replace_all([], "11")
    assert store.get(A) is not None
    assert reported == []
    assert store.describe_silence() is None, "the watch is ahead, not silent"
    store.replace_all([], "13")
    assert store.get(A) is None, "a newer list is believed"


def test_a_service_that_was_deleted_while_an_older_list_was_read_does_not_come_back() -> None:
    store, reported = build_store()
    store.observe("ADDED", body("a", 5))
    store.observe("DELETED", body("a", 12))
    reported.clear()
    store.replace_all([body("a", 5)], "10")
    store.observe("MODIFIED", body("a", 6))
    assert store.get(A) is None
    assert reported == []
    store.replace_all([body("a", 14, uid="2")], "15")
    assert store.get(A) is not None, "one that was made anew is another one"


def test_a_service_that_a_reconcile_found_gone_does_not_come_back_from_an_older_list() -> None:
    store, _ = build_store()
    store.observe("ADDED", body("a", 5))
    store.forget(A)
    store.replace_all([body("a", 5)], "10")
    assert store.get(A) is None


def test_an_edit_that_the_watch_delivered_while_an_older_list_was_read_stands_and_the_list_is_no_sign_of_silence() -> (
    None
):
    store, _ = build_store()
    store.observe("ADDED", body("a", 12, generation=3))
    for _ in range(3):
        store.replace_all([body("a", 5, generation=2)], "10")
    assert store.get(A) == body("a", 12, generation=3)
    assert store.describe_silence() is None


def test_where_versions_have_no_order_what_comes_last_is_believed() -> None:
    store, _ = build_store()
    store.observe("ADDED", lettered("x"))
    store.observe("MODIFIED", lettered("b"))
    assert store.get(A) == lettered("b")
    store.replace_all([], "c")
    assert store.get(A) is None


def lettered(version: str) -> Json:
    made = body("a", 0)
    made["metadata"]["resourceVersion"] = version
    return made


def test_deletions_are_remembered_up_to_a_bound() -> None:
    store, _ = build_store()
    for number in range(MAX_TOMBSTONES + 500):
        store.observe("DELETED", body("a", number, uid=str(number)))
    assert len(store._tombstones._versions) == MAX_TOMBSTONES


def test_another_status_is_no_other_spec() -> None:
    changed: list[ServiceKey] = []
    said: list[ServiceKey] = []
    store = ServiceStore(on_change=changed.append, on_status=said.append)
    store.observe(None, body("a", 1))
    store.observe("MODIFIED", {**body("a", 2), "status": {"observedGeneration": 1}})
    assert (changed, said) == ([A], [A])
    store.observe("MODIFIED", {**body("a", 3, generation=2), "status": {"observedGeneration": 1}})
    annotated = body("a", 4, generation=2)
    annotated["metadata"]["annotations"] = {"theirs": "1"}
    store.observe("MODIFIED", annotated)
    assert (changed, said) == ([A, A, A], [A])
