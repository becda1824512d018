"""A model in an image of a registry: where the cluster has no image volumes, a sentence says so and nothing ends."""

from dataclasses import replace

from easel_operator.decide.reconcile import decide

from tests.operator.decide.test_conditions import GATEWAY, build_running, find
from tests.operator.decide.test_reconcile import FIXED
from tests.operator.objects import CAPABLE, build_pod, build_service, build_snapshot

UNABLE = replace(CAPABLE, is_image_volume_supported=False)
IN_IMAGE = {**FIXED, "model": {"source": {"image": {"reference": "registry.example/models/sdxl:1"}}}}


def test_workers_are_not_written_where_the_api_server_would_drop_their_model() -> None:
    plan = decide(replace(build_snapshot(build_service(IN_IMAGE)), capabilities=UNABLE))
    written = {child["metadata"]["name"] for child in plan.applies if child["kind"] == "Deployment"}
    assert written == {"painter-gateway"}
    progressing = find(plan, "Progressing")
    assert (progressing["status"], progressing["reason"]) == ("False", "ApplyFailed")
    assert "doesn't take an image as a volume (volume model). Kubernetes does from 1.35" in progressing["message"]
    assert "put the model on a claim" in progressing["message"]


def test_workers_of_the_model_before_go_on() -> None:
    running = build_running(build_service(FIXED), GATEWAY, build_pod("worker"), workers=3)
    plan = decide(replace(running, service=build_service(IN_IMAGE), capabilities=UNABLE))
    assert plan.deletes == ()
    assert "painter-worker" not in {child["metadata"]["name"] for child in plan.applies}


def test_they_are_written_where_it_has_them() -> None:
    plan = decide(build_snapshot(build_service(IN_IMAGE)))
    assert "painter-worker" in {child["metadata"]["name"] for child in plan.applies}
    plain = decide(replace(build_snapshot(build_service(FIXED)), capabilities=UNABLE))
    assert "painter-worker" in {child["metadata"]["name"] for child in plain.applies}
