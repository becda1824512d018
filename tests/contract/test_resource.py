"""The resource's own rules, as the operator sees them."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from easel_contract.conditions import ConditionStatus, ConditionType, Reason, build_condition
from easel_contract.resource import StableDiffusionServiceSpec
from pydantic import ValidationError

MODEL = {"source": {"huggingFace": {"repository": "stabilityai/sdxl-turbo"}}}

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
    "results that expire at once": (
        {"model": MODEL, "replicas": 1, "gateway": {"results": {"ttlSeconds": 0}}},
        "greater than or equal to 60",
    ),
    "an unknown field": ({"model": MODEL, "replicas": 1, "replica": 2}, "replica"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refuses(case: str) -> None:
    spec, message = REFUSED[case]
    with pytest.raises(ValidationError, match=message):
        StableDiffusionServiceSpec.model_validate(spec)


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
