"""A service's history: what its clients sent comes back, whatever pods, scrapes and queries did meanwhile."""

import math
import random
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import pytest
from easel_contract import metrics
from easel_operator.simulation.history import History, HistoryError, Series
from hypothesis import given
from hypothesis import strategies as st

BEGIN = 1_764_000_000.0  # Unix seconds
POD = {"namespace": "art", "pod": "sdxl-gateway-1-a"}
Rows = Sequence[tuple[float, float, float]]  # seconds after BEGIN, jobs, GPU-seconds


def build_series(rows: Rows, **labels: str) -> list[Series]:
    return [
        Series({"__name__": name, **labels}, [(BEGIN + row[0], row[column]) for row in rows])
        for column, name in ((1, metrics.JOBS_SUBMITTED_TOTAL), (2, metrics.PREDICTED_GPU_SECONDS_TOTAL))
    ]


def replay(*windows: Sequence[Series]) -> History:
    history = History()
    for window in windows:
        history.add(window)
    return history


def list_requests(history: History) -> list[tuple[float, float]]:
    trace = history.build_trace(random.Random(1))  # noqa: S311 - a test's
    return list(zip(trace.arrival_seconds, trace.work_seconds, strict=True))


@pytest.mark.parametrize(
    ("rows", "jobs", "gpu_seconds"),
    [
        pytest.param([(0, 0, 0), (15, 3, 6.0)], 3, 6.0, id="growth counts"),
        pytest.param([(0, 900, 4000.0), (15, 901, 4002.5)], 1, 2.5, id="what was there at the first reading doesn't"),
        pytest.param([(0, 9, 20.0), (15, 2, 5.0)], 2, 5.0, id="a counter that fell began at zero"),
        pytest.param([(0, 9, 20.0), (15, 12, 5.0)], 12, 5.0, id="less work tells of a restart too"),
        pytest.param([(0, 1, 1.0), (3600, 5, 9.0)], 4, 8.0, id="a pause of the scrapes loses nothing"),
        pytest.param([(0, 1, 1.0), (15, math.nan, 2.0), (30, 3, 5.0)], 2, 4.0, id="NaN is no reading"),
    ],
)
def test_jobs_and_work_are_what_the_counters_grew_by(rows: Rows, jobs: int, gpu_seconds: float) -> None:
    requests = list_requests(replay(build_series(rows, **POD)))
    assert len(requests) == jobs
    assert math.fsum(work for _, work in requests) == pytest.approx(gpu_seconds)


def test_jobs_arrive_between_the_readings_with_equal_shares_of_the_work() -> None:
    requests = list_requests(replay(build_series([(0, 0, 0), (10, 0, 0), (25, 4, 10.0), (40, 4, 10.0)], **POD)))
    assert [work for _, work in requests] == [2.5] * 4
    assert all(10 < arrival <= 25 for arrival, _ in requests)
    assert len(set(requests)) == 4


def test_the_trace_lasts_from_the_first_reading_to_the_last() -> None:
    history = replay(build_series([(100, 0, 0), (115, 1, 1.0), (200, 1, 1.0)], **POD))
    assert history.build_trace(random.Random(1)).duration_seconds == 100.0  # noqa: S311


def test_pods_are_added_up_and_a_pod_first_seen_later_adds_nothing_at_first() -> None:
    old = build_series([(0, 50, 50.0), (15, 51, 51.0)], **POD)
    young = build_series([(12, 700, 900.0), (27, 702, 904.0)], namespace="art", pod="sdxl-gateway-1-b")
    history = replay([*old, *young])
    assert sorted(work for _, work in list_requests(history)) == [1.0, 2.0, 2.0]
    assert history.summarise().gateways == 2


def test_the_longest_pause_counts_a_pods_and_everybodys() -> None:
    one = build_series([(0, 0, 0), (15, 1, 1.0), (75, 2, 2.0)], **POD)
    assert replay(one).summarise().longest_pause_seconds == 60.0
    other = build_series([(30, 0, 0), (45, 1, 1.0)], namespace="art", pod="sdxl-gateway-1-b")
    assert replay([*one, *other]).summarise().longest_pause_seconds == 60.0
    nobody = build_series([(500, 0, 0), (515, 1, 1.0)], namespace="art", pod="sdxl-gateway-2-c")
    assert replay([*one, *nobody]).summarise().longest_pause_seconds == 425.0


def test_a_pod_that_is_relabelled_goes_on_where_it_was() -> None:
    before = build_series([(0, 100, 100.0), (15, 101, 101.0)], **POD, job="old")
    after = build_series([(30, 103, 103.0), (45, 104, 104.0)], **POD, job="new")
    assert len(list_requests(replay([*after, *before]))) == 4


@pytest.mark.parametrize("labels", [POD, {"instance": "10.0.0.7:8080"}])
def test_a_pod_that_is_scraped_twice_is_refused(labels: dict[str, str]) -> None:
    rows = [(0, 1, 1.0), (15, 2, 2.0)]
    shifted = [(at + 1, jobs, work) for at, jobs, work in rows]
    with pytest.raises(HistoryError, match=r'as \{job="a"\} and as \{job="b"\}, so its jobs would count twice'):
        replay([*build_series(rows, **labels, job="a"), *build_series(shifted, **labels, job="b")])


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([(0, 5, 5.0), (15, 5, 5.0)], "no job was submitted: easel_jobs_submitted_total never grew"),
        (
            [(0, 5, 5.0), (15, 6, 5.0)],
            "1 jobs and 0 GPU-seconds were added up to Unix time 1764000015.000; more than 0",
        ),
        ([(0, 5, 5.0), (15, 6, 9e9)], "at most 86400 GPU-seconds a job are allowed"),
        ([], "were never read together: both are needed"),
    ],
)
def test_readings_that_make_no_trace_are_refused(rows: Rows, message: str) -> None:
    history = replay(build_series(rows, **POD))
    with pytest.raises(HistoryError) as error:
        history.build_trace(random.Random(1))  # noqa: S311
    assert message in str(error.value)


def test_more_requests_than_can_be_simulated_are_refused() -> None:
    with pytest.raises(HistoryError, match="more than 5000000 requests were submitted: ask for a shorter time"):
        replay(build_series([(0, 0, 0), (15, 5_000_001, 5e6)], **POD))


@dataclass(frozen=True)
class Process:
    """A gateway's process: its jobs (when, GPU-seconds) and the times at which it was scraped, in order."""

    jobs: tuple[tuple[int, float], ...]
    scrapes: tuple[int, ...]

    def rows(self) -> list[tuple[float, float, float]]:
        times = [at for at, _ in self.jobs]
        return [
            (at, bisect_right(times, at), sum(w for _, w in self.jobs[: bisect_right(times, at)]))
            for at in self.scrapes
        ]

    def seen_jobs(self) -> list[tuple[int, float]]:
        """Those that came between two scrapes."""
        return [(at, work) for at, work in self.jobs if self.scrapes and self.scrapes[0] < at <= self.scrapes[-1]]


TIMES = st.integers(0, 600)
PROCESSES = st.builds(
    Process,
    st.lists(st.tuples(TIMES, st.floats(0.001, 100)), max_size=40).map(lambda jobs: tuple(sorted(jobs))),
    st.lists(TIMES, unique=True, max_size=30).map(lambda times: tuple(sorted(times))),  # with gaps of any length
)


def cut_windows(series: Sequence[Series], edges: Sequence[int]) -> list[list[Series]]:
    """As Prometheus 2 answers: a sample at an edge is in both windows."""
    bounds = [-math.inf, *(BEGIN + edge for edge in sorted(edges)), math.inf]
    windows = [
        [Series(labels, [sample for sample in samples if begin <= sample[0] <= end]) for labels, samples in series]
        for begin, end in pairwise(bounds)
    ]
    return [[series for series in window if series.samples] for window in windows]


@given(processes=st.lists(PROCESSES, max_size=4), edges=st.lists(TIMES, unique=True, max_size=6))
def test_what_was_sent_between_scrapes_comes_back_however_it_is_asked_for(
    processes: list[Process], edges: list[int]
) -> None:
    series = [
        each
        for number, process in enumerate(processes)
        for each in build_series(process.rows(), namespace="art", pod=f"gateway-{number}")
        if process.scrapes
    ]
    sent = [job for process in processes for job in process.seen_jobs()]
    history = replay(*cut_windows(series, edges))
    if not sent:
        with pytest.raises(HistoryError):
            history.build_trace(random.Random(1))  # noqa: S311
        return
    requests = list_requests(history)
    first = min(at for process in processes for at in process.scrapes)
    assert len(requests) == len(sent)
    assert math.fsum(work for _, work in requests) == pytest.approx(math.fsum(work for _, work in sent))
    assert history.summarise().readings == sum(len(process.scrapes) for process in processes)
    assert all(0 <= arrival <= 600 - first for arrival, _ in requests)
    assert requests == list_requests(replay(series)), "windows made a difference"


@given(process=PROCESSES)
def test_each_job_arrives_between_the_scrapes_that_saw_it_come(process: Process) -> None:
    sent = process.seen_jobs()
    if not sent:
        return
    requests = list_requests(replay(build_series(process.rows(), **POD)))
    for (arrival, _), (sent_at, _) in zip(requests, sent, strict=True):
        after = bisect_right(process.scrapes, sent_at - 0.5)
        since, until = process.scrapes[after - 1], process.scrapes[after]
        assert since <= process.scrapes[0] + arrival <= until + 1e-6


@given(lives=st.lists(PROCESSES.filter(lambda process: bool(process.scrapes)), min_size=1, max_size=4))
def test_over_restarts_nothing_is_invented_and_only_what_no_scrape_saw_is_lost(lives: list[Process]) -> None:
    rows = [
        (1000.0 * number + at, jobs, 2.0 * jobs)
        for number, process in enumerate(lives)
        for at, jobs, _ in process.rows()
    ]
    last_at, last_jobs, _ = rows[-1]
    rows.append((last_at + 1, last_jobs + 1, 2.0 * (last_jobs + 1)))
    counted = len(list_requests(replay(build_series(rows, **POD))))
    between_scrapes = sum(len(process.seen_jobs()) for process in lives) + 1
    before_scrapes = sum(process.rows()[0][1] for process in lives[1:])  # unknown where a new count overtook the old
    assert between_scrapes <= counted <= between_scrapes + before_scrapes
