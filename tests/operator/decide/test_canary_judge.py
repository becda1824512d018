"""When a new revision is found to do worse than the stable one, when it isn't, and how often that is wrong."""

from dataclasses import replace
from math import comb

import pytest
from easel_contract.resource import CanarySpec
from easel_operator.autoscaling.observation import AttemptReading
from easel_operator.decide.pod_status import read_pod
from easel_operator.decide.rollouts.judge import Conclusion, Figures, chance_of_at_least, judge, recall_figures
from easel_operator.decide.rollouts.tally import StepKey, Tally, Watch, follow

from tests.operator.decide.canary_life import Revision, count_failed
from tests.operator.objects import NOW, build_pod

TERMS = CanarySpec(min_jobs=50)
KEY = StepKey("new", 1)
WORKERS = tuple(
    replace(read_pod(build_pod("worker", f"w-{revision}"), NOW), revision=revision) for revision in ("new", "old")
)


def figures(jobs: int, failures: int = 0, *, bucket: int = 15) -> Figures:
    durations = tuple(jobs - failures if number == bucket else 0 for number in range(41))
    return Figures(jobs, failures, durations)


@pytest.mark.parametrize(
    ("canary", "stable", "conclusion", "words"),
    [
        (figures(50), figures(450), Conclusion.PASS, "0 of 50 jobs (0.0 %) failed"),
        (figures(49), figures(450), Conclusion.WAIT, "0 of 49 jobs"),
        (figures(50), figures(19), Conclusion.WAIT, "0 of 19 jobs"),
        (figures(50, 6), figures(450), Conclusion.FAIL, "by 12.0 points of 100 (5 are allowed)"),
        (figures(50, 2), figures(450), Conclusion.PASS, "2 of 50 jobs (4.0 %)"),
        (figures(50, 6), figures(450, 45), Conclusion.PASS, "45 of 450 jobs (10.0 %)"),
        (figures(50, 4), figures(50, 1), Conclusion.PASS, "4 of 50 jobs (8.0 %)"),
        (figures(5, 5), figures(45), Conclusion.FAIL, "5 of 5 jobs (100.0 %)"),
        (figures(3, 3), figures(27), Conclusion.WAIT, "3 of 3 jobs"),
        (figures(50, bucket=18), figures(450), Conclusion.FAIL, "jobs take longer by"),
        (figures(50, bucket=16), figures(450), Conclusion.PASS, "p95 from claimed to done"),
        (figures(50, bucket=10), figures(450), Conclusion.PASS, "p95 from claimed to done"),
        (figures(0), figures(0), Conclusion.WAIT, "p95 from claimed to done unknown and unknown"),
    ],
)
def test_a_step_is_judged_by_failures_and_durations(
    canary: Figures, stable: Figures, conclusion: Conclusion, words: str
) -> None:
    judged = judge(canary, stable, TERMS, is_time_up=False)
    assert judged.conclusion is conclusion, judged.said
    assert words in judged.said


def test_a_step_whose_time_is_up_ends_by_the_jobs_that_there_were() -> None:
    assert judge(figures(3), figures(9), TERMS, is_time_up=True).conclusion is Conclusion.PASS
    assert judge(figures(0), figures(0), TERMS, is_time_up=True).conclusion is Conclusion.PASS
    assert judge(figures(2, bucket=19), figures(40), TERMS, is_time_up=True).conclusion is Conclusion.PASS
    assert judge(figures(6, 6), figures(60), TERMS, is_time_up=True).conclusion is Conclusion.FAIL


def test_time_alone_promotes_no_revision_that_looks_broken() -> None:
    """A worker that hangs ends no job; a stable one of an earlier release counts none."""
    hanging = judge(figures(0), figures(20), TERMS, is_time_up=True)
    assert hanging.conclusion is Conclusion.WAIT
    assert judge(figures(1), figures(20), TERMS, is_time_up=True).conclusion is Conclusion.PASS
    alone = judge(figures(20, 11), figures(0), TERMS, is_time_up=True)
    assert alone.conclusion is Conclusion.FAIL
    assert "most jobs fail" in alone.said
    assert "11 of 20 jobs (55.0 %)" in alone.said
    for few in (figures(19, 19), figures(20, 10)):
        assert judge(few, figures(0), TERMS, is_time_up=True).conclusion is Conclusion.PASS


def test_the_chance_is_that_of_fishers_exact_test() -> None:
    ways = sum(comb(12, hits) * comb(30, 9 - hits) for hits in range(6, 10))
    assert chance_of_at_least(6, 12, 3, 30) == pytest.approx(ways / comb(42, 9))
    assert chance_of_at_least(0, 12, 3, 30) == pytest.approx(1)


@pytest.mark.parametrize(("failures", "workers"), [(0.0, 2), (0.02, 10), (0.2, 10)])
def test_equal_revisions_hardly_ever_fail(failures: float, workers: int) -> None:
    """Of 4,800 such roll-outs, measured apart, 3 did (0.06 %)."""
    assert count_failed(Revision(failures), Revision(failures), runs=60, workers=workers) == 0


@pytest.mark.parametrize(
    ("canary", "least"),
    [(Revision(failures=0.1), 38), (Revision(failures=1.0), 40), (Revision(slowness=2.0), 40)],
)
def test_a_revision_that_does_worse_is_found_in_a_service_of_ten_workers(canary: Revision, least: int) -> None:
    assert count_failed(canary, Revision(failures=0.0), runs=40) >= least


def test_what_was_written_down_is_what_was_known() -> None:
    known = Figures(7, 1, (*(0,) * 12, 4, 2, *(0,) * 27))
    assert recall_figures(known.to_status()) == known
    assert len(known.to_status().durations) == 14, "no longer than it has to be"


def reading(succeeded: int, failed: int = 0, restarts: int = 0) -> AttemptReading:
    """A worker's counters; each job took about 0.2 seconds."""
    return AttemptReading(
        succeeded, failed, {0.195: 0.0, 0.244: float(succeeded), float("inf"): float(succeeded)}, restarts
    )


def look(watch: Watch | None, **readings: AttemptReading) -> Watch:
    named = {name.replace("_", "-"): each for name, each in readings.items()}
    return follow(watch, KEY, None, named, WORKERS)


def test_each_revisions_workers_are_counted_from_the_first_look_on() -> None:
    watch = look(look(None, w_new=reading(3), w_old=reading(900, 7)), w_new=reading(5, 1), w_old=reading(910, 8))
    assert (watch.tally.canary.jobs, watch.tally.canary.failures, watch.tally.canary.timed) == (3, 1, 2)
    assert (watch.tally.stable.jobs, watch.tally.stable.failures) == (11, 1)
    assert watch.tally.canary.p95_seconds == pytest.approx(0.24, abs=0.01)


def test_a_worker_that_was_started_again_counts_from_zero_and_a_silent_one_catches_up() -> None:
    watch = look(look(None, w_new=reading(10), w_old=reading(10)), w_new=reading(2, 1))
    assert (watch.tally.canary.jobs, watch.tally.canary.failures) == (3, 1)
    assert look(watch, w_old=reading(14)).tally.stable.jobs == 4


def test_a_worker_whose_process_ends_counts_as_a_failed_job_whether_or_not_it_was_asked_in_time() -> None:
    watch = look(look(None, w_new=reading(10), w_old=reading(10)), w_new=reading(0, 0, restarts=1))
    assert (watch.tally.canary.jobs, watch.tally.canary.failures) == (1, 1)
    ended = tuple(replace(worker, restarts=2) if worker.revision == "new" else worker for worker in WORKERS)
    silent = follow(watch, KEY, None, {}, ended)
    assert (silent.tally.canary.jobs, silent.tally.canary.failures) == (3, 3)
    assert (silent.tally.stable.jobs, silent.tally.stable.failures) == (0, 0)
    assert follow(silent, KEY, None, {}, ended).tally == silent.tally


def test_a_new_step_begins_with_nothing_and_a_restarted_operator_with_what_was_written_down() -> None:
    watch = look(look(None, w_new=reading(0)), w_new=reading(5))
    later = follow(watch, replace(KEY, step=2), None, {"w-new": reading(6)}, WORKERS)
    assert later.tally.canary.jobs == 1
    recalled = Tally(KEY, figures(40), figures(360))
    begun = follow(None, KEY, recalled, {"w-new": reading(41)}, WORKERS)
    assert begun.tally == recalled
    assert follow(None, replace(KEY, step=2), recalled, {}, WORKERS).tally.canary.jobs == 0
