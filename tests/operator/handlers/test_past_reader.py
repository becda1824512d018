"""After a restart the past of each service is read from a Prometheus, in the background, and failures cost nothing."""

import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import pytest
from easel_contract import metrics
from easel_contract.resource import ScalingSpec
from easel_operator.autoscaling.forecast.forecast import Forecast
from easel_operator.autoscaling.replay.choice import Basis
from easel_operator.autoscaling.replay.past import PastStep, PastTerms, replay_past
from easel_operator.autoscaling.workers import StartUp
from easel_operator.cluster.prometheus import Prometheus, PrometheusError
from easel_operator.handlers import past_reader
from easel_operator.handlers.past_reader import MAX_ATTEMPTS, RETRY_SECONDS, STRETCHES, Past, PastReader, read_past
from easel_operator.operator_metrics import HISTORY_READS
from easel_operator.simulation.history import MAX_REQUESTS, Growth, Series

from tests.operator.handlers.test_scaling_loop import GATEWAY, KEY, SERVICE, WORKER, Bench
from tests.operator.objects import NOW, build_service

HOUR, DAY = 3600.0, 86400.0
LATER = NOW.replace(minute=20)
BATCH_JOBS, JOB_SECONDS = 200, 5.0
QUERY = re.compile(r"\{(.*)\}\[(\d+)s:(\d+)s\]")


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """The last 36 hours will do."""
    monkeypatch.setattr(past_reader, "STRETCHES", STRETCHES[-1:])


class FakePrometheus(Prometheus):
    """Answers subqueries as Prometheus does: at multiples of the step. A gateway accepted jobs at given times."""

    def __init__(self, batches: Sequence[float], jobs: int = BATCH_JOBS) -> None:
        super().__init__("http://nowhere")
        self.batches, self.jobs = batches, jobs  # Unix seconds
        self.fault: Exception | None = None
        self.asked: list[str] = []

    async def query(self, promql: str, at_seconds: float) -> tuple[Series, ...]:
        self.asked.append(promql)
        if self.fault is not None:
            raise self.fault
        found = QUERY.fullmatch(promql)
        assert found, promql
        seconds, step = int(found[2]), int(found[3])
        first = (int(at_seconds - seconds) // step + 1) * step
        times = [float(at) for at in range(first, int(at_seconds) + 1, step)]
        return tuple(self._count(name, factor, times) for name, factor in COUNTED)

    def _count(self, name: str, factor: float, times: Sequence[float]) -> Series:
        labels = {"__name__": name, "namespace": KEY.namespace, "pod": f"{KEY.name}-gateway-5d9c7b4f6-x2k8q"}
        return Series(labels, [(at, factor * self.jobs * sum(batch <= at for batch in self.batches)) for at in times])


COUNTED = ((metrics.JOBS_SUBMITTED_TOTAL, 1.0), (metrics.PREDICTED_GPU_SECONDS_TOTAL, JOB_SECONDS))


class Restarted:
    """An operator that has just started and follows one service, beside a Prometheus."""

    def __init__(self, server: FakePrometheus) -> None:
        self.bench, self.server, self.monotonic = Bench(), server, 0.0
        self.bench.now = LATER
        self.bench.add(build_service(SERVICE), GATEWAY, WORKER)
        self.reader = PastReader(
            server,
            self.bench.loop,
            clock=lambda: self.bench.now,
            monotonic=lambda: self.monotonic,
            sleep=self.sleep,
        )
        self.slept: list[float] = []

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)

    @property
    def forecast(self) -> Forecast:
        return self.bench.loop._states[KEY].planner.forecast


def count(outcome: str) -> float:
    return HISTORY_READS.labels(outcome)._value.get()


def list_hours(hours: int) -> list[float]:
    """Full hours before LATER, in Unix seconds."""
    last = LATER.timestamp() // HOUR * HOUR
    return [last - HOUR * back for back in range(hours)]


async def test_a_restarted_operator_foresees_the_batch_of_the_next_full_hour() -> None:
    restarted = Restarted(FakePrometheus(list_hours(48)))
    await restarted.bench.tick()
    assert restarted.forecast.bursts.recurrences == ()
    before = count("read")
    await restarted.reader.read_all()
    bursts = restarted.forecast.bursts
    due = [each for each in bursts.recurrences if bursts.is_proved(each) and each.period_seconds == HOUR]
    next_hour = (LATER.timestamp() // HOUR + 1) * HOUR
    assert [each.due_at for each in due] == pytest.approx([next_hour], abs=15)
    assert due[0].gpu_seconds == pytest.approx(BATCH_JOBS * JOB_SECONDS, rel=0.1)
    assert count("read") == before + 1
    asked = len(restarted.server.asked)
    await restarted.bench.tick()
    await restarted.reader.read_all()
    assert len(restarted.server.asked) == asked, "it is read once"
    assert restarted.forecast.bursts.recurrences, "and kept"


async def test_a_restarted_operator_has_its_shadow_fleets_live_through_the_last_days(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(past_reader, "STRETCHES", STRETCHES[-1:])
    restarted = Restarted(FakePrometheus(list_hours(48)))
    await restarted.bench.tick()
    first = restarted.bench.loop._states[KEY].bank
    assert first is not None
    assert first.choice.basis is Basis.FIRST
    await restarted.reader.read_all()
    second = restarted.bench.loop._states[KEY].bank
    assert second is not None
    assert second.choice.basis in {Basis.BUDGET, Basis.PRICE}
    assert second.choice.seen_seconds == pytest.approx(36 * HOUR, rel=0.02)


async def test_what_is_read_covers_two_weeks_in_queries_of_bounded_size() -> None:
    restarted = Restarted(FakePrometheus(list_hours(3)))
    await restarted.bench.tick()
    await restarted.reader.read_all()
    sizes = [(int(found[2]), int(found[3])) for text in restarted.server.asked if (found := QUERY.fullmatch(text))]
    assert sum(seconds for seconds, _ in sizes) == 14 * DAY
    assert max(seconds // step for seconds, step in sizes) <= 480


async def test_a_prometheus_that_fails_is_asked_again_a_few_times_and_scaling_goes_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    server = FakePrometheus(list_hours(48))
    server.fault = PrometheusError("http://nowhere gave no answer within 60 s")
    restarted, before = Restarted(server), count("failed")
    for _ in range(MAX_ATTEMPTS + 2):
        await restarted.bench.tick()
        await restarted.reader.read_all()
        await restarted.reader.read_all()  # too soon: it isn't asked
        restarted.monotonic += RETRY_SECONDS
    assert count("failed") == before + MAX_ATTEMPTS == before + len(server.asked)
    assert "its past isn't known, and is learned anew" in caplog.text
    assert "gave no answer within 60 s" in caplog.text
    restarted.bench.scraper.depth = 7
    await restarted.bench.tick()
    assert restarted.bench.shared.decisions[KEY].desired_replicas == 4


@pytest.mark.usefixtures("short")
async def test_a_fault_that_nobody_foresaw_stops_neither_the_reader_nor_the_scaling() -> None:
    server = FakePrometheus(list_hours(48))
    server.fault = RuntimeError("a bug")
    restarted = Restarted(server)
    await restarted.bench.tick()
    await restarted.reader.read_all()
    server.fault, restarted.monotonic = None, RETRY_SECONDS
    await restarted.reader.read_all()
    assert restarted.forecast.bursts.recurrences


async def test_a_service_that_was_made_anew_meanwhile_gets_no_past_of_another() -> None:
    restarted = Restarted(FakePrometheus(list_hours(48)))
    await restarted.bench.tick()
    (wanted,) = restarted.bench.loop.list_wanted_pasts()
    restarted.bench.loop._states[KEY].uid = "another"
    await restarted.bench.loop.take_past(wanted, [PastStep(NOW.timestamp(), 15.0, 9, 45.0)])
    assert restarted.forecast == restarted.bench.loop._states[KEY].planner.forecast
    assert restarted.bench.loop.list_wanted_pasts(), "its own is still wanted"


@pytest.mark.usefixtures("short")
async def test_a_service_without_a_past_is_asked_for_once_and_keeps_what_it_learned() -> None:
    restarted, before = Restarted(FakePrometheus([])), count("empty")
    await restarted.bench.tick()
    learned = restarted.forecast
    await restarted.reader.read_all()
    await restarted.reader.read_all()
    assert count("empty") == before + 1
    assert restarted.forecast is learned


async def test_a_service_of_more_requests_than_a_trace_may_have_has_a_past_too() -> None:
    restarted = Restarted(FakePrometheus(list_hours(48), jobs=MAX_REQUESTS // 10))
    await restarted.bench.tick()
    (wanted,) = restarted.bench.loop.list_wanted_pasts()
    steps = await read_past(restarted.server, wanted, LATER)
    assert sum(step.jobs for step in steps) > 4 * MAX_REQUESTS


@pytest.mark.usefixtures("short")
async def test_reading_rests_for_longer_than_it_works(monkeypatch: pytest.MonkeyPatch) -> None:
    server = FakePrometheus(list_hours(2))
    restarted = Restarted(server)
    ask = server.query

    async def take_time(promql: str, at_seconds: float) -> tuple[Series, ...]:
        restarted.monotonic += 0.5
        return await ask(promql, at_seconds)

    monkeypatch.setattr(server, "query", take_time)
    await restarted.bench.tick()
    await restarted.reader.read_all()
    assert restarted.slept == [pytest.approx(4 * 0.5 * len(server.asked))]


def test_what_came_while_nobody_looked_is_left_out_and_pods_are_added_up() -> None:
    past = Past()
    growths = [
        Growth(30.0, 15.0, 2, 10.0),
        Growth(30.0, 15.0, 3, 12.0),
        Growth(120.0, 45.0, 900, 4500.0),  # over a pause
        Growth(135.0, 120.0, 1, 4.0),
    ]
    past.add([15.0, 30.0, 45.0, 120.0, 135.0], growths, 15)
    assert past.list_steps() == [
        PastStep(30.0, 15.0, 5, 22.0),
        PastStep(45.0, 15.0, 0, 0.0),
        PastStep(135.0, 15.0, 1, 4.0),
    ]


def test_a_replayed_past_and_a_watched_one_foresee_the_same() -> None:
    begin = datetime(2026, 11, 2, tzinfo=UTC)
    steps = [
        PastStep((begin + timedelta(seconds=at)).timestamp(), 15.0, *((200, 1000.0) if at % 3600 == 0 else (0, 0.0)))
        for at in range(15, 12 * 3600, 15)
    ]
    terms = PastTerms(ScalingSpec(max_replicas=50, target_latency_seconds=30), StartUp(90.0, 600.0, 90.0), None)
    whole, bank = replay_past(steps, terms)
    assert [each.period_seconds for each in whole.bursts.recurrences if whole.bursts.is_proved(each)] == [HOUR]
    assert bank.choice.basis is not Basis.FIRST
    assert min(tally.late for tally in bank.tallies) < 0.7 * max(tally.jobs for tally in bank.tallies), (
        "what was foreseen was in time in the shadow fleets too"
    )
    longer, _ = replay_past([step._replace(gpu_seconds=10 * step.gpu_seconds) for step in steps], terms)
    assert longer.bursts.recurrences[0].gpu_seconds == pytest.approx(200 * 30.0, rel=0.1), "of a job at most a target"
