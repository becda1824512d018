import random

import pytest
from easel_operator.simulation.trace import TraceError, build_trace, cut, parse_trace, parse_traces, upscale

HEADER = "arrival_seconds,work_seconds"


def test_columns_may_come_in_any_order_and_others_are_ignored() -> None:
    trace = parse_trace(["model,work_seconds,arrival_seconds", "m0,2.5,7", "m1,1,3"], "t.csv")
    assert trace.arrival_seconds == (0.0, 4.0)
    assert trace.work_seconds == (1.0, 2.5)
    assert trace.duration_seconds == 4.0


@pytest.mark.parametrize("clock", [0, 12.5, -3600, 1e7, 1_790_000_000])
def test_the_clock_of_a_trace_may_begin_anywhere(clock: float) -> None:
    trace = parse_trace([HEADER, f"{clock + 60},2", f"{clock},1"], "t.csv")
    assert trace == build_trace([(0.0, 1.0), (60.0, 2.0)], begins_at=clock)


def test_a_byte_order_mark_does_no_harm() -> None:
    assert parse_trace([f"\ufeff{HEADER}", "1,2"], "t.csv").work_seconds == (2.0,)


def test_a_trace_is_parted_by_a_column_on_one_clock() -> None:
    rows = ["model,arrival_seconds,work_seconds", "b,10,1", "a,20,2", "b,40,3"]
    parts = parse_traces(rows, "t.csv", "model")
    assert list(parts) == ["a", "b"]
    assert parts["a"] == build_trace([(10.0, 2.0)], 30.0, 10.0)
    assert parts["b"] == build_trace([(0.0, 1.0), (30.0, 3.0)], 30.0, 10.0)
    with pytest.raises(
        TraceError, match=r"t\.csv:1: no column colour in the header; it has model,arrival_seconds,work"
    ):
        parse_traces(rows, "t.csv", "colour")


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([], "t.csv:1: no column arrival_seconds and work_seconds in the header; it has nothing"),
        (
            ["arrival_seconds,steps", "1,2"],
            "t.csv:1: no column work_seconds in the header; it has arrival_seconds,steps",
        ),
        ([HEADER], "t.csv: no requests below the header"),
        ([HEADER, "1,2", "x,2"], "t.csv:3: arrival_seconds is 'x'; a number of seconds is expected"),
        ([HEADER, "1,nan"], "t.csv:2: work_seconds is 'nan'; a number of seconds is expected"),
        ([HEADER, "1,"], "t.csv:2: work_seconds is ''; a number of seconds is expected"),
        (
            [HEADER, "0,2", "1790000000,2"],
            "t.csv: 1790000000 s lie between its first request (arrival_seconds 0) and its last (1.79e+09); "
            "316224000 are allowed",
        ),
        ([HEADER, "1,0"], "t.csv:2: work_seconds is 0; more than 0, at most 86400 are allowed"),
        ([HEADER, "1"], "t.csv:2: 1 values, but the header has more columns"),
    ],
)
def test_a_bad_file_is_refused_with_its_line(lines: list[str], message: str) -> None:
    with pytest.raises(TraceError) as error:
        parse_trace(lines, "t.csv")
    assert str(error.value) == message


def test_blank_lines_do_no_harm() -> None:
    assert len(parse_trace([HEADER, "1,2", "", "3,4", ""], "t.csv")) == 2


def test_upscaling_lays_jittered_copies_over_the_trace() -> None:
    trace = build_trace([(100.0, 1.0), (200.0, 3.0)])
    scaled, again, other = (upscale(trace, 5, 10.0, random.Random(seed)) for seed in (1, 1, 2))  # noqa: S311
    assert sorted(scaled.work_seconds) == [1.0] * 5 + [3.0] * 5
    assert all(90 <= at <= 110 for at in scaled.arrival_seconds[:5])
    assert all(190 <= at <= 210 for at in scaled.arrival_seconds[5:])
    assert list(scaled.arrival_seconds) == sorted(scaled.arrival_seconds)
    assert scaled == again
    assert scaled != other


def test_a_cut_begins_at_zero_and_keeps_its_length() -> None:
    part = cut(build_trace([(5.0, 1.0), (15.0, 2.0), (25.0, 3.0)]), 10.0, 25.0)
    assert part.arrival_seconds == (5.0,)
    assert part.duration_seconds == 15.0
    assert part.begins_at == 10.0
