"""What a service's past says of its next minutes, and the pods for it."""

import math
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Final

from easel_contract.resource import ScalingSpec

from easel_operator.autoscaling.forecast.bursts import (
    MIN_QUIET_SECONDS,
    PERIOD_NAMES,
    QUIET_COLD_STARTS,
    TOLERANCE_SECONDS,
    Bursts,
    Recurrence,
)
from easel_operator.autoscaling.forecast.rates import NAMES, STEP_SECONDS, Rates
from easel_operator.autoscaling.headroom import pods_for
from easel_operator.autoscaling.proposal import Proposal
from easel_operator.autoscaling.work import Arrivals
from easel_operator.autoscaling.workers import StartUp

ORDER_SECONDS: Final = 16.0  # from a proposal to a pod's creation: the cluster's autoscaler looks every 15 s
SHARE_IN_TIME: Final = 0.96  # of a burst's work: one in twenty requests may be late
MIN_SLACK: Final = 0.25  # of the target, for a burst's jobs but the last
NONE: Final = Proposal(0, "no forecast has proved better than the present")


@dataclass(frozen=True, slots=True)
class Forecast:
    """What is remembered, some 7 KB of it, and a few more where bursts come."""

    rates: Rates = field(default_factory=Rates)
    bursts: Bursts = field(default_factory=Bursts)

    def watch(self, arrivals: Arrivals, now: datetime, cold_start_seconds: float, target_seconds: float) -> "Forecast":
        """With one more tick."""
        work, seconds = arrivals.arrived_gpu_seconds, arrivals.arrived_seconds
        if work is None or seconds <= 0:
            return self
        at, quiet_seconds = now.timestamp(), max(MIN_QUIET_SECONDS, QUIET_COLD_STARTS * cold_start_seconds)
        # What comes at once is a burst's part: as a rate it would stand for no moment of its minute.
        most = max(1.0, self.bursts.count_present_pods(at, quiet_seconds)) * target_seconds
        present = arrivals.gpu_seconds_per_second
        return Forecast(
            self.rates.watch(min(work, most), seconds, present, at, cold_start_seconds),
            self.bursts.watch(work, seconds, at, target_seconds, quiet_seconds),
        )


@dataclass(frozen=True, slots=True)
class ForecastInput:
    """What a forecast is asked with, at one tick."""

    now: datetime
    start_up: StartUp
    arrivals: Arrivals
    scaling: ScalingSpec


def propose_for_forecast(forecast: Forecast, margin: float, held: int, given: ForecastInput) -> Proposal:
    """Pods for the work that a proven candidate expects a cold start from now, and for a burst that is due."""
    by_rate, by_burst = _propose_for_rate(forecast.rates, margin, held, given), find_due_burst(forecast.bursts, given)
    if by_burst is None or by_burst.passing <= by_rate.replicas:
        return by_rate
    return replace(by_burst, replicas=by_rate.replicas)


def _propose_for_rate(rates: Rates, margin: float, held: int, given: ForecastInput) -> Proposal:
    best = rates.judgement.find_best()
    if best is None:
        return NONE
    lead_seconds = given.start_up.cold_start_seconds
    minute = int(given.now.timestamp() // STEP_SECONDS)
    expected = rates.predict(best, given.arrivals.gpu_seconds_per_second, minute, lead_seconds)
    at = (given.now + timedelta(seconds=lead_seconds)).astimezone(UTC)
    because = f"{expected:.2g} busy pods expected at {at:%H:%M} UTC by {NAMES[best]}"
    return Proposal(pods_for(expected, margin, held), because)


def find_due_burst(bursts: Bursts, given: ForecastInput) -> Proposal | None:
    """The most pods that a recurrence asks for which may come within a cold start."""
    now = given.now.timestamp()
    lead_seconds = given.start_up.slow_seconds + ORDER_SECONDS
    found: Proposal | None = None
    for each in bursts.recurrences:
        if each.due_at - TOLERANCE_SECONDS - lead_seconds > now:
            break
        if each.due_at - each.early_seconds - lead_seconds > now or now > each.due_at + each.early_seconds:
            continue
        pods = _count_pods(each, bursts, given)
        if pods and bursts.is_proved(each) and (found is None or pods > found.passing):
            at = datetime.fromtimestamp(60 * round(each.due_at / 60), UTC)
            found = Proposal(
                0,
                f"{each.gpu_seconds:.0f} GPU-seconds expected at {at:%H:%M} UTC, as at this time of earlier "
                f"{PERIOD_NAMES[each.period_seconds]}",
                passing=pods,
            )
    return found


def _count_pods(recurrence: Recurrence, bursts: Bursts, given: ForecastInput) -> int:
    """Pods that do within the target what is still to come; 0 where a late request less would cost too much."""
    target = given.scaling.target_latency_seconds
    job_seconds = min(given.arrivals.job.mean_seconds, target)
    here = bursts.bucket.arrived_gpu_seconds if bursts.bucket.is_burst else 0.0
    expected = SHARE_IN_TIME * recurrence.gpu_seconds + recurrence.spread_gpu_seconds - here
    if expected <= 0:
        return 0
    pods = expected / max(target - job_seconds / 2, MIN_SLACK * target)
    lead_seconds = given.start_up.cold_start_seconds
    stand_seconds = lead_seconds + ORDER_SECONDS + 2 * recurrence.early_seconds
    saved = recurrence.share * recurrence.gpu_seconds / job_seconds
    price = math.ceil(pods) * stand_seconds / saved
    if price > given.scaling.find_max_gpu_seconds_per_late_request(lead_seconds):
        return 0
    return math.ceil(pods + bursts.base.per_second)
