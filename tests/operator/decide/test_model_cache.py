"""With a cache, workers of a model are made once a Job has fetched it; what serves meanwhile, and what is said."""

from dataclasses import replace
from typing import Any

from easel_contract import names
from easel_contract.resource import StableDiffusionServiceSpec
from easel_contract.resource.model import ModelSpec
from easel_operator.decide.model_cache import read_progress
from easel_operator.decide.reconcile import decide
from easel_operator.decide.rollouts.going_back import take_earlier
from easel_operator.decide.snapshot import ReconcilePlan, Snapshot
from easel_operator.manifests.metadata import read_revision
from easel_operator.objects import Json

from tests.operator.decide.test_conditions import find
from tests.operator.decide.test_rollouts import MISSING_MODEL, carry_out, edit, find_deployment, stamp
from tests.operator.objects import HUB_MODEL, RELEASE, build_container_status, build_pod, build_service, build_snapshot

CACHED: dict[str, Any] = {**HUB_MODEL, "cache": {"claimName": "models"}}
OTHER: dict[str, Any] = {**MISSING_MODEL, "cache": {"claimName": "models"}}


def list_applied(plan: ReconcilePlan) -> set[tuple[str, str]]:
    return {(child["kind"], child["metadata"]["labels"][names.LABEL_COMPONENT]) for child in plan.applies}


def find_job(snapshot: Snapshot) -> Json:
    return next(child for child in snapshot.children.values() if child["kind"] == "Job")


def complete(snapshot: Snapshot) -> Snapshot:
    """All Jobs have done their work."""
    done = {"status": {"conditions": [{"type": "Complete", "status": "True"}], "succeeded": 1}}
    children = {key: {**child, **done} if key.kind == "Job" else child for key, child in snapshot.children.items()}
    return replace(snapshot, children=children)


def build_fetching_pod(job: Json, **container: Any) -> Json:
    pod = build_pod(names.COMPONENT_MODEL_CACHE, f"{job['metadata']['name']}-x", is_ready=False)
    pod["metadata"]["ownerReferences"] = [{"kind": "Job", "name": job["metadata"]["name"], "controller": True}]
    if container:
        pod["status"]["containerStatuses"] = [build_container_status(**container)]
    return pod


def begin_cached(**spec: Any) -> Snapshot:
    """A new service, whose children were written once."""
    whole = {"model": CACHED, "scaling": {"minReplicas": 0, "maxReplicas": 8}, **spec}
    return carry_out(build_snapshot(build_service(whole)))


def test_no_worker_takes_a_gpu_before_its_model_is_in_the_cache() -> None:
    fetching = begin_cached()
    kinds = {(key.kind, child["metadata"]["labels"][names.LABEL_COMPONENT]) for key, child in fetching.children.items()}
    assert ("Job", "model-cache") in kinds
    assert ("Deployment", "gateway") in kinds
    assert not {("Deployment", "worker"), ("HorizontalPodAutoscaler", "worker")} & kinds
    assert list_applied(decide(fetching)) == set()
    assert list_applied(decide(complete(fetching))) == {("Deployment", "worker"), ("HorizontalPodAutoscaler", "worker")}


def test_workers_of_the_old_model_go_on_while_the_new_one_is_fetched() -> None:
    running = carry_out(complete(begin_cached()))
    before = find_deployment(running, "worker")
    changed = edit(running, model=OTHER)
    assert ("Job", "model-cache") in list_applied(decide(changed))
    fetching = carry_out(changed)
    assert find_deployment(fetching, "worker") == before
    serving = tuple(
        stamp(build_pod(component), find_deployment(fetching, component)) for component in ("gateway", "worker")
    )
    plan = decide(replace(fetching, pods=serving))
    assert list_applied(plan) == set()
    assert find(plan, "Ready")["status"] == "True"
    assert find(plan, "Progressing")["reason"] == "RollingOut"
    assert "fetches the model into its cache" in find(plan, "Progressing")["message"]
    assert list_applied(decide(complete(fetching))) == {("Deployment", "worker")}


def test_a_claim_that_grows_replaces_no_worker_and_going_back_does_not_shrink_it() -> None:
    smaller, larger = ({**HUB_MODEL, "cache": {"size": size}} for size in ("50Gi", "900Gi"))
    running = carry_out(complete(begin_cached(model=smaller)))
    before = find_deployment(running, "worker")
    grown = carry_out(edit(running, model=larger))
    claims = [child for key, child in grown.children.items() if key.kind == "PersistentVolumeClaim"]
    assert [claim["spec"]["resources"]["requests"]["storage"] for claim in claims] == ["900Gi"]
    assert read_revision(find_deployment(grown, "worker")) == read_revision(before)
    runs = before["metadata"]["annotations"][names.ANNOTATION_RUNS]
    spec = StableDiffusionServiceSpec.model_validate({"model": {**OTHER, "cache": larger["cache"]}, "replicas": 1})
    earlier = take_earlier(spec, RELEASE, runs)
    assert earlier is not None
    assert earlier[0].model == ModelSpec.model_validate(larger), "the earlier model on the claim as it is"


def test_a_job_of_another_model_is_deleted_and_its_claim_stays() -> None:
    fetching = carry_out(begin_cached(model={**HUB_MODEL, "cache": {"size": "40Gi"}}))
    other = edit(fetching, model={**MISSING_MODEL, "cache": {"size": "40Gi"}})
    assert [(key.kind, key.name) for key in decide(other).deletes] == [("Job", find_job(fetching)["metadata"]["name"])]


def test_a_finished_job_that_is_deleted_stops_no_worker() -> None:
    running = carry_out(complete(carry_out(complete(begin_cached()))))
    lost = replace(running, children={key: child for key, child in running.children.items() if key.kind != "Job"})
    tolerant = edit(lost, worker={"tolerations": [{"key": "spot", "operator": "Exists"}]})
    assert list_applied(decide(tolerant)) == {("Job", "model-cache"), ("Deployment", "worker")}


def test_what_the_hub_says_against_a_fetch_is_said_of_the_service() -> None:
    fetching = begin_cached()
    ended = {"exitCode": 78, "message": "model owner/gone: owner/gone on the Hugging Face Hub does not exist"}
    pod = build_fetching_pod(find_job(fetching), ended=ended, restarts=1, waiting="CrashLoopBackOff")
    plan = decide(replace(fetching, pods=(pod,)))
    loaded = find(plan, "ModelLoaded")
    assert (loaded["status"], loaded["reason"]) == ("False", "ModelLoadFailed")
    assert "does not exist" in loaded["message"]


def test_a_fetch_that_goes_well_is_no_failure() -> None:
    fetching = begin_cached()
    plan = decide(replace(fetching, pods=(build_fetching_pod(find_job(fetching)), build_pod("gateway"))))
    loaded, ready = find(plan, "ModelLoaded"), find(plan, "Ready")
    assert (loaded["reason"], ready["reason"]) == ("Loading", "Loading")
    assert "fetches the model into its cache" in ready["message"]


def test_who_waits_for_a_download_reads_how_far_it_is() -> None:
    fetching = begin_cached()
    pods = (build_fetching_pod(find_job(fetching)), build_pod("gateway"))
    progress = read_progress({"needed": 34e9, "fetched": 17.1e9, "verified": 0})
    plan = decide(replace(fetching, pods=pods, fetch=progress))
    assert plan.status_patch is not None
    assert plan.status_patch["status"]["modelCache"] == {
        "neededBytes": 34_000_000_000,
        "fetchedBytes": 17_000_000_000,
        "verifiedBytes": 0,
    }
    assert "17.0 of 34.0 GB are there (50 %)" in find(plan, "Ready")["message"]
    done = decide(replace(complete(fetching), pods=pods, fetch=progress))
    assert done.status_patch is not None
    assert "modelCache" not in done.status_patch["status"]


def test_a_job_that_doesnt_know_yet_what_it_needs_says_nothing() -> None:
    assert read_progress({}) is None
    assert read_progress({"needed": 0, "fetched": 0}) is None


def test_a_cache_that_others_fill_has_no_job_and_holds_nobody_up() -> None:
    offline = {**HUB_MODEL, "cache": {"claimName": "models", "fill": "Never"}}
    kinds = list_applied(decide(build_snapshot(build_service({"model": offline, "replicas": 1}))))
    assert ("Deployment", "worker") in kinds
    assert not {kind for kind, _ in kinds} & {"Job", "PersistentVolumeClaim"}


def test_the_job_reaches_the_hub_as_workers_do_and_takes_no_place_of_theirs() -> None:
    mirror = {"name": "HF_ENDPOINT", "value": "https://hub.example.com"}
    overlay = {
        "serviceAccountName": "weights-reader",
        "priorityClassName": "batch",
        "nodeSelector": {"gpu": "l4"},
        "securityContext": {"fsGroup": 2000},
        "volumes": [{"name": "ca", "configMap": {"name": "company-ca"}}, {"name": "cache", "emptyDir": {}}],
        "containers": [{"name": "server", "env": [mirror]}, {"name": "log", "image": "registry.example/log:1"}],
    }
    pod = find_job(begin_cached(worker={"podTemplate": {"spec": overlay}}))["spec"]["template"]["spec"]
    (server,) = pod["containers"]
    assert mirror in server["env"]
    assert pod["serviceAccountName"] == "weights-reader"
    assert pod["securityContext"]["fsGroup"] == 2000
    assert {each["name"] for each in pod["volumes"]} == {"config", "tmp", "model-cache", "ca"}
    assert not {"priorityClassName", "nodeSelector"} & pod.keys()
    assert "nvidia.com/gpu" not in str(server["resources"])


def test_workers_of_a_cache_cannot_write_it() -> None:
    running = carry_out(complete(begin_cached()))
    pod = find_deployment(running, "worker")["spec"]["template"]["spec"]
    (mount,) = [each for each in pod["containers"][0]["volumeMounts"] if each["name"] == "model-cache"]
    (volume,) = [each for each in pod["volumes"] if each["name"] == "model-cache"]
    assert mount["readOnly"]
    assert volume["persistentVolumeClaim"] == {"claimName": "models", "readOnly": True}
