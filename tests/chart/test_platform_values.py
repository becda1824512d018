"""What a platform team sets once for all services: defaults of their pods, registry, digests, OpenShift."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from easel_contract import names
from easel_contract.resource import ServiceDefaults
from easel_operator.config import OperatorConfig

from tests.chart.test_chart import CHART, helm, objects, of_kind, render

__all__ = ["helm"]  # the fixture

pytestmark = pytest.mark.cluster  # helm comes with the embedded cluster's binary

DIGEST = f"sha256:{'0a1b' * 16}"


def with_values(helm: str, directory: Path, values: dict[str, Any], *words: str) -> list[dict[str, Any]]:
    file = directory / "values.yaml"
    file.write_text(yaml.safe_dump(values))
    command = [helm, "template", "easel", str(CHART), "--namespace", "easel-system", "--values", str(file), *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [item for item in yaml.safe_load_all(done.stdout) if item]


def read_environment(rendered: list[dict[str, Any]]) -> dict[str, str]:
    (operator,) = of_kind(rendered, "Deployment")
    (container,) = operator["spec"]["template"]["spec"]["containers"]
    return {each["name"]: each.get("value", "x") for each in container["env"]}


def read_config(rendered: list[dict[str, Any]]) -> OperatorConfig:
    """As the operator reads it."""
    return OperatorConfig.from_environment(read_environment(rendered))


def list_images(rendered: list[dict[str, Any]]) -> list[str]:
    workloads = [*of_kind(rendered, "Deployment"), *of_kind(rendered, "StatefulSet")]
    images = [each["image"] for item in workloads for each in item["spec"]["template"]["spec"]["containers"]]
    environment = read_environment(rendered)
    return [*images, environment["EASEL_GATEWAY_IMAGE"], environment["EASEL_WORKER_IMAGE"]]


def test_defaults_of_all_services_reach_the_operator_as_they_were_written(helm: str, tmp_path: Path) -> None:
    worker = {
        "resources": {"requests": {"memory": "8Gi"}},
        "podTemplate": {
            "metadata": {"labels": {"cost-centre": "art"}, "annotations": {"quote": 'it\'s "so"\nand so'}},
            "spec": {"tolerations": [{"key": "spot", "operator": "Exists"}], "hostNetwork": False},
        },
    }
    defaults = read_config(with_values(helm, tmp_path, {"defaults": {"worker": worker}})).service_defaults
    assert defaults.worker.pod_template is not None
    assert defaults.worker.pod_template.model_dump(mode="json") == worker["podTemplate"]
    assert defaults.worker.resources.requests == {"memory": "8Gi"}
    assert defaults.gateway.pod_template is None


def test_an_installation_without_defaults_gives_pods_nothing(helm: str) -> None:
    config = read_config(objects(helm))
    assert config.service_defaults == ServiceDefaults()
    assert config.worker_image_pull_policy == "IfNotPresent"


@pytest.mark.parametrize(("values", "most"), [({}, 5), ({"rollout": {"maxServicesAtOnce": 0}}, 0)])
def test_how_many_services_a_release_reaches_at_once_is_a_value_of_the_chart(
    helm: str, tmp_path: Path, values: dict[str, Any], most: int
) -> None:
    assert read_config(with_values(helm, tmp_path, values)).rollout_max_services_at_once == most


def test_how_the_hub_is_reached_is_a_value_for_all_services(helm: str, tmp_path: Path) -> None:
    proxy = {"secretName": "way-out", "exceptions": [".example.com"]}
    downloads = {"hubEndpoint": "https://hub.example.com", "proxy": proxy, "offline": None}
    defaults = read_config(with_values(helm, tmp_path, {"defaults": {"downloads": downloads}})).service_defaults
    assert defaults.downloads.to_wire() == {"hubEndpoint": "https://hub.example.com", "proxy": proxy}


def test_pull_secrets_reach_gateways_and_workers_too(helm: str, tmp_path: Path) -> None:
    own = {"podTemplate": {"spec": {"imagePullSecrets": [{"name": "extra"}, {"name": "registry"}]}}}
    values = {"imagePullSecrets": [{"name": "registry"}], "defaults": {"worker": own}}
    defaults = json.loads(read_environment(with_values(helm, tmp_path, values))["EASEL_SERVICE_DEFAULTS"])
    secrets = {role: defaults[role]["podTemplate"]["spec"]["imagePullSecrets"] for role in ("gateway", "worker")}
    assert secrets == {"gateway": [{"name": "registry"}], "worker": [{"name": "registry"}, {"name": "extra"}]}


@pytest.mark.parametrize("name", ["imageRegistry", "global.imageRegistry"])
def test_one_value_takes_every_image_from_a_mirror(name: str, helm: str) -> None:
    images = list_images(objects(helm, f"{name}=mirror.example:5000/hub"))
    assert sorted(image.rsplit(":", 1)[0] for image in images) == [
        "mirror.example:5000/hub/easel-dev/easel-gateway",
        "mirror.example:5000/hub/easel-dev/easel-operator",
        "mirror.example:5000/hub/easel-dev/easel-worker",
        "mirror.example:5000/hub/valkey/valkey",
    ]


def test_a_repository_without_a_registry_keeps_all_of_its_name_at_the_mirror(helm: str) -> None:
    images = list_images(objects(helm, "imageRegistry=mirror.example", "worker.image.repository=team/easel-worker"))
    assert any(image.startswith("mirror.example/team/easel-worker:") for image in images)


def test_digests_decide_in_place_of_tags(helm: str) -> None:
    settings = [f"{part}.image.digest={DIGEST}" for part in ("operator", "gateway", "worker", "redis")]
    images = list_images(objects(helm, "worker.image.tag=ignored", *settings))
    assert [image.partition("@")[2] for image in images] == [DIGEST] * 4
    assert not any("ignored" in image for image in images)
    refused = render(helm, "worker.image.digest=latest")
    assert refused.returncode != 0
    assert "digest" in refused.stderr


BEFORE = "ghcr.io/easel-dev/easel-server"  # the one image of gateways and workers, when they had one


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (["server.image.repository=team/easel-server", "server.image.tag=v2"], ["team/easel-server:v2"] * 2),
        (["server.image.tag=0.1.0"], [f"{BEFORE}:0.1.0"] * 2),
        ([f"server.image.digest={DIGEST}"], [f"{BEFORE}@{DIGEST}"] * 2),
        # As `helm upgrade --reuse-values` brings it, without any values of roles.
        (
            [f"server.image.repository={BEFORE}", "gateway=null", "worker=null"],
            ["ghcr.io/easel-dev/easel-gateway:0.1.0", "ghcr.io/easel-dev/easel-worker:0.1.0"],
        ),
    ],
)
def test_what_an_installation_said_of_the_image_of_both_roles_still_holds(
    helm: str, settings: list[str], expected: list[str]
) -> None:
    environment = read_environment(objects(helm, *settings))
    assert [environment["EASEL_GATEWAY_IMAGE"], environment["EASEL_WORKER_IMAGE"]] == expected


def test_the_pull_policy_of_both_roles_still_holds(helm: str) -> None:
    config = read_config(objects(helm, "server.image.pullPolicy=Never"))
    assert (config.gateway_image_pull_policy, config.worker_image_pull_policy) == ("Never", "Never")
    assert config.worker_image.startswith("ghcr.io/easel-dev/easel-worker:")


def test_two_values_for_one_image_are_refused(helm: str) -> None:
    refused = render(helm, "server.image.tag=v1", "worker.image.repository=team/easel-worker")
    assert refused.returncode != 0
    assert "server.image and worker.image both name an image: take server.image out" in refused.stderr


def test_where_the_platform_assigns_users_no_pod_names_one(helm: str, tmp_path: Path) -> None:
    """OpenShift refuses pods that name a user outside of the namespace's range, and gives each one of it."""
    seen = with_values(helm, tmp_path, {}, "--api-versions", "security.openshift.io/v1")
    for rendered, is_named in ((objects(helm), True), (objects(helm, "platform=OpenShift"), False), (seen, False)):
        workloads = [*of_kind(rendered, "Deployment"), *of_kind(rendered, "StatefulSet")]
        contexts = [item["spec"]["template"]["spec"]["securityContext"] for item in workloads]
        assert len(contexts) == 2
        for context in contexts:
            assert context["runAsNonRoot"] is True
            assert bool({"runAsUser", "runAsGroup", "fsGroup"} & context.keys()) is is_named


def test_a_default_that_is_no_overlay_is_refused_before_it_is_installed(helm: str) -> None:
    refused = render(helm, "defaults.worker.podTemplate.containers[0].name=x")
    assert refused.returncode != 0
    assert "podTemplate" in refused.stderr


def test_the_operators_pods_carry_the_labels_that_services_network_policies_admit(helm: str) -> None:
    (operator,) = of_kind(objects(helm), "Deployment")
    labels = operator["spec"]["template"]["metadata"]["labels"]
    assert labels[names.LABEL_NAME] == names.APP_NAME
    assert labels[names.LABEL_COMPONENT] == names.COMPONENT_OPERATOR
