"""What overlays of the pods may say and what they may not, as the operator sees it."""

from typing import Any

import pytest
from easel_contract.resource import StableDiffusionServiceSpec
from easel_contract.resource.pod_template import (
    OWN_DIRECTORIES,
    OWN_ENV,
    OWN_MOUNTS,
    OWN_POD_FIELDS,
    OWN_SERVER_FIELDS,
    OWN_VOLUMES,
)
from pydantic import ValidationError

MODEL = {"source": {"huggingFace": {"repository": "stabilityai/sdxl-turbo"}}}

VALUES: dict[str, Any] = {  # of a type that the field takes, so that its being there is what is refused
    "restartPolicy": "Never",
    "activeDeadlineSeconds": 60,
    "terminationGracePeriodSeconds": 5,
    "image": "mine:1",
    "command": ["sh"],
    "args": ["--help"],
    "livenessProbe": {"httpGet": {"path": "/", "port": 80}},
    "readinessProbe": {"httpGet": {"path": "/", "port": 80}},
    "startupProbe": {"httpGet": {"path": "/", "port": 80}},
    "lifecycle": {"preStop": {"sleep": {"seconds": 1}}},
    "terminationMessagePath": "/dev/end",
    "terminationMessagePolicy": "File",
}


def of_worker(**spec: Any) -> dict[str, Any]:
    return {"model": MODEL, "replicas": 1, "worker": {"podTemplate": {"spec": spec}}}


def of_server(**members: Any) -> dict[str, Any]:
    return of_worker(containers=[{"name": "server", **members}])


def with_metadata(**metadata: Any) -> dict[str, Any]:
    return {"model": MODEL, "replicas": 1, "gateway": {"podTemplate": {"metadata": metadata}}}


REFUSED_OVERLAYS: dict[str, tuple[dict[str, Any], str]] = {
    **{
        f"{field} of the pod": (of_worker(**{field: VALUES[field]}), f"{field} can't be in a podTemplate")
        for field in OWN_POD_FIELDS
    },
    **{
        f"{field} of Easel's container": (
            of_server(**{field: VALUES[field]}),
            f"{field} of container server can't be in a podTemplate",
        )
        for field in OWN_SERVER_FIELDS
    },
    **{
        f"variable {name}": (of_server(env=[{"name": name, "value": "x"}]), "are Easel's own: fields of the resource")
        for name in ("EASEL_REDIS_URL", "EASEL_X", *OWN_ENV)
    },
    **{
        f"port {port}": (of_server(ports=[port]), "ports 8080 and 9090 and the names http and metrics are Easel's own")
        for port in ({"containerPort": 9090}, {"containerPort": 9191, "name": "metrics"})
    },
    **{
        f"a volume at {path}": (
            of_server(volumeMounts=[{"name": "mine", "mountPath": path}]),
            "are Easel's own; mount it elsewhere",
        )
        for path in (*OWN_DIRECTORIES, "/etc/easel/", "/models/mine", *OWN_MOUNTS, "/cache/")
    },
    **{
        f"a volume called {name}": (
            of_worker(volumes=[{"name": name, "emptyDir": {}}]),
            "are Easel's own; choose another name",
        )
        for name in (*OWN_VOLUMES, "add-on-0a1b")
    },
    "memory of Easel's container": (
        of_server(resources={"limits": {"memory": "1Gi"}}),
        "worker.resources and gateway.resources say it",
    ),
    "an init container with the name of Easel's": (
        of_worker(initContainers=[{"name": "server", "image": "x"}]),
        "give the init container another",
    ),
    **{
        f"label {key}": (with_metadata(labels={key: "x"}), "are Easel's own: selectors go by them")
        for key in ("easel.dev/service", "easel.dev/mine", "app.kubernetes.io/component", "pod-template-hash")
    },
    **{
        f"annotation {key}": (with_metadata(annotations={key: "1"}), "are Easel's own: the operator writes them")
        for key in ("easel.dev/revision", "controller.kubernetes.io/pod-deletion-cost")
    },
    "tolerations in two places": (
        {
            "model": MODEL,
            "replicas": 1,
            "worker": {
                "tolerations": [{"operator": "Exists"}],
                "podTemplate": {"spec": {"tolerations": [{"operator": "Exists"}]}},
            },
        },
        "tolerations and podTemplate.spec.tolerations say the same: keep one of them",
    ),
    "a container without a name": (
        of_worker(containers=[{"image": "x"}]),
        r"containers\[0\] must be an object with name",
    ),
    "variables that are a map": (of_server(env={"A": "b"}), "containers.env must be a list"),
}
# What CEL can't see: the API server keeps it, and the operator says in the conditions what is wrong.
REFUSED_BY_THE_OPERATOR: dict[str, tuple[dict[str, Any], str]] = {
    "Easel's container, deleted": (
        of_server(**{"$patch": "delete"}),
        "is Easel's own and can't be replaced or deleted",
    ),
    "a directive that isn't one": (of_worker(affinity={"$patch": "merge"}), "must be delete or replace"),
    "another directive": (of_worker(**{"$setElementOrder/containers": []}), r"isn't known here"),
    "a spread constraint without what is spread over": (
        of_worker(topologySpreadConstraints=[{"maxSkew": 1}]),
        "must be an object with topologyKey",
    ),
}

ACCEPTED_OVERLAYS: dict[str, dict[str, Any]] = {
    "what platform teams need": {
        "model": MODEL,
        "replicas": 1,
        "gateway": {"podTemplate": {"spec": {"priorityClassName": "front", "tolerations": [{"operator": "Exists"}]}}},
        "worker": {
            "podTemplate": {
                "metadata": {
                    "labels": {"azure.workload.identity/use": "true", "cost-centre": "art"},
                    "annotations": {"sidecar.istio.io/inject": "false"},
                },
                "spec": {
                    "serviceAccountName": "weights-reader",
                    "runtimeClassName": "nvidia",
                    "schedulerName": "volcano",
                    "hostNetwork": False,
                    "imagePullSecrets": [{"name": "registry"}],
                    "tolerations": [{"key": "spot", "operator": "Exists", "effect": "NoSchedule"}],
                    "resourceClaims": [{"name": "gpu", "resourceClaimTemplateName": "l4"}],
                    "volumes": [
                        {"name": "tmp", "emptyDir": {"sizeLimit": "8Gi"}},
                        {"name": "ca", "configMap": {"name": "ca"}},
                    ],
                    "initContainers": [{"name": "proxy", "image": "proxy:1", "restartPolicy": "Always"}],
                    "containers": [
                        {
                            "name": "server",
                            "imagePullPolicy": "Always",
                            "env": [{"name": "HTTPS_PROXY", "value": "http://proxy:3128"}, {"name": "HF_ENDPOINT"}],
                            "envFrom": [{"secretRef": {"name": "more"}}],
                            "ports": [{"name": "debug", "containerPort": 5678}],
                            "volumeMounts": [
                                {"name": "ca", "mountPath": "/cache/hub"},
                                {"name": "ca", "mountPath": "/etc/ssl"},
                            ],
                            "resources": {"claims": [{"name": "gpu"}]},
                        },
                        {
                            "name": "log",
                            "image": "log:1",
                            "command": ["log"],
                            "livenessProbe": {"exec": {"command": ["x"]}},
                        },
                    ],
                },
            }
        },
    },
}


@pytest.mark.parametrize("case", REFUSED_OVERLAYS | REFUSED_BY_THE_OPERATOR)
def test_an_overlay_that_would_break_easels_own_is_refused_by_name(case: str) -> None:
    spec, message = (REFUSED_OVERLAYS | REFUSED_BY_THE_OPERATOR)[case]
    with pytest.raises(ValidationError, match=message):
        StableDiffusionServiceSpec.model_validate(spec)


@pytest.mark.parametrize("case", ACCEPTED_OVERLAYS)
def test_an_overlay_with_what_teams_need_is_taken(case: str) -> None:
    StableDiffusionServiceSpec.model_validate(ACCEPTED_OVERLAYS[case])
