"""Traces reach a real collector by OTLP/HTTP, cost nothing when they are off, and never get in the way."""

import socket
import subprocess
import sys
import threading
from contextlib import AbstractContextManager

import pytest
from easel_contract.server_config import ModelConfig, ServerConfig, TracingConfig
from easel_server.telemetry import otlp
from easel_server.telemetry.tracing import NO_TRACER, current_trace_id, open_span, open_tracer, to_trace_parent
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.trace import SpanKind, Tracer

from tests.support.otlp_receiver import OtlpReceiver

TRACE_ID = "0af7651916cd43dd8448eb211c80319c"
CALLER = "b7ad6b7169203331"
SAMPLED = f"00-{TRACE_ID}-{CALLER}-01"
NOT_SAMPLED = f"00-{TRACE_ID}-{CALLER}-00"


def open_for(
    endpoint: str | None = None, *, sample_percent: int = 100, **environment: str
) -> AbstractContextManager[Tracer]:
    config = ServerConfig(
        service="sd",
        model=ModelConfig(name="tiny", source="/nowhere"),
        tracing=TracingConfig(endpoint=endpoint, sample_percent=sample_percent),
    )
    return open_tracer(config, role="gateway", instance="pod-1", environment=environment)


@pytest.fixture
def collector():
    with OtlpReceiver() as receiver:
        yield receiver


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_spans_inside_each_other_arrive_as_one_trace(collector):
    with open_for(collector.url) as tracer:
        with open_span(tracer, "outer", kind=SpanKind.SERVER, parent=SAMPLED) as outer:
            outer.update_name("renamed")
            outer.set_attribute("http.response.status_code", 201)
            with open_span(tracer, "inner", attributes={"easel.job.id": "j1"}):
                assert current_trace_id() == TRACE_ID
        assert current_trace_id() is None
    spans = collector.wait_for("renamed", "inner")
    assert {span.trace_id for span in spans.values()} == {TRACE_ID}
    assert spans["renamed"].parent_id == CALLER
    assert spans["inner"].parent_id == spans["renamed"].span_id
    assert (spans["renamed"].kind, spans["inner"].kind) == ("SERVER", "INTERNAL")
    assert spans["renamed"].service == "sd-gateway"
    assert spans["renamed"].attributes == {"http.response.status_code": 201}
    assert spans["inner"].attributes == {"easel.job.id": "j1"}


def test_an_exception_fails_its_span_and_leaves_its_message_out(collector):
    with open_for(collector.url) as tracer, pytest.raises(ValueError, match="cat"), open_span(tracer, "submit"):
        raise ValueError("a secret cat")
    span = collector.wait_for("submit")["submit"]
    assert span.is_error
    assert span.attributes == {"error.type": "ValueError"}
    assert b"cat" not in b"".join(collector.bodies)


def test_a_trace_that_begins_here_is_sampled_and_a_callers_decision_is_kept(collector):
    with open_for(collector.url, sample_percent=0) as tracer:
        with open_span(tracer, "ours"):
            pass
        with open_span(tracer, "theirs", parent=SAMPLED):
            pass
    assert collector.wait_for("theirs").keys() == {"theirs"}


def test_a_caller_that_isnt_sampled_is_left_out_and_still_handed_on(collector):
    with open_for(collector.url) as tracer:
        with open_span(tracer, "theirs", parent=NOT_SAMPLED) as span, open_span(tracer, "inside"):
            handed_on = to_trace_parent(span)
        with open_span(tracer, "ours"):
            pass
    assert collector.wait_for("ours").keys() == {"ours"}
    assert handed_on is not None
    assert handed_on.startswith(f"00-{TRACE_ID}-")
    assert handed_on.endswith("-00")


@pytest.mark.parametrize("given", ["", "00-zz", f"00-{'0' * 32}-{CALLER}-01", "x" * 5000])
def test_a_trace_parent_that_is_none_begins_a_trace(collector, given):
    with open_for(collector.url) as tracer, open_span(tracer, "request", parent=given):
        pass
    span = collector.wait_for("request")["request"]
    assert span.parent_id == ""


def test_the_standard_environment_variables_switch_it_on_and_off(collector, monkeypatch):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "service.name=named-by-me")
    with open_for(OTEL_EXPORTER_OTLP_ENDPOINT=collector.url) as tracer, open_span(tracer, "request"):
        pass
    assert collector.wait_for("request")["request"].service == "named-by-me"
    with open_for(collector.url, OTEL_SDK_DISABLED="true") as tracer:
        assert tracer is NO_TRACER


def test_a_collector_that_is_away_is_waited_for_by_no_request_and_costs_little_log(caplog, monkeypatch):
    before = set(threading.enumerate())
    export, exporting = OTLPSpanExporter.export, set()

    def note(self, spans):
        exporting.add(threading.current_thread())
        return export(self, spans)

    monkeypatch.setattr(OTLPSpanExporter, "export", note)
    monkeypatch.setattr(otlp, "CLOSE_SECONDS", 0.2)
    with open_for(f"http://127.0.0.1:{free_port()}") as tracer:
        for _ in range(5000):  # more than the queue holds
            with open_span(tracer, "request"):
                pass
    assert exporting
    assert exporting.isdisjoint(before)
    for thread in set(threading.enumerate()) - before:
        thread.join(60)
        assert not thread.is_alive(), "what is left is dropped, not tried on and on"
    assert len([record for record in caplog.records if record.name.startswith("opentelemetry")]) <= 1


def test_what_isnt_traced_imports_nothing_that_makes_traces():
    program = """
import sys
import easel_server.main
from easel_contract.server_config import ModelConfig, ServerConfig
from easel_server.telemetry.tracing import NO_TRACER, open_span, open_tracer, to_trace_parent
config = ServerConfig(model=ModelConfig(name="m", source="/m"))
with open_tracer(config, role="all", instance="p", environment={}) as tracer:
    assert tracer is NO_TRACER
    with open_span(tracer, "request") as span:
        assert to_trace_parent(span) is None
print([name for name in sys.modules if name.startswith(("opentelemetry.sdk", "opentelemetry.exporter", "google."))])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.strip() == "[]"


def test_traces_that_cant_be_made_are_a_settings_error_that_says_what_to_do():
    program = """
import sys
sys.modules["opentelemetry.sdk"] = None
from easel_server.start import run
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
    assert "pip install '.[tracing]'" in done.stderr
