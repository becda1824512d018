"""The same trace in the simulator, as `easel simulate --policy easel:…` runs it. Where the autoscaler's ticks fall is
chance on a cluster, so all phases are simulated, and each figure's median is what the simulator says."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from easel_contract.resource import StableDiffusionServiceSpec
from easel_operator.simulation.outcome import HOUR_SECONDS, Outcome
from easel_operator.simulation.policies.registry import build_policy
from easel_operator.simulation.settings import ColdStart, Settings
from easel_operator.simulation.simulation import simulate
from easel_operator.simulation.trace import Trace

from benchmarks.simulator.comparison import STEP_SECONDS, Figures

PHASES: Final = 30


@dataclass(frozen=True, slots=True)
class Simulated:
    """One simulation."""

    figures: Figures
    pods: list[int]  # in the middle of each step, as comparison.sample_pods
    latencies_seconds: Sequence[float]  # by request


def simulate_phases(
    spec: StableDiffusionServiceSpec,
    trace: Trace,
    cold_start: ColdStart,
    period_seconds: float,
    *,
    phases: int,
    seed: int,
) -> list[Simulated]:
    """Simulations at so many phases of the autoscaler's period, each with cold starts of its own."""
    return [
        _simulate(spec, trace, cold_start, period_seconds, index * period_seconds / phases, seed + index)
        for index in range(phases)
    ]


def _simulate(
    spec: StableDiffusionServiceSpec, trace: Trace, cold_start: ColdStart, period: float, phase: float, seed: int
) -> Simulated:
    settings = Settings(spec, cold_start, seed)
    policy = build_policy(f"easel:period={period},phase={phase},knownColdStart={cold_start.seconds}", settings)
    outcome = simulate(trace, policy, settings, timeline_step_seconds=STEP_SECONDS / 2)
    return Simulated(_to_figures(outcome), _sample_pods(outcome, trace.duration_seconds), outcome.latencies_seconds)


def _to_figures(outcome: Outcome) -> Figures:
    return Figures(
        pod_seconds=outcome.gpu_hours * HOUR_SECONDS,
        starting_pod_seconds=outcome.startup_gpu_hours * HOUR_SECONDS,
        most_pods=max(_sample_pods(outcome, outcome.simulated_seconds), default=0),
        starts=outcome.starts,
        requests=outcome.requests,
        late_percent=outcome.late_percent,
        p50_seconds=outcome.p50_seconds,
        p95_seconds=outcome.p95_seconds,
        max_seconds=outcome.max_seconds,
    )


def _sample_pods(outcome: Outcome, until: float) -> list[int]:
    timeline = outcome.timeline
    if timeline is None:
        raise ValueError("the simulation kept no timeline")
    samples = [ready + starting for ready, starting in zip(timeline.ready, timeline.starting, strict=True)]
    return samples[1 : 2 * round(until / STEP_SECONDS) : 2]
