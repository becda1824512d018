"""What becomes of the pods that Easel makes when a service, or the installation, adds to them."""

from dataclasses import replace
from typing import Any

import pytest
from easel_contract import names
from easel_contract.resource import ServiceDefaults, StableDiffusionServiceSpec
from easel_contract.resource.pod_template import find_refusals
from easel_operator.manifests.children import build_children
from easel_operator.manifests.metadata import ChildContext

from tests.operator.manifests.test_golden_manifests import CASES
from tests.operator.objects import HUB_MODEL, OWNER, RELEASE

EGRESS = {names.ENV_HUB_ENDPOINT, names.ENV_HUB_OFFLINE, *names.ENV_PROXIES, names.ENV_NO_PROXY}

TAINTS_OF_GPUS = {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}
SPOT = {"key": "spot", "operator": "Exists", "effect": "NoSchedule"}


def build(spec: dict[str, Any], defaults: dict[str, Any] | None = None, **release: Any) -> dict[str, dict[str, Any]]:
    """The pod templates by role."""
    scale = {} if "scaling" in spec else {"replicas": 1}
    read = StableDiffusionServiceSpec.model_validate({"model": HUB_MODEL, **scale, **spec})
    known = ServiceDefaults.model_validate(defaults or {})
    context = ChildContext(OWNER, read, replace(RELEASE, defaults=known, **release), 60)
    children = build_children(context, has_hpa=False, is_tolerance_supported=True)
    deployments = [child for child in children if child["kind"] == "Deployment"]
    return {child["metadata"]["name"].removeprefix("painter-"): child["spec"]["template"] for child in deployments}


def overlay(spec: dict[str, Any], **metadata: dict[str, str]) -> dict[str, Any]:
    return {"podTemplate": {"metadata": metadata, "spec": spec}}


def named(entries: list[dict[str, Any]], key: str = "name") -> dict[str, dict[str, Any]]:
    return {entry[key]: entry for entry in entries}


def test_what_a_team_adds_stands_beside_what_easel_needs() -> None:
    before = build({})["worker"]
    added = {
        "priorityClassName": "batch",
        "containers": [
            {"name": "server", "env": [{"name": "HTTPS_PROXY", "value": "http://proxy:3128"}]},
            {"name": "log-shipper", "image": "shipper:1"},
        ],
        "volumes": [{"name": "ca", "configMap": {"name": "ca"}}],
    }
    after = build({"worker": overlay(added, labels={"team": "art"}, annotations={"note": "x"})})["worker"]
    assert after["metadata"]["labels"] == {**before["metadata"]["labels"], "team": "art"}
    assert after["metadata"]["annotations"]["note"] == "x"
    assert after["spec"]["priorityClassName"] == "batch"
    server, shipper = after["spec"]["containers"]
    assert shipper == {"name": "log-shipper", "image": "shipper:1"}
    own = before["spec"]["containers"][0]
    assert {name: value for name, value in server.items() if name != "env"} == {
        name: value for name, value in own.items() if name != "env"
    }
    assert server["env"] == [*own["env"], {"name": "HTTPS_PROXY", "value": "http://proxy:3128"}]
    assert after["spec"]["volumes"] == [*before["spec"]["volumes"], {"name": "ca", "configMap": {"name": "ca"}}]


def test_a_service_without_an_overlay_keeps_its_pods_when_the_installation_has_no_defaults() -> None:
    assert build({}, {"gateway": {"podTemplate": {}}, "worker": None})["worker"] == build({})["worker"]


def test_an_overlay_replaces_the_pods_of_its_role_alone() -> None:
    before, after = build({}), build({"gateway": overlay({"schedulerName": "volcano"})})
    assert after["worker"] == before["worker"]
    revision = "easel.dev/revision"
    assert (
        after["gateway"]["metadata"]["annotations"][revision] != before["gateway"]["metadata"]["annotations"][revision]
    )


def test_a_service_has_the_last_word_over_the_installations_defaults() -> None:
    defaults = overlay(
        {
            "nodeSelector": {"pool": "gpu", "zone": "a"},
            "schedulerName": "volcano",
            "containers": [{"name": "server", "env": [{"name": "MODE", "value": "slow"}, {"name": "B", "value": "1"}]}],
        },
        labels={"cost-centre": "platform", "tier": "two"},
    )
    own = overlay(
        {
            "schedulerName": "default-scheduler",
            "containers": [
                {"name": "server", "env": [{"name": "MODE", "valueFrom": {"fieldRef": {"fieldPath": "x"}}}]}
            ],
        },
        labels={"cost-centre": "art"},
    )
    built = build({"worker": {"nodeSelector": {"pool": "mine"}, **own}}, {"worker": defaults})["worker"]
    assert built["spec"]["nodeSelector"] == {"pool": "mine", "zone": "a"}
    assert built["spec"]["schedulerName"] == "default-scheduler"
    assert (built["metadata"]["labels"]["cost-centre"], built["metadata"]["labels"]["tier"]) == ("art", "two")
    variables = named(built["spec"]["containers"][0]["env"])
    assert variables["MODE"] == {"name": "MODE", "valueFrom": {"fieldRef": {"fieldPath": "x"}}}, "not both"
    assert variables["B"]["value"] == "1"


def test_a_service_can_take_away_a_default_that_it_does_not_want() -> None:
    defaults = overlay(
        {
            "runtimeClassName": "nvidia",
            "nodeSelector": {"pool": "gpu"},
            "containers": [{"name": "log", "image": "log:1"}],
            "volumes": [{"name": "ca", "configMap": {"name": "ca"}}],
        }
    )
    own = overlay(
        {
            "runtimeClassName": None,
            "nodeSelector": {"$patch": "replace", "disk": "fast"},
            "containers": [{"name": "log", "$patch": "delete"}],
            "volumes": [{"name": "ca", "$patch": "delete"}],
        }
    )
    spec = build({"worker": own}, {"worker": defaults})["worker"]["spec"]
    assert "runtimeClassName" not in spec
    assert spec["nodeSelector"] == {"disk": "fast"}
    assert [each["name"] for each in spec["containers"]] == ["server"]
    assert "ca" not in named(spec["volumes"])


@pytest.mark.parametrize(
    ("worker", "others"),
    [
        ({}, [SPOT]),
        ({"tolerations": [{"key": "team", "operator": "Exists"}]}, [{"key": "team", "operator": "Exists"}]),
        (overlay({"tolerations": []}), []),
    ],
)
def test_workers_tolerate_the_taint_of_their_gpus_whatever_else_replaces_what(
    worker: dict[str, Any], others: list[dict[str, Any]]
) -> None:
    spec = build({"worker": worker}, {"worker": overlay({"tolerations": [SPOT]})})["worker"]["spec"]
    assert spec["tolerations"] == [TAINTS_OF_GPUS, *others]


def test_scratch_room_can_lie_elsewhere() -> None:
    claim = {"ephemeral": {"volumeClaimTemplate": {"spec": {"accessModes": ["ReadWriteOnce"]}}}}
    before = named(build({})["worker"]["spec"]["volumes"])
    spec = build({"worker": overlay({"volumes": [{"name": "cache", **claim}]})})["worker"]["spec"]
    assert named(spec["volumes"]) == {**before, "cache": {"name": "cache", **claim}}, "the empty directory is gone"
    assert named(spec["containers"][0]["volumeMounts"], "mountPath")["/cache"]["name"] == "cache"


def test_pods_of_one_service_are_spread_though_the_default_cannot_name_it() -> None:
    zone = {"topologyKey": "zone", "maxSkew": 1, "whenUnsatisfiable": "DoNotSchedule"}
    mine = {**zone, "topologyKey": "rack", "labelSelector": {"matchLabels": {"a": "b"}}}
    both = overlay({"topologySpreadConstraints": [zone, mine]})
    built = build({}, {"gateway": both, "worker": both})
    for role in ("gateway", "worker"):
        constraints = named(built[role]["spec"]["topologySpreadConstraints"], "topologyKey")
        assert constraints["zone"]["labelSelector"] == {
            "matchLabels": {"easel.dev/service": "painter", "app.kubernetes.io/component": role}
        }
        assert constraints["rack"]["labelSelector"] == {"matchLabels": {"a": "b"}}
    assert "labelSelector" not in both["podTemplate"]["spec"]["topologySpreadConstraints"][0], (
        "the next one has its own"
    )


def test_ports_of_one_number_and_two_protocols_are_both_there() -> None:
    ports = [{"containerPort": 53, "protocol": "UDP"}, {"containerPort": 53, "protocol": "TCP"}]
    spec = build({"worker": overlay({"containers": [{"name": "dns", "image": "dns:1", "ports": ports}]})})["worker"][
        "spec"
    ]
    assert spec["containers"][1]["ports"] == ports


def test_kubectl_logs_shows_the_server_of_a_pod_with_sidecars() -> None:
    sidecar = overlay({"containers": [{"name": "a-log", "image": "log:1"}]})
    key = "kubectl.kubernetes.io/default-container"
    built = build({"worker": sidecar})
    assert built["worker"]["metadata"]["annotations"][key] == "server"
    assert key not in built["gateway"]["metadata"]["annotations"]


def test_a_roles_image_has_the_installations_pull_policy_and_ones_own_image_kubernetes() -> None:
    policies: dict[str, Any] = {"worker_image_pull_policy": "Never", "gateway_image_pull_policy": "Always"}
    containers = {role: pod["spec"]["containers"][0] for role, pod in build({}, **policies).items()}
    assert (containers["gateway"]["image"], containers["gateway"]["imagePullPolicy"]) == (
        RELEASE.gateway_image,
        "Always",
    )
    assert (containers["worker"]["image"], containers["worker"]["imagePullPolicy"]) == (RELEASE.worker_image, "Never")
    own = build({"worker": {"image": "mine:latest"}}, **policies)
    assert "imagePullPolicy" not in own["worker"]["spec"]["containers"][0]


@pytest.mark.parametrize("case", [case for case in CASES if case != "with-overlays-of-its-pods"])
def test_nothing_that_easel_puts_into_its_pods_can_be_overlaid_by_mistake(case: str) -> None:
    """Each variable, mount, port and volume of Easel's own is refused by its name; exceptions are scratch room, and how
    the Hub is reached, which overlays said before there were fields."""
    for role, built in build(CASES[case]).items():
        (server,) = built["spec"]["containers"]
        for field, entries in server.items():
            if field in {"env", "volumeMounts", "ports"}:
                for entry in entries:
                    said = list(find_refusals({"containers": [{"name": "server", field: [entry]}]}))
                    assert bool(said) == (entry["name"] not in EGRESS), f"{role}: {field} {entry}"
            elif field not in {"name", "imagePullPolicy", "securityContext"}:
                value = {"limits": {}} if field == "resources" else entries
                assert list(find_refusals({"containers": [{"name": "server", field: value}]})), f"{role}: {field}"
        for volume in built["spec"]["volumes"]:
            is_refused = bool(list(find_refusals({"volumes": [volume]})))
            assert is_refused == (volume["name"] not in {"tmp", "cache"}), volume["name"]


@pytest.mark.parametrize(
    ("own", "resources"),
    [
        ({}, {"requests": {"cpu": "500m", "memory": "8Gi"}, "limits": {"memory": "16Gi"}}),
        ({"requests": {"cpu": "250m"}}, {"requests": {"cpu": "250m", "memory": "8Gi"}, "limits": {"memory": "16Gi"}}),
        ({"limits": {"memory": "4Gi"}}, {"requests": {"cpu": "500m"}, "limits": {"memory": "4Gi"}}),
    ],
)
def test_default_resources_are_for_what_a_service_does_not_name(own: dict[str, Any], resources: dict[str, Any]) -> None:
    """With its own limit of memory and the default request, the API server would refuse the pods."""
    default = {"resources": {"requests": {"cpu": "500m", "memory": "8Gi"}, "limits": {"memory": "16Gi"}}}
    worker = {"gpu": {"count": 0}, "resources": own}
    built = build({"worker": worker, "gateway": {"resources": own}}, {"worker": default, "gateway": default})
    for role in ("gateway", "worker"):
        assert built[role]["spec"]["containers"][0]["resources"] == resources


def test_gpus_are_counted_beside_the_default_resources() -> None:
    built = build({"worker": {"gpu": {"count": 2}}}, {"worker": {"resources": {"limits": {"memory": "16Gi"}}}})
    assert built["worker"]["spec"]["containers"][0]["resources"] == {
        "limits": {"memory": "16Gi", "nvidia.com/gpu": "2"}
    }
