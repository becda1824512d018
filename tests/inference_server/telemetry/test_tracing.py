"""Traces reach a real collector by OTLP/HTTP, cost nothing when they are off, and never get in the way."""

import socket
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime, timedelta

import pytest
from easel_contract.server_config import ModelConfig, ServerConfig, TracingConfig
from easel_server.telemetry.open_telemetry import CLOSE_SECONDS
from easel_server.telemetry.tracing import NO_TRACER, SpanEvent, SpanKind, SpanRecord, Tracer, build_tracer

from tests.support.otlp_receiver import OtlpReceiver

TRACE_ID = "0af7651916cd43dd8448eb211c80319c"
CALLER = "b7ad6b7169203331"
SAMPLED = f"00-{TRACE_ID}-{CALLER}-01"
NOT_SAMPLED = f"00-{TRACE_ID}-{CALLER}-00"


def build(endpoint: str | None = None, *, sample_percent: int = 100, **environment: str) -> Tracer:
    config = ServerConfig(
        service="sd",
        model=ModelConfig(name="tiny", source="/nowhere"),
        tracing=TracingConfig(endpoint=endpoint, sample_percent=sample_percent),
    )
    return build_tracer(config, role="gateway", instance="pod-1", environment=environment)


@pytest.fixture
def collector():
    with OtlpReceiver() as receiver:
        yield receiver


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_spans_inside_each_other_arrive_as_one_trace(collector):
    tracer = build(collector.url)
    with tracer.span("outer", kind=SpanKind.SERVER, parent=SAMPLED) as outer:
        outer.rename("renamed")
        outer.describe({"http.response.status_code": 201})
        with tracer.span("inner", attributes={"easel.job.id": "j1"}) as inner:
            assert tracer.current_trace_parent() == inner.trace_parent
    assert tracer.current_trace_parent() is None
    tracer.close()
    spans = collector.wait_for("renamed", "inner")
    assert {span.trace_id for span in spans.values()} == {TRACE_ID}
    assert spans["renamed"].parent_id == CALLER
    assert spans["inner"].parent_id == spans["renamed"].span_id
    assert (spans["renamed"].kind, spans["inner"].kind) == ("SERVER", "INTERNAL")
    assert spans["renamed"].service == "sd-gateway"
    assert spans["renamed"].attributes == {"http.response.status_code": 201}
    assert spans["inner"].attributes == {"easel.job.id": "j1"}


def test_spans_that_are_over_keep_their_times_their_events_and_their_order(collector):
    tracer = build(collector.url)
    noon = datetime(2026, 1, 1, 12, tzinfo=UTC)
    step = SpanEvent("step", noon + timedelta(seconds=2), {"easel.step": 1})
    child = SpanRecord("generate", noon + timedelta(seconds=1), noon + timedelta(seconds=3), events=(step,))
    tracer.record(
        SpanRecord("job", noon, noon + timedelta(seconds=4), children=(child,), error="Failed"), parent=SAMPLED
    )
    tracer.close()
    spans = collector.wait_for("job", "generate")
    assert spans["job"].parent_id == CALLER
    assert spans["job"].is_error
    assert spans["job"].attributes == {"error.type": "Failed"}
    assert spans["generate"].parent_id == spans["job"].span_id
    assert spans["generate"].began_at_seconds == noon.timestamp() + 1
    assert spans["generate"].ended_at_seconds == noon.timestamp() + 3
    assert spans["generate"].events == (("step", {"easel.step": 1}),)


def test_an_exception_fails_its_span_and_leaves_its_message_out(collector):
    tracer = build(collector.url)
    with pytest.raises(ValueError, match="cat"), tracer.span("submit"):
        raise ValueError("a secret cat")
    tracer.close()
    span = collector.wait_for("submit")["submit"]
    assert span.is_error
    assert span.attributes == {"error.type": "ValueError"}
    assert b"cat" not in b"".join(collector.bodies)


def test_a_trace_that_begins_here_is_sampled_and_a_callers_decision_is_kept(collector):
    tracer = build(collector.url, sample_percent=0)
    with tracer.span("ours"):
        pass
    with tracer.span("theirs", parent=SAMPLED):
        pass
    tracer.close()
    assert collector.wait_for("theirs").keys() == {"theirs"}


def test_a_caller_that_isnt_sampled_is_left_out_and_still_handed_on(collector):
    tracer = build(collector.url)
    with tracer.span("theirs", parent=NOT_SAMPLED) as span:
        handed_on = span.trace_parent
    with tracer.span("ours"):
        pass
    tracer.close()
    assert collector.wait_for("ours").keys() == {"ours"}
    assert handed_on is not None
    assert handed_on.startswith(f"00-{TRACE_ID}-")
    assert handed_on.endswith("-00")


@pytest.mark.parametrize("given", ["", "00-zz", f"00-{'0' * 32}-{CALLER}-01", "x" * 5000])
def test_a_trace_parent_that_is_none_begins_a_trace(collector, given):
    tracer = build(collector.url)
    with tracer.span("request", parent=given):
        pass
    tracer.close()
    span = collector.wait_for("request")["request"]
    assert span.parent_id == ""


def test_the_standard_environment_variables_switch_it_on_and_off(collector, monkeypatch):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "service.name=named-by-me")
    tracer = build(OTEL_EXPORTER_OTLP_ENDPOINT=collector.url)
    with tracer.span("request"):
        pass
    tracer.close()
    assert collector.wait_for("request")["request"].service == "named-by-me"
    assert build(collector.url, OTEL_SDK_DISABLED="true") is NO_TRACER


def test_a_collector_that_is_away_costs_no_time_and_little_log(caplog):
    before = set(threading.enumerate())
    tracer = build(f"http://127.0.0.1:{free_port()}")
    began = time.monotonic()
    for _ in range(5000):  # more than the queue holds
        with tracer.span("request"):
            pass
    assert time.monotonic() - began < CLOSE_SECONDS * 10
    tracer.close()
    assert time.monotonic() - began < CLOSE_SECONDS * 20
    for thread in set(threading.enumerate()) - before:
        thread.join(CLOSE_SECONDS * 20)
        assert not thread.is_alive(), "what is left is dropped, not tried on and on"
    assert len([record for record in caplog.records if record.name.startswith("opentelemetry")]) <= 1


def test_what_isnt_traced_imports_nothing_that_makes_traces():
    # FastAPI itself imports OpenTelemetry's API, which does nothing without the SDK.
    program = """
import sys
import easel_server.main
from easel_contract.server_config import ModelConfig, ServerConfig
from easel_server.telemetry.tracing import NO_TRACER, build_tracer
tracer = build_tracer(ServerConfig(model=ModelConfig(name="m", source="/m")), role="all", instance="p", environment={})
assert tracer is NO_TRACER
print([name for name in sys.modules if name.startswith(("opentelemetry.sdk", "opentelemetry.exporter", "google."))])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.strip() == "[]"


def test_traces_that_cant_be_made_are_a_settings_error_that_says_what_to_do():
    program = """
import sys
sys.modules["opentelemetry.sdk"] = None
from easel_server.main import run
sys.exit(run(["--model", "/nowhere"]))
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318"},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 2
    assert "OTEL_EXPORTER_OTLP_ENDPOINT asks for traces" in done.stderr
    assert "install easel[tracing]" in done.stderr
