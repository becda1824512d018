"""Lines about a job, out of what several pods wrote."""

import json

from easel_cli.decide.log_lines import parse_line, select_lines

LINES = (
    ("gateway-a", {"time": "10:00:03", "level": "info", "message": "request", "request_id": "r1", "code": 201}),
    ("worker-b", {"time": "10:00:02", "level": "info", "message": "job j1: attempt 1", "request_id": "r1"}),
    ("worker-b", {"time": "10:00:02", "level": "info", "message": "job j2: attempt 1", "request_id": "r2"}),
    ("worker-c", {"time": "10:00:09", "level": "warning", "message": "a lease expired", "job": "j1"}),
    ("worker-b", {"time": "10:00:01", "level": "info", "message": "ready"}),
)


def gather():
    return [parse_line(pod, json.dumps(line)) for pod, line in LINES]


def test_a_jobs_lines_come_with_those_of_its_request_in_the_order_of_time() -> None:
    found = select_lines(gather(), job="j1", request=None)
    assert [(line.pod, line.message) for line in found] == [
        ("worker-b", "job j1: attempt 1"),
        ("gateway-a", "request"),
        ("worker-c", "a lease expired"),
    ]
    assert found[1].fields == {"code": 201}


def test_a_requests_lines_are_found_by_its_id() -> None:
    assert [line.message for line in select_lines(gather(), job=None, request="r2")] == ["job j2: attempt 1"]


def test_lines_without_a_request_are_not_everybodys() -> None:
    lines = [parse_line("w", '{"message": "job j9: done"}'), parse_line("w", '{"message": "other"}')]
    assert [line.message for line in select_lines(lines, job="j9", request=None)] == ["job j9: done"]


def test_what_is_no_json_is_kept_as_it_is() -> None:
    assert parse_line("w", "Fatal Python error: job j1").mentions("j1")
    assert parse_line("w", "[1]").message == "[1]"
