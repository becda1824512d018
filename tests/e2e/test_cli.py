"""``easel`` as it is typed, against a cluster with real pods: a port-forward, proxies, logs."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from tests.cli.run import PROCESS_SECONDS, Done, run_here, run_process
from tests.e2e.waiting import Services, tiny, wait_until

NAME: Final = "typed"
KEY: Final = "esl_live_of_this_test"
ENGINE: Final = {"kind": "Synthetic", "synthetic": {"millisecondsPerStep": 1, "millisecondsPerImage": 40}}
ROLLED_OUT_SECONDS: Final = 150
USAGE_SECONDS: Final = 60.0

Easel = Callable[..., Done]


@pytest.fixture(scope="module")
def services(cluster: Any) -> Iterator[Services]:
    """One service with a key, for all tests of this module."""
    held = Services(cluster)
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "typed-keys"}, "stringData": {"acme": KEY}}
    cluster.kubectl("apply", "-f", "-", stdin=json.dumps(secret))
    held.apply(
        tiny(
            NAME,
            worker__pricePerGpuHour=1.8,
            replicas=1,
            scaling=None,
            worker__engine=ENGINE,
            gateway__apiKeysSecretName="typed-keys",
        )
    )
    held.wait_for(NAME, "Ready", "True", timeout_seconds=ROLLED_OUT_SECONDS)
    held.wait_for(NAME, "Progressing", "True", "Complete", timeout_seconds=ROLLED_OUT_SECONDS)
    yield held
    held.delete_all()
    cluster.kubectl("delete", "secret", "typed-keys")


@pytest.fixture
def easel(services: Services, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Easel:
    """In this process: each of its own would import everything anew."""
    monkeypatch.setenv("KUBECONFIG", str(services.cluster.kubeconfig))
    return partial(run_here, capsys)


def test_the_status_says_why_so_many_workers_and_what_they_run(easel: Easel) -> None:
    done = easel("status", NAME)
    assert done.status == 0, done.err
    assert done.out.startswith(f"default/{NAME}  Ready=True, Available: ")
    assert re.search("^  why +spec.replicas is 1$", done.out, re.MULTILINE)
    assert "runs now" in done.out
    assert "wrong" not in done.out
    listed = easel("status", "--all-namespaces").out.splitlines()
    assert listed[0].split() == ["NAMESPACE", "NAME", "READY", "REASON", "WORKERS", "WHY"]
    assert any(line.split()[:5] == ["default", NAME, "True", "Available", "1/1"] for line in listed)
    assert json.loads(easel("status", NAME, "--json").out)["ready_workers"] == 1


def test_a_service_that_is_not_there_is_said_with_those_that_are(easel: Easel) -> None:
    done = easel("status", "type")
    assert done.status == 1
    assert "no service type in namespace default: there are " in done.err
    assert NAME in done.err


def test_an_image_comes_through_a_port_forward_with_the_services_own_key_and_its_job_can_be_followed(
    easel: Easel, tmp_path: Path
) -> None:
    done = easel("generate", "a red fox", "--service", NAME, "--steps", "3", "--json", "-o", str(tmp_path))
    assert done.status == 0, done.err
    said = json.loads(done.out)
    assert Path(said["files"][0]).read_bytes().startswith(b"\x89PNG")

    job = said["id"]
    found = wait_until(
        lambda: easel("logs", NAME, "--job", job).out,
        lambda text: "gateway" in text and "Succeeded" in text,
        "logs",
        60,
    ).splitlines()
    assert any(f"{NAME}-worker-" in line and f"job {job}: attempt 1" in line for line in found)
    assert any(f"{NAME}-gateway-" in line and "route=/v1/predictions" in line for line in found)
    assert [line.split()[0] for line in found] == sorted(line.split()[0] for line in found)
    assert easel("logs", NAME, "--job", "of-nobody").status == 1


def test_what_a_customer_has_used_comes_from_a_gateway(easel: Easel, tmp_path: Path) -> None:
    done = easel("generate", "a blue fox", "--service", NAME, "--n", "2", "--steps", "3", "-o", str(tmp_path))
    assert done.status == 0, done.err
    rows = wait_until(lambda: json.loads(easel("usage", NAME, "--json").out), bool, "usage", USAGE_SECONDS)
    assert {row["customer"] for row in rows} == {"acme"}
    assert sum(row["images"] for row in rows) >= 2
    assert rows[0]["cost"] == pytest.approx(rows[0]["gpu_seconds"] / 3600 * 1.8)


def test_the_doctor_finds_a_cluster_and_a_service_well(easel: Easel) -> None:
    done = easel("doctor", NAME, "--json")
    results = {(result["service"], result["check"]): result for result in json.loads(done.out)}
    assert done.status == 0, done.out
    for check in ("Resource", "Operator", "External metrics API", "Scale to zero"):
        assert results["", check]["level"] == "ok", results["", check]
    own = {check: result for (service, check), result in results.items() if service == f"default/{NAME}"}
    for check in ("GPU nodes", "Storage", "Quota", "Images", "Redis", "Conditions"):
        assert own[check]["level"] == "ok", own[check]
    assert own["Redis"]["message"] == f"a gateway reaches it with the Secret {NAME}-redis"
    assert "take its workers" in own["GPU nodes"]["message"]
    assert "Hub" not in own, "its model is on a volume"


def test_who_may_read_nothing_learns_what_he_may_not(services: Services, easel: Easel, tmp_path: Path) -> None:
    cluster = services.cluster
    cluster.kubectl("create", "serviceaccount", "nobody")
    try:
        token = cluster.kubectl("create", "token", "nobody").strip()
    finally:
        config = yaml.safe_load(Path(cluster.kubeconfig).read_text())
        cluster.kubectl("delete", "serviceaccount", "nobody", "--wait=false")
    config["users"] = [{"name": config["users"][0]["name"], "user": {"token": token}}]
    file = tmp_path / "kubeconfig"
    file.write_text(yaml.safe_dump(config))
    done = easel("doctor", "--kubeconfig", str(file))
    assert "unknown  GPU" not in done.out
    assert "unknown  Operator: you may not list pods of all namespaces" in done.out
    refused = easel("status", "--kubeconfig", str(file))
    assert refused.status == 1
    assert "easel: you may not list services: " in refused.err
    assert "Traceback" not in refused.err


def test_a_rollback_runs_an_earlier_revision_until_it_is_cleared(services: Services, easel: Easel) -> None:
    def read() -> dict[str, Any]:
        return services.cluster.get("sds", NAME)

    before = read()["status"]["revisions"]
    services.cluster.kubectl(
        "patch", "sds", NAME, "--type=merge", "-p", '{"spec":{"worker":{"resources":{"requests":{"cpu":"90m"}}}}}'
    )
    wait_until(read, lambda seen: _newest_is_good(seen, len(before) + 1), "a second revision", ROLLED_OUT_SECONDS)
    earlier = before[-1]["number"]

    assert "there is no terminal to ask at; --yes" in easel("rollback", NAME).err
    tried = easel("rollback", NAME, "--dry-run")
    assert (tried.status, "toRevision" in read()["spec"].get("rollout", {})) == (0, False)
    assert f"its workers are replaced by those of revision {earlier} " in tried.out

    assert easel("rollback", NAME, "--yes").status == 0
    assert read()["spec"]["rollout"]["toRevision"] == earlier
    assert f"is at revision {earlier} already" in easel("rollback", NAME, "--to", str(earlier), "--yes").err
    assert easel("rollback", NAME, "--clear", "--yes").status == 0
    assert "toRevision" not in read()["spec"].get("rollout", {})


def _newest_is_good(service: dict[str, Any], count: int) -> bool:
    revisions = service["status"]["revisions"]
    return len(revisions) == count and "readyAt" in revisions[-1]


def test_kubectl_has_it_as_a_plugin_and_completes_names(services: Services, tmp_path: Path) -> None:
    """With a file of the console script's name on PATH, as an installation puts it there."""
    plugin = tmp_path / "kubectl-easel"
    plugin.write_text(f"#!{sys.executable}\nimport sys\nfrom easel_cli.__main__ import run\nsys.exit(run())\n")
    plugin.chmod(0o755)
    search = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [services.cluster.kubectl_path, "easel", "status", NAME, "--json"],
        env={**services.cluster.environment, **search},
        capture_output=True,
        text=True,
        timeout=PROCESS_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["name"] == NAME
    line = {"_EASEL_COMPLETE": "complete_bash", "COMP_WORDS": "easel status ty", "COMP_CWORD": "2"}
    assert run_process(**line, KUBECONFIG=str(services.cluster.kubeconfig)).out.split() == [NAME]


def test_what_init_writes_is_taken_by_the_api_server(services: Services, easel: Easel) -> None:
    load = ("--model", "pvc://more-models/sdxl", "--load-from", "some/model", "--claim-size", "5Gi")
    done = easel("init", "fresh", *load, "--customer", "acme", "-n", "default")
    assert done.status == 0, done.err
    applied = services.cluster.kubectl("apply", "--dry-run=server", "-f", "-", stdin=done.out).splitlines()
    assert [line.split()[0] for line in applied] == [
        "secret/fresh-api-keys",
        "persistentvolumeclaim/more-models",
        "job.batch/fresh-load-model",
        "stablediffusionservice.easel.dev/fresh",
    ]


def test_init_applies_a_service_at_once(services: Services, easel: Easel) -> None:
    service = "applied"
    done = easel("init", service, "--model", "pvc://tiny-model/sd15", "--gpus", "0", "--customer", "acme", "--apply")
    try:
        assert done.status == 0, done.err
        assert done.err.splitlines()[:2] == [
            "Secret applied-api-keys applied",
            "StableDiffusionService applied applied",
        ]
        assert services.cluster.get("sds", service)["spec"]["gateway"]["apiKeysSecretName"] == "applied-api-keys"
    finally:
        services.cluster.kubectl("delete", "sds/applied", "secret/applied-api-keys", "--ignore-not-found")
