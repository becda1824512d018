"""The signals, once: the planner, the HPA manifest and the external metrics API read this list and nothing else.

To add one, write a module with its propose function and put a row here.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from easel_contract.resource import ScalingSpec

from easel_operator.autoscaling.backlog import propose_for_queue
from easel_operator.autoscaling.forecast.forecast import Forecast, ForecastInput, propose_for_forecast
from easel_operator.autoscaling.headroom import OldestWait, propose_for_lateness
from easel_operator.autoscaling.observation import Observation
from easel_operator.autoscaling.proposal import Proposal
from easel_operator.autoscaling.replay.setting import Setting
from easel_operator.autoscaling.schedules import propose_for_schedules
from easel_operator.autoscaling.workers import StartUp


@dataclass(frozen=True, slots=True)
class SignalInput:
    """What a signal may look at: one service at one tick."""

    observation: Observation
    scaling: ScalingSpec
    start_up: StartUp
    setting: Setting  # the headroom in use
    oldest_wait: OldestWait
    forecast: Forecast
    desired_replicas: int  # the last decision


@dataclass(frozen=True, slots=True)
class Signal:
    """One reason to have pods."""

    name: str
    metric: str  # the external metric that carries its proposal, in pods
    propose: Callable[[SignalInput], Proposal]
    is_in_hpa: Callable[[ScalingSpec], bool] = lambda _: True
    is_by_arrivals: bool = False  # forgotten once a service was without any request for scaleToZeroAfterSeconds


QUEUE: Final = Signal(
    "queue",
    "easel_replicas_for_queue",
    lambda given: propose_for_queue(given.observation, given.start_up, given.setting, given.scaling),
)
LATENCY: Final = Signal(
    "latency",
    "easel_replicas_for_latency",
    lambda given: propose_for_lateness(
        given.observation, given.setting.margin, given.oldest_wait, given.desired_replicas
    ),
    is_by_arrivals=True,
)
FORECAST: Final = Signal(
    "forecast",
    "easel_replicas_for_forecast",
    lambda given: propose_for_forecast(
        given.forecast,
        given.setting.margin,
        given.desired_replicas,
        ForecastInput(given.observation.at, given.start_up, given.observation.arrivals, given.scaling),
    ),
    is_by_arrivals=True,
)
SCHEDULE: Final = Signal(
    "schedule",
    "easel_replicas_for_schedule",
    lambda given: propose_for_schedules(
        given.scaling.schedules, given.observation.at, given.start_up.cold_start_seconds
    ),
    is_in_hpa=lambda scaling: bool(scaling.schedules),
)
# Of equal proposals the first one's reason is given. The first also carries the floors: busy pods, the last pod,
# minReplicas.
SIGNALS: Final = (QUEUE, LATENCY, FORECAST, SCHEDULE)
FLOOR: Final = SIGNALS[0]
