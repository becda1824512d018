"""The children and pods by owner, newest version first."""

from easel_contract import names
from easel_operator.cluster.object_store import ObjectStore
from easel_operator.objects import Json, ObjectKey, ServiceKey

OWNER = ServiceKey("ns", "painter")
KEY = ObjectKey("Pod", "ns", "p")


def pod(version: int, uid: str = "1", service: str | None = "painter", name: str = "p") -> Json:
    labels = {names.LABEL_SERVICE: service} if service else {}
    metadata = {"namespace": "ns", "name": name, "uid": uid, "resourceVersion": str(version), "labels": labels}
    return {"kind": "Pod", "metadata": metadata}


def build_store() -> tuple[ObjectStore, list[ServiceKey]]:
    reported: list[ServiceKey] = []
    return ObjectStore(on_change=reported.append), reported


def test_an_older_version_doesn_t_replace_a_newer_one() -> None:
    store, reported = build_store()
    store.put(pod(10))
    store.put(pod(9))
    store.put(pod(10))
    assert store.get(KEY) == pod(10)
    assert reported == [OWNER]


def test_a_new_object_of_the_same_name_replaces_the_old_one_whatever_its_version() -> None:
    store, _ = build_store()
    store.put(pod(10, uid="1"))
    store.put(pod(3, uid="2"))
    assert store.get(KEY) == pod(3, uid="2")


def test_a_removal_is_reported() -> None:
    store, reported = build_store()
    store.put(pod(1))
    store.remove(KEY)
    store.remove(KEY)
    assert reported == [OWNER, OWNER]
    assert store.of(OWNER) == {}


def test_a_list_removes_what_it_doesn_t_have() -> None:
    store, reported = build_store()
    store.put(pod(1, name="gone"))
    store.put(pod(2, name="kept"))
    reported.clear()
    store.replace_kind("Pod", None, [pod(2, name="kept"), pod(3, name="new")], "9")
    assert sorted(key.name for key in store.of(OWNER)) == ["kept", "new"]
    assert reported == [OWNER, OWNER]


def test_a_list_of_one_namespace_leaves_the_others() -> None:
    store, _ = build_store()
    store.put(pod(1))
    store.replace_kind("Pod", "other", [], "9")
    assert store.get(KEY) is not None


def test_an_object_that_changes_its_owner_leaves_the_old_one() -> None:
    store, _ = build_store()
    store.put(pod(1))
    store.put(pod(2, service="sketcher"))
    assert store.of(OWNER) == {}
    assert list(store.of(ServiceKey("ns", "sketcher"))) == [KEY]


def test_an_object_that_we_wrote_while_an_older_list_was_read_stays() -> None:
    store, _ = build_store()
    store.put(pod(12))
    store.replace_kind("Pod", None, [], "10")
    assert store.get(KEY) is not None
    store.replace_kind("Pod", None, [], "13")
    assert store.get(KEY) is None


def test_an_object_that_was_deleted_while_an_older_list_was_read_does_not_come_back() -> None:
    store, reported = build_store()
    store.put(pod(5))
    store.delete(pod(12))
    reported.clear()
    store.replace_kind("Pod", None, [pod(5)], "10")
    store.put(pod(6))
    assert (store.get(KEY), reported) == (None, [])
    store.put(pod(14))
    assert store.get(KEY) is not None, "it lost its label and got it back"


def test_what_a_list_showed_to_be_gone_does_not_come_back_from_an_earlier_answer() -> None:
    store, _ = build_store()
    store.put(pod(5))
    store.replace_kind("Pod", None, [], "10")
    store.put(pod(6))
    assert store.get(KEY) is None


def test_a_late_report_of_a_deletion_leaves_the_object_that_took_the_name() -> None:
    store, _ = build_store()
    store.put(pod(5, uid="2"))
    store.delete(pod(4, uid="1"))
    assert store.get(KEY) == pod(5, uid="2")


def test_a_version_that_says_nothing_new_is_kept_and_no_news() -> None:
    store, reported = build_store()
    store.put(pod(1))
    store.put(pod(2))
    assert store.get(KEY) == pod(2)
    assert reported == [OWNER]
    store.put({**pod(3), "status": {"phase": "Running"}})
    assert reported == [OWNER, OWNER]
