"""A shadow fleet does what the service's own queue, pods and planner would do with its setting."""

import math

import pytest
from easel_contract.resource import QueueOrder, StableDiffusionServiceSpec
from easel_operator.autoscaling.replay import bank as bank_module
from easel_operator.autoscaling.replay.bank import Bank, Memory
from easel_operator.autoscaling.replay.setting import Setting
from easel_operator.autoscaling.replay.shadow import Batch, Look, Shadow, Terms
from easel_operator.simulation.policies.fixed import FixedPolicy
from easel_operator.simulation.policies.registry import build_policy
from easel_operator.simulation.settings import ColdStart, Settings
from easel_operator.simulation.simulation import simulate
from easel_operator.simulation.trace import Trace
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.operator.autoscaling.replay.support import (
    COLD_START_SECONDS,
    HOUR,
    Requests,
    build_scaling,
    draw_bursts,
    draw_steady,
)

ORDERS = [QueueOrder.TARGET_FIRST, QueueOrder.FIRST_COME_FIRST_SERVED]


def build_trace(requests: Requests, seconds: float) -> Trace:
    return Trace(tuple(at for at, _ in requests), tuple(work for _, work in requests), seconds)


def build_service(order: QueueOrder, **scaling: int) -> Settings:
    wanted = build_scaling(queue_order=order, **scaling)
    source = {"source": {"huggingFace": {"repository": "any/model"}}}
    spec = StableDiffusionServiceSpec.model_validate({"model": source, "scaling": wanted.to_wire()})
    return Settings(spec, ColdStart(COLD_START_SECONDS))


@settings(max_examples=100, deadline=None)
@given(
    pods=st.integers(1, 4),
    gaps=st.lists(st.sampled_from([0.1, 0.7, 3.3, 11.3, 61.9]), min_size=1, max_size=60),
    works=st.lists(st.sampled_from([0.3, 2.9, 7.7, 23.3, 44.1]), min_size=60, max_size=60),
    order=st.sampled_from(ORDERS),
    longest=st.sampled_from([0, 20, 40, 400]),
)
@example(
    1, [0.1, 0.1, 27.8, *[1.0] * 57], [29.0, 29.5, *[1.0] * 58], QueueOrder.TARGET_FIRST, 40
)  # overtaken till then
def test_requests_are_taken_as_the_queue_takes_them(
    pods: int, gaps: list[float], works: list[float], order: QueueOrder, longest: int
) -> None:
    ends = [sum(gaps[: number + 1]) for number in range(len(gaps))]
    requests = list(zip(ends, works, strict=False))
    service = build_service(order, min_replicas=pods, max_replicas=pods, max_overtaken_seconds=longest)
    seconds = ends[-1] + 3000.0
    outcome = simulate(build_trace(requests, seconds), FixedPolicy(pods), service)
    overtaken = service.order_rule.max_overtaken_seconds if order is QueueOrder.TARGET_FIRST else 0.0
    terms = Terms(service.scaling, COLD_START_SECONDS, 30.0, overtaken)
    shadow = Shadow(Setting(0.0, 0.2, 3.0), terms, pods, 0.0)
    looks = []
    for number in range(1, math.ceil(seconds / 5.0) + 1):
        come = [Batch(at, 1, work, 1, work) for at, work in requests if 5.0 * (number - 1) < at <= 5.0 * number]
        looks.append(Look(5.0 * number, come, 0.5, 5.0, 0, number % 3 == 0))
    shadow.run(looks)
    late = sum(latency > 30.0 for latency in outcome.latencies_seconds)
    assert (shadow.done, shadow.late) == (len(requests), late)


LOADS = {
    "steady": (draw_steady(0.2, 4 * HOUR), 4 * HOUR),
    "busy": (draw_steady(2.0, 2 * HOUR), 2 * HOUR),
    "long": (draw_steady(0.05, 6 * HOUR, work=18.0), 6 * HOUR),
    "bursts": (draw_bursts(8 * HOUR, seed=5), 8 * HOUR),
}


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("setting", [Setting(0.0, 0.2, 0.2), Setting(2.0, 0.67, 1.0), Setting(0.5, 8.0, 1.0, 0.35)])
@pytest.mark.parametrize("load", LOADS.values(), ids=LOADS.keys())
def test_a_shadow_costs_and_is_late_as_the_planner_with_its_setting_is(
    load: tuple[Requests, float], setting: Setting, order: QueueOrder, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests, seconds = load
    monkeypatch.setattr(bank_module, "list_settings", lambda _: (setting,))
    monkeypatch.setattr(bank_module, "MEMORY_SECONDS", 1e12)
    service = build_service(order)
    policy = build_policy("easel:knownColdStart=90", service)
    policy.bank = Bank(service.scaling, COLD_START_SECONDS, Memory(setting, 0.0))  # type: ignore[attr-defined]
    outcome = simulate(build_trace(requests, seconds), policy, service)
    tally = policy.bank.tallies[0]  # type: ignore[attr-defined]
    # The last minutes aren't replayed yet, and the real service began with a pod. Lateness is compared in points: with
    # no headroom a pod more or less for a moment makes many late.
    assert tally.gpu_seconds == pytest.approx(outcome.gpu_hours * HOUR, rel=0.06)
    assert tally.late_share == pytest.approx(outcome.late_percent / 100, abs=0.035)
