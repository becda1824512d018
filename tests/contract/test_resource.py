"""The resource's own rules, as the operator sees them."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from easel_contract.conditions import ConditionStatus, ConditionType, Reason, build_condition
from easel_contract.crd import build_structural_schema
from easel_contract.resource import QueueOrder, ScalingSpec, StableDiffusionServiceSpec
from pydantic import ValidationError

from tests.contract.exposure_cases import ACCEPTED_WAYS_IN, REFUSED_WAYS_IN

MODEL = {"source": {"huggingFace": {"repository": "stabilityai/sdxl-turbo"}}}

WEEKDAYS = {"name": "weekdays", "cron": "0 8 * * mon-fri", "durationMinutes": 60, "minReplicas": 2}

ON_THE_HUB: dict[str, Any] = {"huggingFace": {"repository": "someone/ink"}}
ON_A_VOLUME: dict[str, Any] = {"persistentVolumeClaim": {"claimName": "loras", "path": "ink (v2).safetensors"}}
BY_URL: dict[str, Any] = {"url": {"address": "https://weights.example.com/ink.safetensors"}}

REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "neither replicas nor scaling": ({"model": MODEL}, "exactly one of replicas"),
    "both replicas and scaling": ({"model": MODEL, "replicas": 1, "scaling": {"maxReplicas": 2}}, "exactly one of"),
    "a model without a source": ({"model": {"source": {}}, "replicas": 1}, "exactly one of huggingFace"),
    "more at least than at most": (
        {"model": MODEL, "scaling": {"minReplicas": 3, "maxReplicas": 2}},
        r"minReplicas \(3\) must not be greater than maxReplicas \(2\)",
    ),
    "a rate limit that limits nothing": (
        {"model": MODEL, "replicas": 1, "gateway": {"rateLimit": {"burst": 5}}},
        "needs requestsPerMinute, gpuSecondsPerMinute or both",
    ),
    "a Memcached without an address": (
        {"model": MODEL, "replicas": 1, "gateway": {"cache": {"backend": "Memcached"}}},
        "memcachedAddress must be set",
    ),
    "a bucket without a region or an endpoint": (
        {"model": MODEL, "replicas": 1, "gateway": {"results": {"bucket": {"name": "images"}}}},
        r"a bucket needs a region \(AWS\), an endpoint, or both",
    ),
    "links that outlive what a signature may": (
        {
            "model": MODEL,
            "replicas": 1,
            "gateway": {"results": {"bucket": {"name": "images", "region": "eu-central-1", "presignSeconds": 604801}}},
        },
        "less than or equal to 604800",
    ),
    "a prefix that is no folder": (
        {
            "model": MODEL,
            "replicas": 1,
            "gateway": {"results": {"bucket": {"name": "images", "region": "eu-central-1", "prefix": "images"}}},
        },
        "prefix",
    ),
    "an order of the queue that there isn't": (
        {"model": MODEL, "scaling": {"maxReplicas": 2, "queueOrder": "ShortestFirst"}},
        "'FirstComeFirstServed' or 'TargetFirst'",
    ),
    "overtaken for more than a day": (
        {"model": MODEL, "scaling": {"maxReplicas": 2, "maxOvertakenSeconds": 86401}},
        "less than or equal to 86400",
    ),
    "a late request that earns money": (
        {"model": MODEL, "scaling": {"maxReplicas": 2, "maxGpuSecondsPerLateRequest": -1}},
        "greater than or equal to 0",
    ),
    "a schedule that asks for more workers than there may be": (
        {"model": MODEL, "scaling": {"maxReplicas": 2, "schedules": [{**WEEKDAYS, "minReplicas": 3}]}},
        r"minReplicas \(3\) of schedule weekdays must not be greater than maxReplicas \(2\)",
    ),
    "a schedule that never begins": (
        {"model": MODEL, "scaling": {"maxReplicas": 2, "schedules": [{**WEEKDAYS, "cron": "0 0 31 2 *"}]}},
        "never begins",
    ),
    **{
        f"the time zone {zone}": (
            {"model": MODEL, "scaling": {"maxReplicas": 2, "schedules": [{**WEEKDAYS, "timeZone": zone}]}},
            "is no time zone of the IANA database",
        )
        for zone in ("localtime", "posixrules", "Factory", "leapseconds", "posix/UTC", "Europe/Atlantis", "../UTC")
    },
    **{
        f"a Memcached at {address}": (
            {
                "model": MODEL,
                "replicas": 1,
                "gateway": {"cache": {"backend": "Memcached", "memcachedAddress": address}},
            },
            "must be HOST:PORT with a port of 1 to 65535",
        )
        for address in ("h:99999", "h:0", "h:", ":11211", "h", "h:11211:11211", "user@h:11211", "h:11211/x")
    },
    **{
        f"networks with {network}": (
            {"model": MODEL, "replicas": 1, "gateway": {"webhook": {"allowedNetworks": [network]}}},
            sentence,
        )
        for network, sentence in {
            "10.0.0.1/8": "write 10.0.0.0/8",
            "fd00::1/8": "write fd00::/8",
            "10.0.0.0/33": "is no network",
            "example.com": "is no network",
        }.items()
    },
    **{
        f"a collector at {url}": ({"model": MODEL, "replicas": 1, "tracing": {"endpoint": url}}, "must be http://")
        for url in ("http://", "http://collector:99999", "http://user:pw@collector:4318", "http://a b", "grpc://c:4317")
    },
    "a bucket whose address holds a password": (
        {
            "model": MODEL,
            "replicas": 1,
            "gateway": {"results": {"bucket": {"name": "images", "endpoint": "https://key:secret@minio:9000"}}},
        },
        "user names and passwords belong in a Secret",
    ),
    "links to a port that can't be": (
        {
            "model": MODEL,
            "replicas": 1,
            "gateway": {
                "results": {
                    "bucket": {"name": "images", "region": "eu-1", "publicBaseUrl": "https://cdn.example:70000/images"}
                }
            },
        },
        "a port of 1 to 65535",
    ),
    **{
        f"links to {url}": ({"model": MODEL, "replicas": 1, "gateway": {"publicUrl": url}}, "and nothing else")
        for url in ("https://user:pw@images.example", "https://images.example:99999", "https://images.example/a", "a.b")
    },
    **{
        f"pages of {origin}": (
            {"model": MODEL, "replicas": 1, "gateway": {"allowedOrigins": [origin]}},
            "page's origin",
        )
        for origin in ("https://app.example:0", "https://app.example/", "app.example", "**")
    },
    **{
        f"called by {host}": (
            {"model": MODEL, "replicas": 1, "gateway": {"allowedHosts": [host]}},
            "host's name without scheme and port",
        )
        for host in ("https://images.example", "images.example:8443", "**", "images.*", "")
    },
    "an image name with a space": (
        {"model": MODEL, "replicas": 1, "worker": {"image": "easel server:1"}},
        "must not be empty or hold white space",
    ),
    "GPUs that are counted twice": (
        {"model": MODEL, "replicas": 1, "worker": {"resources": {"limits": {"nvidia.com/gpu": 4}}}},
        "resources must not have nvidia.com/gpu: gpu.count says how many",
    ),
    "a toleration of everything with a value": (
        {"model": MODEL, "replicas": 1, "worker": {"tolerations": [{"operator": "Exists", "value": "x"}]}},
        "operator Exists takes no value",
    ),
    "a toleration that ends and evicts nobody": (
        {
            "model": MODEL,
            "replicas": 1,
            "worker": {"tolerations": [{"key": "a", "effect": "NoSchedule", "tolerationSeconds": 5}]},
        },
        "tolerationSeconds needs effect NoExecute",
    ),
    **{
        f"{amount!r} of memory": (
            {"model": MODEL, "replicas": 1, "worker": {"resources": {"requests": {"memory": amount}}}},
            "memory",
        )
        for amount in ("-1Gi", -1, "1GB", "e3", "lots", "")
    },
    "a variant of a single file": (
        {
            "model": {
                "source": {"huggingFace": {"repository": "a/b", "variant": "fp16", "file": "b.safetensors"}},
            },
            "replicas": 1,
        },
        "set one of them",
    ),
    "a model and a refiner with two tokens": (
        {
            "model": {
                "source": {"huggingFace": {"repository": "a/b", "tokenSecretName": "one"}},
                "refiner": {"source": {"huggingFace": {"repository": "a/c", "tokenSecretName": "two"}}},
            },
            "replicas": 1,
        },
        "tokenSecretName must be the same",
    ),
    "a model and a VAE with two tokens": (
        {
            "model": {
                "source": {"huggingFace": {"repository": "a/b", "tokenSecretName": "one"}},
                "vae": {"source": {"huggingFace": {"repository": "a/c", "tokenSecretName": "two"}}},
            },
            "replicas": 1,
        },
        "tokenSecretName must be the same",
    ),
    "a refiner and a VAE with two tokens beside a model on a volume": (
        {
            "model": {
                **MODEL,
                "refiner": {"source": {"huggingFace": {"repository": "a/b", "tokenSecretName": "one"}}},
                "vae": {"source": {"huggingFace": {"repository": "a/c", "tokenSecretName": "two"}}},
            },
            "replicas": 1,
        },
        "tokenSecretName must be the same",
    ),
    "a model and a safety checker with two tokens": (
        {
            "model": {
                "source": {"huggingFace": {"repository": "a/b", "tokenSecretName": "one"}},
                "safetyChecker": {"source": {"huggingFace": {"repository": "a/c", "tokenSecretName": "two"}}},
            },
            "replicas": 1,
        },
        "tokenSecretName must be the same",
    ),
    "a safety checker that needs a token other than the add-ons'": (
        {
            "model": {
                **MODEL,
                "safetyChecker": {"source": {"huggingFace": {"repository": "a/c", "tokenSecretName": "hub"}}},
            },
            "replicas": 1,
            "downloads": {"tokenSecretName": "other"},
        },
        "all is fetched with one token",
    ),
    "a model in a bucket without a cache": (
        {"model": {"source": {"s3": {"uri": "s3://models/sdxl"}}}, "replicas": 1},
        "copied by the Job of model.cache",
    ),
    "a VAE in a bucket that nobody copies": (
        {
            "model": {
                **MODEL,
                "vae": {"source": {"s3": {"uri": "s3://models/vae"}}},
                "cache": {"claimName": "models", "fill": "Never"},
            },
            "replicas": 1,
        },
        "copied by the Job of model.cache",
    ),
    "a bucket with a slash at the end of the prefix": (
        {"model": {"source": {"s3": {"uri": "s3://models/sdxl/"}}, "cache": {"size": "1Gi"}}, "replicas": 1},
        "without a slash at its end",
    ),
    "a VAE from nowhere": (
        {"model": {**MODEL, "vae": {"source": {}}}, "replicas": 1},
        "exactly one of huggingFace, persistentVolumeClaim, image and s3",
    ),
    "a shift of a model that predicts velocity": (
        {"model": {**MODEL, "scheduler": {"shift": 3, "predictionType": "VPrediction"}}, "replicas": 1},
        "shift is for models that match flows",
    ),
    "a scheduler that says nothing": (
        {"model": {**MODEL, "scheduler": {}}, "replicas": 1},
        "an empty scheduler changes nothing",
    ),
    "a sampler that nobody knows": (
        {"model": {**MODEL, "scheduler": {"sampler": "Euler b"}}, "replicas": 1},
        "Euler b",
    ),
    **{
        f"a volume's {path!r}": (
            {"model": {"source": {"persistentVolumeClaim": {"claimName": "c", "path": path}}}, "replicas": 1},
            "path",
        )
        for path in ("../secrets", "a/../../b", "/models", "a//b", "a/.hidden", "a/", "a\nb")
    },
    "results that expire at once": (
        {"model": MODEL, "replicas": 1, "gateway": {"results": {"ttlSeconds": 0}}},
        "greater than or equal to 60",
    ),
    "an adapter from nowhere": (
        {"model": MODEL, "replicas": 1, "adapters": [{"name": "ink", "source": {}}]},
        "exactly one of huggingFace, persistentVolumeClaim, s3 and url",
    ),
    "an upscaler from two places": (
        {"model": MODEL, "replicas": 1, "upscalers": [{"name": "x4", "source": {**ON_THE_HUB, **ON_A_VOLUME}}]},
        "exactly one of huggingFace, persistentVolumeClaim, s3 and url",
    ),
    "two adapters of one name": (
        {"model": MODEL, "replicas": 1, "adapters": [{"name": "ink", "source": ON_THE_HUB}] * 2},
        "the names must differ, got 'ink' twice",
    ),
    **{
        f"an adapter that prompts can't name: {name!r}": (
            {"model": MODEL, "replicas": 1, "adapters": [{"name": name, "source": ON_THE_HUB}]},
            "a name that <lora:NAME:1> can carry",
        )
        for name in ("ink:1", "<ink>", " ink", "ink ")
    },
    "an adapter from a host that nobody allowed": (
        {"model": MODEL, "replicas": 1, "adapters": [{"name": "ink", "source": BY_URL}]},
        "must be in downloads.allowedHosts, by its name or as ",
    ),
    "a ControlNet from a host that only ends like an allowed one": (
        {
            "model": MODEL,
            "replicas": 1,
            "downloads": {"allowedHosts": ["*.ights.example.com"]},
            "controlNets": [{"name": "canny", "source": BY_URL}],
        },
        "must be in downloads.allowedHosts, by its name or as ",
    ),
    "weights that come unencrypted": (
        {
            "model": MODEL,
            "replicas": 1,
            "downloads": {"allowedHosts": ["a.example"]},
            "adapters": [{"name": "ink", "source": {"url": {"address": "http://a.example/ink.safetensors"}}}],
        },
        "must be https://, a host and a path",
    ),
    "a path that leads out of its volume": (
        {
            "model": MODEL,
            "replicas": 1,
            "adapters": [
                {"name": "ink", "source": {"persistentVolumeClaim": {"claimName": "loras", "path": "../ink"}}}
            ],
        },
        "String should match pattern",
    ),
    "a bucket's object without a key": (
        {"model": MODEL, "replicas": 1, "adapters": [{"name": "ink", "source": {"s3": {"uri": "s3://weights/"}}}]},
        "must be s3://BUCKET/KEY",
    ),
    "a weight that no adapter has": (
        {"model": MODEL, "replicas": 1, "adapters": [{"name": "ink", "source": ON_THE_HUB, "defaultWeight": 11}]},
        "less than or equal to 10",
    ),
    "add-ons that need a token other than the model's": (
        {
            "model": {"source": {"huggingFace": {"repository": "a/b", "tokenSecretName": "hub"}}},
            "replicas": 1,
            "downloads": {"tokenSecretName": "other"},
        },
        "all is fetched with one token",
    ),
    "an unknown field": ({"model": MODEL, "replicas": 1, "replica": 2}, "replica"),
}


@pytest.mark.parametrize("case", REFUSED | REFUSED_WAYS_IN)
def test_refuses(case: str) -> None:
    spec, message = (REFUSED | REFUSED_WAYS_IN)[case]
    with pytest.raises(ValidationError, match=message):
        StableDiffusionServiceSpec.model_validate(spec)


def test_a_field_that_is_null_is_one_that_is_left_out() -> None:
    with pytest.raises(ValidationError, match="an empty scheduler changes nothing"):
        StableDiffusionServiceSpec.model_validate(
            {"model": {**MODEL, "scheduler": {"shift": None}}, "replicas": 1},  # the API server drops what is null
        )


ACCEPTED: dict[str, dict[str, Any]] = {
    "a VAE in a single file, and velocity with zero terminal SNR": {
        "model": {
            **MODEL,
            "vae": {"source": {"huggingFace": {"repository": "a/b", "file": "vae-ft-mse-840000.safetensors"}}},
            "scheduler": {
                "sampler": "Euler a",
                "predictionType": "VPrediction",
                "rescaleBetasZeroSnr": True,
                "timestepSpacing": "Trailing",
            },
        },
        "replicas": 1,
    },
    "a shift": {"model": {**MODEL, "scheduler": {"shift": 1.5, "sampler": "DPM++ 2M"}}, "replicas": 1},
    "add-ons from each source": {
        "model": MODEL,
        "replicas": 1,
        "downloads": {
            "allowedHosts": ["*.example.com"],
            "allowedNetworks": ["10.0.0.0/8"],
            "tokenSecretName": "hub",
        },
        "adapters": [
            {"name": "ink", "source": ON_THE_HUB, "defaultWeight": 0.8, "models": ["stabilityai/sdxl-turbo"]},
            {"name": "Detail tweaker (v1.2)", "source": ON_A_VOLUME},
            {"name": "kühl", "source": BY_URL},
        ],
        "controlNets": [{"name": "canny", "source": {"s3": {"uri": "s3://studio-weights/canny.safetensors"}}}],
        "upscalers": [{"name": "x4", "source": {"url": {**BY_URL["url"], "sha256": "0" * 64}}}],
        "preprocessors": [{"name": "depth", "source": BY_URL}],
    },
    "as many adapters as may be listed, on hosts of their own": {
        "model": MODEL,
        "replicas": 1,
        "downloads": {"allowedHosts": [f"h{number}.example.com" for number in range(32)]},
        "adapters": [
            {"name": f"a{number}", "source": {"url": {"address": f"https://h31.example.com/{number}"}}}
            for number in range(256)
        ],
    },
    "every form of a quantity": {
        "model": MODEL,
        "replicas": 1,
        "worker": {
            "resources": {
                "requests": {"cpu": "500m", "memory": "1e3", "ephemeral-storage": "1.5E9"},
                "limits": {"cpu": ".5", "memory": "+2Gi", "hugepages-2Mi": 0, "ephemeral-storage": "2e+9"},
            }
        },
    },
    "a single file on a volume under the name that its author gave it, with a refiner of the same place": {
        "model": {
            "source": {
                "persistentVolumeClaim": {"claimName": "c", "path": "Stable-diffusion/dream & [v8] (é).safetensors"}
            },
            "refiner": {"source": {"huggingFace": {"repository": "a/b", "file": "refiner.safetensors"}}},
            "configRepository": "a/b",
            "allowPickles": True,
        },
        "replicas": 1,
    },
    "a variant": {"model": {"source": {"huggingFace": {"repository": "a/b", "variant": "fp16"}}}, "replicas": 1},
    "a network, and a single address": {
        "model": MODEL,
        "replicas": 1,
        "gateway": {"webhook": {"allowedNetworks": ["10.0.0.0/8", "192.168.1.7", "fd00::/8", "::1"]}},
    },
    "addresses of every kind": {
        "model": MODEL,
        "replicas": 1,
        "tracing": {"endpoint": "http://[fd00::7]:4318/v1/"},
        "gateway": {
            "cache": {"backend": "Memcached", "memcachedAddress": "memcached_1.cache.svc:65535"},
            "results": {
                "bucket": {
                    "name": "images",
                    "endpoint": "http://minio.storage.svc:9000",
                    "publicBaseUrl": "https://cdn.example/images",
                }
            },
        },
    },
    "pages of other sites": {
        "model": MODEL,
        "replicas": 1,
        "gateway": {
            "publicUrl": "https://images.example:8443",
            "allowedHosts": ["images.example", "*.lab.example", "gpu_box", "10.0.0.1", "*"],
            "allowedOrigins": ["https://app.example.com", "http://localhost:3000", "*", "null"],
        },
    },
    "schedules within the bound": {
        "model": MODEL,
        "scaling": {"maxReplicas": 2, "schedules": [{**WEEKDAYS, "timeZone": "Europe/Berlin"}]},
    },
    "tolerations of every kind": {
        "model": MODEL,
        "replicas": 1,
        "worker": {
            "tolerations": [
                {"operator": "Exists"},
                {"key": "gpu", "value": "big", "effect": "NoExecute", "tolerationSeconds": 60},
            ]
        },
    },
}


@pytest.mark.parametrize("case", ACCEPTED | ACCEPTED_WAYS_IN)
def test_accepts(case: str) -> None:
    StableDiffusionServiceSpec.model_validate((ACCEPTED | ACCEPTED_WAYS_IN)[case])


def test_what_is_unset_follows_the_cold_start_and_the_target() -> None:
    derived = ScalingSpec(max_replicas=2, target_latency_seconds=20)
    assert derived.queue_order is QueueOrder.TARGET_FIRST
    assert derived.find_max_overtaken_seconds(90.0) == 130.0
    assert derived.find_max_gpu_seconds_per_late_request(90.0) == 270.0
    given = ScalingSpec(max_replicas=2, max_overtaken_seconds=0, max_gpu_seconds_per_late_request=0)
    assert given.find_max_overtaken_seconds(90.0) == 0.0
    assert given.find_max_gpu_seconds_per_late_request(90.0) == 0.0


def test_an_operator_of_the_version_before_is_not_shown_an_order_that_nobody_set() -> None:
    """The API server fills in what the CRD has for a default, and that operator refuses fields it doesn't know."""
    fields = build_structural_schema(ScalingSpec)["properties"]
    new = ("queueOrder", "maxOvertakenSeconds", "maxGpuSecondsPerLateRequest")
    assert [name for name in new if "default" in fields[name]] == []


def test_a_transition_time_changes_with_the_status_only() -> None:
    start = datetime(2026, 1, 1, tzinfo=UTC)
    first = build_condition(
        ConditionType.READY, ConditionStatus.FALSE, Reason.LOADING, "a", generation=1, now=start, previous=None
    )
    later = start + timedelta(minutes=1)
    second = build_condition(
        ConditionType.READY, ConditionStatus.FALSE, Reason.CRASH_LOOP, "b", generation=2, now=later, previous=first
    )
    third = build_condition(
        ConditionType.READY, ConditionStatus.TRUE, Reason.AVAILABLE, "c", generation=2, now=later, previous=second
    )
    assert [first.last_transition_time, second.last_transition_time, third.last_transition_time] == [
        start,
        start,
        later,
    ]


def test_what_a_spec_leaves_out_is_shared_by_all_that_do() -> None:
    """pydantic copies a default that holds a dict, at each of the operator's thousands of validations a minute."""
    spec = {"model": {"source": {"huggingFace": {"repository": "a/b"}}}, "replicas": 1}
    one, another = (StableDiffusionServiceSpec.model_validate(spec) for _ in range(2))
    assert one.worker is another.worker
