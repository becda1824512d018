"""Where a job's time went, before a worker had it."""

from datetime import UTC, datetime, timedelta

import pytest
from easel_server.stores.jobs.interface import Claim
from easel_server.worker.job_run import JobRun
from easel_server.worker.reporting import build_timing

from tests.support.jobs import build_job

NOW = datetime(2026, 5, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("waited", "ready", "load", "expected"),
    [
        pytest.param(10.0, 100.0, 60.0, (10.0, 0.0), id="the worker had long been ready"),
        pytest.param(30.0, 10.0, 60.0, (10.0, 20.0), id="submitted while the worker was loading"),
        pytest.param(100.0, 10.0, 60.0, (40.0, 60.0), id="submitted before the worker began to load"),
        pytest.param(10.0, 10.0, 60.0, (10.0, 0.0), id="submitted just when it was ready"),
        pytest.param(-0.5, 10.0, 60.0, (0.0, 0.0), id="a clock that was set back"),
    ],
)
async def test_the_part_of_the_wait_in_which_the_worker_was_loading(
    waited: float, ready: float, load: float, expected: tuple[float, float]
) -> None:
    job = build_job("a").model_copy(update={"submitted_at": NOW, "started_at": NOW + timedelta(seconds=waited)})
    run = JobRun(Claim(job, "token", 10.0))
    run.last_step_at_seconds = run.claimed_at_seconds + 2.0
    run.ended_at_seconds = run.claimed_at_seconds + 2.5
    timing = build_timing(run, ready_seconds=ready, load_seconds=load)
    assert (timing.queue_seconds, timing.load_seconds) == pytest.approx(expected)
    assert (timing.run_seconds, timing.encode_seconds) == pytest.approx((2.0, 0.5))
    assert timing.total_seconds == pytest.approx(max(0.0, waited) + 2.5)
