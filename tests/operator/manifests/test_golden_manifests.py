"""Each case's manifests are the YAML beside this file. ``EASEL_WRITE_GOLDEN=1 pytest …`` writes them anew."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import yaml
from easel_contract import names
from easel_contract.gateway_config import QueueConfig
from easel_contract.resource import StableDiffusionServiceSpec
from easel_operator.manifests.children import build_children
from easel_operator.manifests.configuration import DRAIN_MARGIN_SECONDS
from easel_operator.manifests.metadata import ChildContext

from tests.contract.test_pod_template import ACCEPTED_OVERLAYS
from tests.operator.objects import HUB_MODEL, OWNER, RELEASE

VOLUME_ADD_ON: dict[str, Any] = {"persistentVolumeClaim": {"claimName": "loras", "path": "clay (v2).safetensors"}}
BUCKET_ADD_ON: dict[str, Any] = {
    "s3": {
        "uri": "s3://studio-weights/canny.safetensors",
        "region": "eu-central-1",
        "credentialsSecretName": "weights-bucket",
    }
}

CASES: dict[str, dict[str, Any]] = {
    "watched-by-prometheus": {
        "model": HUB_MODEL,
        "scaling": {"maxReplicas": 4, "targetLatencySeconds": 20},
        "monitoring": {"labels": {"release": "prometheus"}, "intervalSeconds": 30},
    },
    "scaling-from-the-hub": {
        "model": {
            "source": {
                "huggingFace": {
                    "repository": "stabilityai/stable-diffusion-xl-base-1.0",
                    "revision": "main",
                    "tokenSecretName": "hub-token",
                }
            }
        },
        "scaling": {"minReplicas": 0, "maxReplicas": 8},
        "batching": {"maxImages": 4},
        "tracing": {"endpoint": "http://collector.tracing.svc:4318", "samplePercent": 10},
        "worker": {
            "cacheClaimName": "worker-caches",
            "resources": {"requests": {"cpu": "2", "memory": "8Gi"}, "limits": {"memory": "16Gi"}},
            "nodeSelector": {"gpu": "l4"},
            "tolerations": [{"key": "team", "operator": "Equal", "value": "art", "effect": "NoSchedule"}],
        },
        "gateway": {
            "apiKeysSecretName": "keys",
            "rateLimit": {"requestsPerMinute": 60, "burst": 10},
            "defaults": {"reproducibility": "Exact", "steps": 20},
            "serviceRateLimit": {"gpuSecondsPerMinute": 480, "gpuSecondsBurst": 120},
            "limits": {"maxWaitSeconds": 120},
            "results": {
                "ttlSeconds": 600,
                "maxBytes": 1 << 40,
                "bucket": {
                    "name": "studio-images",
                    "region": "eu-central-1",
                    "prefix": "easel/",
                    "publicBaseUrl": "https://images.example.com",
                    "credentialsSecretName": "bucket",
                },
            },
            "cache": {"backend": "Memcached", "memcachedAddress": "memcached.caches.svc:11211"},
            "webhook": {"signingSecretName": "webhook", "allowedNetworks": ["10.0.0.0/8"]},
        },
    },
    "single-file-with-a-refiner": {
        "model": {
            "quantization": "Float8",
            "stepCache": "DeepCache",
            "source": {
                "persistentVolumeClaim": {"claimName": "models", "path": "Stable-diffusion/dream (v8).safetensors"}
            },
            "configRepository": "mirror/sdxl",
            "refiner": {
                "source": {
                    "huggingFace": {"repository": "mirror/refiner", "variant": "fp16", "tokenSecretName": "hub-token"}
                }
            },
        },
        "replicas": 1,
    },
    "a-vae-and-a-scheduler-of-its-own": {
        "model": {
            **HUB_MODEL,
            "vae": {"source": {"persistentVolumeClaim": {"claimName": "vaes", "path": "sdxl_vae.safetensors"}}},
            "scheduler": {"sampler": "Euler a", "predictionType": "VPrediction", "rescaleBetasZeroSnr": True},
        },
        "replicas": 1,
        "worker": {"gpu": {"count": 0}},
    },
    "add-ons-from-everywhere": {
        "model": HUB_MODEL,
        "replicas": 1,
        "worker": {"gpu": {"count": 0}, "engine": {"addOnMemory": {"devicePercent": 30, "hostPercent": 50}}},
        "downloads": {
            "allowedHosts": ["weights.example.com"],
            "tokenSecretName": "hub-token",
            "maxFileBytes": 16 << 30,
        },
        "adapters": [
            {"name": "ink", "source": {"huggingFace": {"repository": "someone/ink", "file": "ink.safetensors"}}},
            {"name": "clay", "source": VOLUME_ADD_ON, "defaultWeight": 0.7},
        ],
        "controlNets": [{"name": "canny", "source": BUCKET_ADD_ON}],
        "upscalers": [{"name": "x4", "source": {"url": {"address": "https://weights.example.com/x4.safetensors"}}}],
        "preprocessors": [{"name": "depth", "source": {"huggingFace": {"repository": "someone/depth"}}}],
    },
    "cached-for-all-workers": {
        "model": {
            "source": {"huggingFace": {"repository": "stabilityai/sdxl-turbo", "tokenSecretName": "hub-token"}},
            "cache": {"size": "40Gi", "storageClassName": "shared-files"},
        },
        "replicas": 2,
        "downloads": {
            "hubEndpoint": "https://hub.example.com/mirror",
            "proxy": {"secretName": "way-out", "exceptions": [".example.com", "10.0.0.0/8"]},
        },
    },
    "reached-from-outside": {
        "model": HUB_MODEL,
        "replicas": 4,
        "worker": {"gpu": {"count": 0}, "disruptionBudget": {"maxUnavailable": "25%"}},
        "gateway": {
            "autoscaling": {"minReplicas": 2, "maxReplicas": 6, "targetCpu": "750m"},
            "service": {
                "type": "LoadBalancer",
                "annotations": {"service.example/internal": "true"},
                "loadBalancerClass": "example.com/inner",
                "loadBalancerSourceRanges": ["10.0.0.0/8", "192.0.2.7"],
                "externalTrafficPolicy": "Local",
            },
            "ingress": {
                "className": "nginx",
                "hosts": ["images.example.com", "*.images.example.com"],
                "tlsSecretName": "images-tls",
                "annotations": {"cert-manager.io/cluster-issuer": "letsencrypt"},
            },
            "httpRoute": {
                "parentRefs": [{"name": "public", "namespace": "gateways", "sectionName": "https"}],
                "hosts": ["art.example.com"],
            },
        },
    },
    "with-overlays-of-its-pods": ACCEPTED_OVERLAYS["what platform teams need"],
    "from-an-image-of-a-registry": {
        "model": {
            "source": {"image": {"reference": "registry.example/models/sdxl@sha256:0c8a", "path": "sdxl"}},
            "refiner": {
                "source": {"image": {"reference": "registry.example/models/refiner:1", "pullPolicy": "Always"}}
            },
        },
        "replicas": 2,
    },
    "copied-from-a-bucket": {
        "model": {
            "source": {
                "s3": {
                    "uri": "s3://studio-models/sdxl-1.0",
                    "region": "eu-central-1",
                    "credentialsSecretName": "weights-bucket",
                }
            },
            "cache": {"claimName": "models"},
        },
        "replicas": 2,
    },
    "fixed-on-cpu-from-a-volume": {
        "model": {"source": {"persistentVolumeClaim": {"claimName": "models", "path": "tiny"}}, "dtype": "Float32"},
        "replicas": 2,
        "worker": {
            "gpu": {"count": 0},
            "terminationGracePeriodSeconds": 5,
            "image": "registry.example/own:1",
            "scratch": {"tmp": "4Gi", "cache": "40Gi"},
        },
        "gateway": {"replicas": 1, "scratch": {"tmp": "512Mi"}},
    },
}


@pytest.mark.parametrize("case", CASES)
def test_manifests_are_as_reviewed(case: str) -> None:
    children = _build(CASES[case])
    rendered = yaml.dump_all(children, Dumper=_Readable, sort_keys=False, width=120)
    golden = Path(__file__).parent / f"{case}.yaml"
    if os.environ.get("EASEL_WRITE_GOLDEN"):
        golden.write_text(rendered)
    assert rendered == golden.read_text()


@pytest.mark.parametrize("case", [case for case in CASES if case != "with-overlays-of-its-pods"])
def test_no_pod_names_a_user_so_that_a_platform_can_assign_one(case: str) -> None:
    """As OpenShift does; what an overlay names is its author's."""
    templates = [each["spec"]["template"] for each in _build(CASES[case]) if each["kind"] in {"Deployment", "Job"}]
    contexts = [
        part.get("securityContext", {})
        for template in templates
        for part in (template["spec"], *template["spec"]["containers"], *template["spec"].get("initContainers", ()))
    ]
    assert len(contexts) >= 4
    assert not any(
        {"runAsUser", "runAsGroup", "fsGroup", "supplementalGroups"} & context.keys() for context in contexts
    )


def test_a_change_to_the_gateway_leaves_the_workers_alone() -> None:
    before = _by_name(_build({"model": HUB_MODEL, "replicas": 1}))
    after = _by_name(_build({"model": HUB_MODEL, "replicas": 1, "gateway": {"limits": {"maxImages": 2}}}))
    assert after["Deployment painter-worker"] == before["Deployment painter-worker"]
    assert after["Deployment painter-gateway"] != before["Deployment painter-gateway"]


def test_a_change_to_the_links_of_a_bucket_leaves_the_workers_alone() -> None:
    bucket = {"name": "studio-images", "region": "eu-central-1"}
    spec = {"model": HUB_MODEL, "replicas": 1}
    before = _by_name(_build({**spec, "gateway": {"results": {"bucket": bucket}}}))
    after = _by_name(
        _build({**spec, "gateway": {"results": {"ttlSeconds": 60, "bucket": {**bucket, "presignSeconds": 60}}}})
    )
    assert after["Deployment painter-worker"] == before["Deployment painter-worker"]
    assert after["Deployment painter-gateway"] != before["Deployment painter-gateway"]


def test_another_bucket_and_its_credentials_reach_both_roles() -> None:
    spec = {"model": HUB_MODEL, "replicas": 1}
    before = _by_name(_build(spec))
    bucket = {"name": "studio-images", "region": "eu-central-1", "credentialsSecretName": "bucket"}
    after = _by_name(_build({**spec, "gateway": {"results": {"bucket": bucket}}}))
    for name in ("Deployment painter-worker", "Deployment painter-gateway"):
        template, old = after[name]["spec"]["template"], before[name]["spec"]["template"]
        assert template["metadata"]["annotations"] != old["metadata"]["annotations"]
        added = [
            each for each in template["spec"]["containers"][0]["env"] if each not in old["spec"]["containers"][0]["env"]
        ]
        assert [(each["name"], each["valueFrom"]["secretKeyRef"]) for each in added] == [
            ("AWS_ACCESS_KEY_ID", {"name": "bucket", "key": "access-key-id"}),
            ("AWS_SECRET_ACCESS_KEY", {"name": "bucket", "key": "secret-access-key"}),
        ]


def test_a_change_of_the_model_rolls_the_workers() -> None:
    before = _by_name(_build({"model": HUB_MODEL, "replicas": 1}))
    after = _by_name(_build({"model": {**HUB_MODEL, "dtype": "Float32"}, "replicas": 1}))
    assert (
        after["Deployment painter-worker"]["spec"]["template"]
        != before["Deployment painter-worker"]["spec"]["template"]
    )


def test_another_grace_period_is_given_to_the_kubelet_and_to_the_worker_and_leaves_the_gateways_alone() -> None:
    spec = {"model": HUB_MODEL, "replicas": 1}
    before, after = (_by_name(_build(spec, grace_seconds=seconds)) for seconds in (60, 240))
    changed = {name for name, child in after.items() if child != before[name]}
    assert changed == {"ConfigMap painter-config", "Deployment painter-worker"}
    template = after["Deployment painter-worker"]["spec"]["template"]
    assert template["spec"]["terminationGracePeriodSeconds"] == 240
    assert json.loads(after["ConfigMap painter-config"]["data"]["worker.json"])["worker"]["drainSeconds"] == 230


def test_scaling_by_hand_leaves_the_gateways_alone() -> None:
    one, two = (_by_name(_build({"model": HUB_MODEL, "replicas": count})) for count in (1, 2))
    assert one["Deployment painter-gateway"] == two["Deployment painter-gateway"]


@pytest.mark.parametrize(
    "edit",
    [
        {"model": {**HUB_MODEL, "dtype": "Float32"}},
        {"model": {"source": {"huggingFace": {"repository": "another/model"}}}},
        {"model": {"source": {"persistentVolumeClaim": {"claimName": "models"}}}},
        {"worker": {"engine": {"kind": "Synthetic"}}},
        {"worker": {"engine": {"synthetic": {"millisecondsPerStep": 1}}}},
        {"worker": {"gpu": {"count": 2}}},
        {"scaling": {"maxReplicas": 20}},
        {"batching": {"maxImages": 4}},
    ],
)
def test_an_edit_of_what_gateways_take_over_while_they_run_does_not_roll_them(edit: dict[str, Any]) -> None:
    spec = {"model": HUB_MODEL, "scaling": {"maxReplicas": 2}}
    before, after = _by_name(_build(spec)), _by_name(_build({**spec, **edit}))
    assert after["Deployment painter-gateway"] == before["Deployment painter-gateway"]
    others = ("Deployment painter-worker", "ConfigMap painter-config", "HorizontalPodAutoscaler painter-worker")
    assert any(after[name] != before[name] for name in others), "the edit did something"


def test_an_adapter_that_needs_nothing_mounted_replaces_no_pod() -> None:
    adapters = [{"name": "clay", "source": VOLUME_ADD_ON}]
    spec = {"model": HUB_MODEL, "replicas": 1, "adapters": adapters}
    on_the_hub = {"name": "ink", "source": {"huggingFace": {"repository": "someone/ink"}}}
    beside_it = {"name": "wood", "source": {"persistentVolumeClaim": {"claimName": "loras", "path": "wood"}}}
    before = _by_name(_build(spec))
    for added in (on_the_hub, beside_it):
        after = _by_name(_build({**spec, "adapters": [*adapters, added]}))
        assert {name for name, child in after.items() if child != before[name]} == {"ConfigMap painter-config"}
        offered = json.loads(after["ConfigMap painter-config"]["data"]["gateway.json"])["addOns"]["adapters"]
        assert [each["name"] for each in offered] == ["clay", added["name"]]
        looked_for = json.loads(after["ConfigMap painter-config"]["data"]["worker.json"])["addOns"]["adapters"]
        assert looked_for == offered, "workers look for what is on volumes before a request asks for it"


@pytest.mark.parametrize("source", [VOLUME_ADD_ON, BUCKET_ADD_ON])
def test_an_adapter_on_a_new_volume_or_with_a_new_secret_replaces_workers_alone(source: dict[str, Any]) -> None:
    spec = {"model": HUB_MODEL, "replicas": 1}
    before = _by_name(_build(spec))
    after = _by_name(_build({**spec, "adapters": [{"name": "clay", "source": source}]}))
    changed = {name for name, child in after.items() if child != before[name]}
    assert changed == {"ConfigMap painter-config", "Deployment painter-worker"}
    mounts = after["Deployment painter-worker"]["spec"]["template"]["spec"]["containers"][0]["volumeMounts"]
    assert mounts[-1]["readOnly"]


@pytest.mark.parametrize(
    "changed",
    [{"worker": {"engine": {"addOnMemory": {"devicePercent": 30}}}}, {"downloads": {"maxFileBytes": 16 << 30}}],
)
def test_another_bound_of_add_ons_begins_with_new_workers_and_leaves_the_gateway_alone(changed: dict[str, Any]) -> None:
    base: dict[str, Any] = {"model": HUB_MODEL, "replicas": 1}
    before, after = (_by_name(_build(spec)) for spec in (base, {**base, **changed}))
    assert {name for name in after if after[name] != before[name]} == {
        "ConfigMap painter-config",
        "Deployment painter-worker",
    }
    data = after["ConfigMap painter-config"]["data"]
    said_to = {file: "addOnMemory" in text or "maxAddOnFileBytes" in text for file, text in data.items()}
    assert said_to == {"gateway.json": False, "queue.json": False, "worker.json": True}


# What servers of the release before add-ons know of their file; they refuse one that has more.
KEYS_OF_THE_VERSION_BEFORE = {
    "": {"bucket", "engine", "gateway", "model", "namespace", "service", "tracing", "uid", "worker"},
    "gateway.limits": {
        *("maxBodyBytes", "maxHeightPixels", "maxImages", "maxInputBytes", "maxInputPixels", "maxPromptCharacters"),
        *("maxQueueDepth", "maxSteps", "maxStreams", "maxWaitSeconds", "maxWidthPixels"),
    },
    "gateway": {
        *("allowedHosts", "allowedOrigins", "apiKeysDirectory", "cache", "defaults", "drainSeconds", "limits"),
        *("linkKeysDirectory", "maxWorkers", "publicUrl", "rateLimit", "results", "serviceRateLimit", "webhook"),
    },
    "model": {
        *("allowPickles", "configRepository", "dtype", "file", "name", "quantization", "refiner", "revision", "safety"),
        *("source", "stepCache", "variant"),
    },
    "engine": {"compile", "kind", "offload", "synthetic"},
    "worker": {"drainSeconds", "leaseSeconds", "maxBatchImages", "stepTimeoutSeconds"},
}


NEW = ("add-ons-from-everywhere", "cached-for-all-workers", "copied-from-a-bucket", "a-vae-and-a-scheduler-of-its-own")


@pytest.mark.parametrize("case", [case for case in CASES if case not in NEW])
def test_the_file_of_a_service_that_uses_nothing_new_is_read_by_the_version_before(case: str) -> None:
    data = _by_name(_build(CASES[case]))["ConfigMap painter-config"]["data"]
    for file in (json.loads(data[key]) for key in (names.CONFIG_KEY_GATEWAY, names.CONFIG_KEY_WORKER)):
        for path, known in KEYS_OF_THE_VERSION_BEFORE.items():
            section = file
            for name in filter(None, path.split(".")):
                section = section.get(name, {})
            assert set(section) <= known, path


@pytest.mark.parametrize(
    ("scaling", "overtaken_seconds"),
    [
        ({"targetLatencySeconds": 20}, 60 + 2 * 20),
        ({"maxOvertakenSeconds": 7}, 7),
        ({"queueOrder": "FirstComeFirstServed"}, None),
        (None, None),
    ],
)
def test_gateways_read_the_order_beside_their_configuration_and_are_not_rolled_for_it(
    scaling: dict[str, Any] | None, overtaken_seconds: float | None
) -> None:
    """In a file of its own: a gateway of the version before, or a pinned image, refuses fields that it doesn't know."""
    plain = _by_name(_build({"model": HUB_MODEL, "scaling": {"maxReplicas": 2}}))
    spec = {"replicas": 1} if scaling is None else {"scaling": {"maxReplicas": 2, **scaling}}
    children = _by_name(_build({"model": HUB_MODEL, **spec}))
    data = children["ConfigMap painter-config"]["data"]
    assert QueueConfig.model_validate_json(data["queue.json"]).overtaken_seconds == overtaken_seconds
    assert "arget" not in data["gateway.json"] + data["worker.json"]
    pod = children["Deployment painter-gateway"]["spec"]["template"]
    if scaling is not None:
        assert pod == plain["Deployment painter-gateway"]["spec"]["template"]
    items = next(volume for volume in pod["spec"]["volumes"] if volume["name"] == "config")["configMap"]["items"]
    assert {"key": "queue.json", "path": "queue.json"} in items


@pytest.mark.parametrize(
    "edit",
    [
        {"gateway": {"limits": {"maxSteps": 7}}},
        {"gateway": {"terminationGracePeriodSeconds": 60}},
        {"tracing": {"endpoint": "http://collector:4318"}},
    ],
)
def test_an_edit_of_what_gateways_start_with_rolls_them(edit: dict[str, Any]) -> None:
    spec = {"model": HUB_MODEL, "replicas": 1}
    before, after = _by_name(_build(spec)), _by_name(_build({**spec, **edit}))
    name = "Deployment painter-gateway"
    assert after[name]["spec"]["template"] != before[name]["spec"]["template"]


@pytest.mark.parametrize(("seconds", "drain_seconds"), [(None, 605), (20, 5), (3600, 3585)])
def test_a_gateway_has_less_time_by_its_own_clock_than_by_the_kubelets(seconds: int | None, drain_seconds: int) -> None:
    gateway = {} if seconds is None else {"terminationGracePeriodSeconds": seconds}
    children = _by_name(_build({"model": HUB_MODEL, "replicas": 1, "gateway": gateway}))
    pod = children["Deployment painter-gateway"]["spec"]["template"]["spec"]
    file = json.loads(children["ConfigMap painter-config"]["data"]["gateway.json"])
    assert file["gateway"]["drainSeconds"] == drain_seconds
    stop_delay = pod["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert pod["terminationGracePeriodSeconds"] - stop_delay - drain_seconds == DRAIN_MARGIN_SECONDS


def test_replicas_are_not_sent_where_somebody_else_writes_them() -> None:
    scaled = _by_name(_build({"model": HUB_MODEL, "scaling": {"maxReplicas": 2}}))
    fixed = _by_name(_build({"model": HUB_MODEL, "replicas": 0}))
    assert "replicas" not in scaled["Deployment painter-worker"]["spec"]
    assert fixed["Deployment painter-worker"]["spec"]["replicas"] == 0


def test_tolerance_is_left_out_where_the_api_server_would_drop_it() -> None:
    children = _build({"model": HUB_MODEL, "scaling": {"maxReplicas": 2}}, is_tolerance_supported=False)
    autoscaler = _by_name(children)["HorizontalPodAutoscaler painter-worker"]
    assert "tolerance" not in autoscaler["spec"]["behavior"]["scaleUp"]


def _build(
    spec: dict[str, Any], *, is_tolerance_supported: bool = True, grace_seconds: int = 60
) -> list[dict[str, Any]]:
    read = StableDiffusionServiceSpec.model_validate(spec)
    context = ChildContext(OWNER, read, RELEASE, read.worker.termination_grace_period_seconds or grace_seconds)
    children = build_children(context, has_hpa=True, is_tolerance_supported=is_tolerance_supported)
    # Through JSON, so that members which are one object in memory don't become anchors in YAML.
    return [json.loads(json.dumps(child)) for child in children]


def _by_name(children: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {f"{child['kind']} {child['metadata']['name']}": child for child in children}


class _Readable(yaml.SafeDumper):
    """Texts of several lines as they are, instead of quoted."""


_Readable.add_representer(
    str,
    lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None),
)
