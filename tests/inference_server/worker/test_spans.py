"""The spans of a job that is over, as a real collector gets them."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from easel_contract.server_config import TracingConfig
from easel_server.generation.job import JobState
from easel_server.telemetry.otlp import open_exported_tracer
from easel_server.worker.spans import MAX_STEP_EVENTS, JobTimes, record_job_spans

from tests.support.jobs import build_job
from tests.support.otlp_receiver import OtlpReceiver

TRACE_ID = "0af7651916cd43dd8448eb211c80319c"
CALLER = "b7ad6b7169203331"
SUBMIT = f"00-{TRACE_ID}-{CALLER}-01"
NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


@pytest.fixture
def collector() -> Iterator[OtlpReceiver]:
    with OtlpReceiver() as receiver:
        yield receiver


def build_times(**changes: Any) -> JobTimes:
    """Of a job that was asked for at 100 s of the worker's clock and finished at 110 s."""
    times: dict[str, Any] = {
        "asked_at": 100.0,
        "claimed_at": 102.0,
        "began_at": 103.0,
        "stepped_at": (104.0, 105.0),
        "encoded_at": 106.0,
        "reported_at": 107.0,
        "finished_at": 110.0,
        "ready_at": 90.0,
        "load_seconds": 0.0,
    }
    return JobTimes(**times | changes)


def record(collector: OtlpReceiver, state: JobState, times: JobTimes, **job: Any) -> None:
    stored = build_job("j1").model_copy(update=job)
    with open_exported_tracer(TracingConfig(endpoint=collector.url), {"service.name": "sd"}) as tracer:
        record_job_spans(tracer, stored, SUBMIT, state, times, batch_jobs=3, now=NOON)


def test_spans_have_the_times_of_what_happened_and_the_submit_as_their_parent(collector):
    times = build_times(load_seconds=5.0)
    submitted_at, started_at = NOON - timedelta(seconds=20), NOON - timedelta(seconds=8)
    record(collector, JobState.FAILED, times, submitted_at=submitted_at, started_at=started_at)
    expected = {
        "wait in queue": (-20, -8),
        "load model": (-25, -20),
        "process job": (-10, 0),
        "claim": (-10, -8),
        "generate": (-7, -5),
        "encode": (-5, -4),
        "finish": (-3, 0),
    }
    spans = collector.wait_for(*expected)
    at = NOON.timestamp()
    assert {
        name: (round(span.began_at_seconds - at, 3), round(span.ended_at_seconds - at, 3))
        for name, span in spans.items()
    } == expected
    process = spans["process job"]
    outer = {"wait in queue", "load model", "process job"}
    assert {span.trace_id for span in spans.values()} == {TRACE_ID}
    assert {name for name, span in spans.items() if span.parent_id == CALLER} == outer
    assert {name for name, span in spans.items() if span.parent_id == process.span_id} == expected.keys() - outer
    assert (process.kind, spans["generate"].kind) == ("CONSUMER", "INTERNAL")
    assert process.is_error
    assert process.attributes["error.type"] == "Failed"
    assert process.attributes["messaging.batch.message_count"] == 3
    assert spans["generate"].events == (("step", {"easel.step": 1}), ("step", {"easel.step": 2}))


def test_of_many_steps_as_many_become_events_as_a_span_holds_the_last_among_them(collector):
    steps = 2 * MAX_STEP_EVENTS + 1
    times = build_times(stepped_at=tuple(103 + step / 1000 for step in range(steps)))
    record(collector, JobState.SUCCEEDED, times)
    spans = collector.wait_for("process job", "generate")
    shown = [attributes["easel.step"] for _, attributes in spans["generate"].events]
    assert MAX_STEP_EVENTS / 2 < len(shown) <= MAX_STEP_EVENTS
    assert shown[-1] == steps
    assert not spans["process job"].is_error
    assert spans.keys() & {"wait in queue", "load model"} == set()
