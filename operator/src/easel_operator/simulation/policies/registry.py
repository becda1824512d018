"""Policies by name, each with its documented defaults and its parameters.

Where a peer leaves a choice to the user (how many requests a pod), the service's own targetQueueDepth is taken.
Scrape ages: metrics by way of Prometheus are half a scrape interval old on average, KEDA asks the queue itself.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Final

from pydantic import ValidationError

from easel_operator.autoscaling.cold_starts import MAX_SECONDS
from easel_operator.simulation.hpa.spec import (
    DEFAULT_DOWN,
    DEFAULT_UP,
    AutoscalerSpec,
    Behavior,
    ControllerSettings,
    MetricTarget,
    TargetType,
)
from easel_operator.simulation.policies.autoscaler import (
    QUEUE_METRIC,
    UTILISATION_METRIC,
    Autoscaler,
    KedaAutoscaler,
    Probe,
    QueueProbe,
    UtilisationProbe,
)
from easel_operator.simulation.policies.easel import EaselPolicy, EaselSettings
from easel_operator.simulation.policies.fixed import FixedPolicy
from easel_operator.simulation.policies.interface import (
    Parameters,
    Policy,
    PolicyError,
    PolicyName,
    parse_policy_name,
)
from easel_operator.simulation.policies.knative import KnativePolicy, KnativeSettings
from easel_operator.simulation.policies.ray_serve import RayServePolicy, RaySettings
from easel_operator.simulation.settings import Settings

DEFAULT_QUEUE_DEPTH: Final = 2  # requests a pod, where the service sets no targetQueueDepth
SCRAPE_AGE_SECONDS: Final = 7.5  # mean age of a sample that Prometheus takes every 15 s
MIN_TARGET: Final = 0.001
MAX_FLEET: Final = 1000
QUEUE_FIELDS: Final = frozenset({"queueOrder", "maxOvertakenSeconds"})


def build_policy(text: str, settings: Settings) -> Policy:
    """The policy of a name such as ``hpa-queue:target=1.5,downWindow=120``. Raises PolicyError."""
    name = parse_policy_name(text)
    fixed = re.fullmatch(r"fixed-(\d+)", name.kind)
    parameters = Parameters(name)
    if fixed:
        replicas = int(fixed.group(1))
        if replicas > MAX_FLEET:
            raise PolicyError(f"{text}: at most {MAX_FLEET} pods")
        policy: Policy = FixedPolicy(replicas)
    elif name.kind in BUILDERS:
        policy = BUILDERS[name.kind](name, parameters, settings)
    else:
        raise PolicyError(f"no policy is called {name.kind!r}; there are {', '.join(POLICY_KINDS)}")
    parameters.finish()
    return policy


def _build_easel(name: PolicyName, parameters: Parameters, settings: Settings) -> Policy:
    default = EaselSettings()
    run = EaselSettings(
        tick_seconds=parameters.take("tick", default.tick_seconds, least=0.5, most=15),
        quiet_seconds=parameters.take("quiet", default.quiet_seconds, most=15),
        kubernetes_minor=int(parameters.take("kubernetesMinor", default.kubernetes_minor, least=33, most=99)),
        autoscaler_period_seconds=parameters.take("period", default.autoscaler_period_seconds, least=1),
        autoscaler_phase_seconds=parameters.take("phase", default.autoscaler_phase_seconds),
        known_cold_start_seconds=parameters.take("knownColdStart", 0, most=MAX_SECONDS) or None,
    )
    fields = parameters.take_rest()
    if queue := sorted(QUEUE_FIELDS & fields.keys()):
        raise PolicyError(f"easel: {queue[0]} is the queue's, which all policies share: --service or --queue-order")
    values = {**settings.scaling.to_wire(), **fields}
    try:
        scaling = type(settings.scaling).model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"]) or "scaling"
        raise PolicyError(f"easel: {field} is {first['input']!r}: {first['msg']}") from None
    return EaselPolicy(name.text, settings.spec, scaling, run, settings.initial_replicas)


def _build_hpa_queue(name: PolicyName, parameters: Parameters, settings: Settings) -> Policy:
    target = parameters.take("target", settings.scaling.target_queue_depth or DEFAULT_QUEUE_DEPTH, least=MIN_TARGET)
    probe = QueueProbe(counts_running=bool(parameters.take("inFlight", 1, most=1)))
    metric = MetricTarget(QUEUE_METRIC, TargetType.EXTERNAL_AVERAGE_VALUE, round(1000 * target))
    return _build_autoscaler(name, parameters, settings, metric, probe)


def _build_hpa_utilisation(name: PolicyName, parameters: Parameters, settings: Settings) -> Policy:
    """The busy share of each pod's GPU in percent, as a Pods metric; such a metric can't wake a service from zero."""
    target = parameters.take("target", 70, least=1, most=100)
    metric = MetricTarget(UTILISATION_METRIC, TargetType.PODS_AVERAGE_VALUE, round(1000 * target))
    return _build_autoscaler(name, parameters, settings, metric, UtilisationProbe(), least_replicas=1)


def _build_autoscaler(
    name: PolicyName,
    parameters: Parameters,
    settings: Settings,
    metric: MetricTarget,
    probe: Probe,
    *,
    least_replicas: int = 0,
    age_seconds: float = SCRAPE_AGE_SECONDS,
) -> Autoscaler:
    controller = ControllerSettings.of_release(
        int(parameters.take("kubernetesMinor", EaselSettings().kubernetes_minor, least=33, most=99))
    )
    if not controller.is_scale_to_zero_enabled:
        least_replicas = 1
    spec = AutoscalerSpec(
        min_replicas=max(least_replicas, settings.scaling.min_replicas),
        max_replicas=settings.scaling.max_replicas,
        metrics=(metric,),
        behavior=_build_behavior(parameters),
    )
    return Autoscaler(
        name.text,
        spec,
        replace(controller, period_seconds=parameters.take("period", controller.period_seconds, least=1)),
        probe,
        settings.initial_replicas,
        age_seconds=parameters.take("scrapeAge", age_seconds, most=300),
        phase_seconds=parameters.take("phase", 0),
    )


def _build_behavior(parameters: Parameters) -> Behavior | None:
    """None, as in an autoscaler without ``behavior``, unless a parameter sets a part of it."""
    up_window = parameters.take("upWindow", -1, most=3600)
    down_window = parameters.take("downWindow", -1, most=3600)
    tolerance = parameters.take("tolerance", -1, most=1)
    if max(up_window, down_window, tolerance) < 0:
        return None
    chosen = None if tolerance < 0 else tolerance
    return Behavior(
        replace(DEFAULT_UP, stabilization_seconds=max(0.0, up_window), tolerance=chosen),
        replace(DEFAULT_DOWN, stabilization_seconds=None if down_window < 0 else down_window, tolerance=chosen),
    )


def _build_keda(name: PolicyName, parameters: Parameters, settings: Settings) -> Policy:
    """The autoscaler that KEDA writes never goes below one pod; KEDA itself does."""
    target = parameters.take("target", settings.scaling.target_queue_depth or DEFAULT_QUEUE_DEPTH, least=MIN_TARGET)
    probe = QueueProbe(counts_running=bool(parameters.take("inFlight", 1, most=1)))
    metric = MetricTarget(QUEUE_METRIC, TargetType.EXTERNAL_AVERAGE_VALUE, round(1000 * target))
    polling = parameters.take("polling", 30, least=1)
    cooldown = parameters.take("cooldown", 300)
    autoscaler = _build_autoscaler(name, parameters, settings, metric, probe, least_replicas=1, age_seconds=0.0)
    return KedaAutoscaler(
        name.text,
        autoscaler,
        polling_seconds=polling,
        cooldown_seconds=cooldown,
        min_replicas=settings.scaling.min_replicas,
    )


def _build_knative(name: PolicyName, parameters: Parameters, settings: Settings) -> Policy:
    default = KnativeSettings()
    chosen = KnativeSettings(
        container_concurrency=parameters.take("concurrency", default.container_concurrency, least=1),
        target_utilisation=parameters.take("targetUtilisation", 100 * default.target_utilisation, least=1, most=100)
        / 100,
        stable_window_seconds=parameters.take("stableWindow", default.stable_window_seconds, least=6, most=3600),
        panic_window_percent=parameters.take("panicWindow", default.panic_window_percent, least=1, most=100),
        panic_threshold=parameters.take("panicThreshold", 100 * default.panic_threshold, least=110) / 100,
        zero_grace_seconds=parameters.take("zeroGrace", default.zero_grace_seconds),
    )
    scaling = settings.scaling
    return KnativePolicy(
        name.text,
        chosen,
        initial_replicas=settings.initial_replicas,
        min_replicas=scaling.min_replicas,
        max_replicas=scaling.max_replicas,
    )


def _build_ray_serve(name: PolicyName, parameters: Parameters, settings: Settings) -> Policy:
    default = RaySettings()
    chosen = RaySettings(
        target_ongoing_requests=parameters.take("target", default.target_ongoing_requests, least=MIN_TARGET),
        look_back_seconds=parameters.take("lookBack", default.look_back_seconds, least=1),
        upscale_delay_seconds=parameters.take("upDelay", default.upscale_delay_seconds),
        downscale_delay_seconds=parameters.take("downDelay", default.downscale_delay_seconds),
    )
    scaling = settings.scaling
    return RayServePolicy(
        name.text,
        chosen,
        initial_replicas=settings.initial_replicas,
        min_replicas=scaling.min_replicas,
        max_replicas=scaling.max_replicas,
    )


BUILDERS: Final[Mapping[str, Callable[[PolicyName, Parameters, Settings], Policy]]] = {
    "easel": _build_easel,
    "hpa-queue": _build_hpa_queue,
    "hpa-gpu-utilisation": _build_hpa_utilisation,
    "keda-queue": _build_keda,
    "knative-concurrency": _build_knative,
    "ray-serve": _build_ray_serve,
}
ORACLE: Final = "oracle"
POLICY_KINDS: Final = (*BUILDERS, "fixed-N", ORACLE)
