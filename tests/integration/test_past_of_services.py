"""The operator's reading of the past, from a real Prometheus that scraped two gateways, one after the other."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from easel_contract import metrics
from easel_contract.resource import ScalingSpec
from easel_operator.autoscaling.replay.past import PastTerms, replay_past
from easel_operator.autoscaling.workers import StartUp
from easel_operator.cluster.prometheus import Prometheus
from easel_operator.handlers.past_reader import read_past
from easel_operator.handlers.scaling_loop import PastWanted
from easel_operator.objects import ServiceKey

from tests.support.prometheus_server import PrometheusServer

HOURS, SCRAPE_SECONDS = 40, 30
BATCH_JOBS, JOB_SECONDS = 120, 5.0
RESTARTED_HOURS_AGO = 10
TERMS = PastTerms(ScalingSpec(max_replicas=50, target_latency_seconds=30), StartUp(90.0, 600.0, 90.0), None)
WANTED = PastWanted(ServiceKey("art", "sdxl"), "a-uid", TERMS)


def write_past(end: int) -> str:
    """A batch at each full hour of HOURS until ``end``, scraped from a gateway, and from the next after a restart."""
    begin, restarted = end - HOURS * 3600, end - RESTARTED_HOURS_AGO * 3600
    lines = []
    for name, factor in ((metrics.JOBS_SUBMITTED_TOTAL, 1.0), (metrics.PREDICTED_GPU_SECONDS_TOTAL, JOB_SECONDS)):
        lines.append(f"# TYPE {name.removesuffix('_total')} counter")
        for pod, since, until in (("5d9c7b4f6-x2k8q", begin, restarted), ("5d9c7b4f6-abcde", restarted, end)):
            first = (since // 3600 + 1) * 3600
            for at in range(since + 7, until, SCRAPE_SECONDS):
                batches = max(0, (at - first) // 3600 + 1)
                labels = f'namespace="art",pod="sdxl-gateway-{pod}"'
                lines.append(f"{name}{{{labels}}} {factor * BATCH_JOBS * batches} {at}")
    return "\n".join([*lines, "# EOF", ""])


@pytest.fixture(scope="module")
def end() -> int:
    """Twenty minutes past an hour that is over."""
    return int(datetime.now(UTC).timestamp()) // 3600 * 3600 - 2400


@pytest.fixture(scope="module")
def prometheus(end: int) -> Iterator[PrometheusServer]:
    with PrometheusServer({}, past=write_past(end)) as server:
        yield server


async def test_the_batches_of_the_last_days_are_read_and_the_next_is_foreseen(
    prometheus: PrometheusServer, end: int
) -> None:
    async with Prometheus(prometheus.url) as server:
        steps = await read_past(server, WANTED, datetime.fromtimestamp(end, UTC))
    batches = [step for step in steps if step.jobs]
    # The one before the first scrape of a gateway is its baseline; each of the others is there, whole and once.
    assert {step.jobs for step in batches} == {BATCH_JOBS}
    assert {step.gpu_seconds for step in batches} == {BATCH_JOBS * JOB_SECONDS}
    assert len(batches) in {HOURS - 1, HOURS}
    assert all(step.until % 3600 <= 60 for step in batches)
    assert sum(step.seconds for step in steps) == pytest.approx(HOURS * 3600, abs=600)
    forecast, bank = replay_past(steps, TERMS)
    bursts = forecast.bursts
    (hourly,) = (each for each in bursts.recurrences if bursts.is_proved(each))
    following = datetime.fromtimestamp(end, UTC).replace(minute=0, second=0) + timedelta(hours=1)
    assert hourly.due_at == pytest.approx(following.timestamp(), abs=60)
    assert bank.choice.seen_seconds == pytest.approx(36 * 3600, rel=0.02), "the shadow fleets lived through it too"


async def test_another_service_s_past_is_not_taken_for_its_own(prometheus: PrometheusServer, end: int) -> None:
    other = PastWanted(ServiceKey("art", "sdxl-two"), "another", TERMS)
    async with Prometheus(prometheus.url) as server:
        assert await read_past(server, other, datetime.fromtimestamp(end, UTC)) == []
