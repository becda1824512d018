"""A decision in one plain sentence with its figures."""

from easel_contract.metrics import DecisionReason
from easel_contract.resource import ScalingSpec

from easel_operator.autoscaling.headroom import LATE_BUDGET
from easel_operator.autoscaling.observation import Observation
from easel_operator.autoscaling.proposal import Proposal
from easel_operator.autoscaling.replay.choice import Basis, Choice
from easel_operator.autoscaling.scale_down import ScaleDownDelay
from easel_operator.autoscaling.workers import PodCounts


def explain(desired: int, strongest: Proposal, pods: PodCounts, scaling: ScalingSpec, delay: ScaleDownDelay) -> str:
    """Such as: 4 pods: 38 GPU-seconds queued, 2 pods ready, 1 starting, target 30 s."""
    unschedulable = f", {pods.unschedulable} unschedulable" if pods.unschedulable else ""
    return (
        f"{_count(desired)}: {_explain_number(desired, strongest, pods, scaling, delay)}, "
        f"{_count(pods.ready)} ready, {pods.starting} starting{unschedulable}, "
        f"target {scaling.target_latency_seconds} s"
    )


def name_reason(
    desired: int, wanted: int, signal: DecisionReason, pods: PodCounts, scaling: ScalingSpec
) -> DecisionReason:
    """The same in one word: the strongest signal (which wants so many), or what kept its wish from being followed."""
    if desired == wanted:
        return signal if wanted else DecisionReason.IDLE
    if desired > wanted:
        return DecisionReason.MIN_REPLICAS if desired == scaling.min_replicas else DecisionReason.NOT_YET_IDLE
    if desired == scaling.max_replicas:
        return DecisionReason.MAX_REPLICAS
    return DecisionReason.NO_CAPACITY if pods.unschedulable else DecisionReason.IDLE


def explain_missing_data(desired: int, observation: Observation) -> str:
    """Why everything stays as it is."""
    redis = "; no pod reaches Redis" if observation.broker_up is False else ""
    return (
        f"{_count(desired)} held: the queue's depth is unknown; "
        f"{observation.pods_answering} of {observation.pods_scraped} pods answer /metrics{redis}"
    )


def explain_choice(choice: Choice) -> str:
    """Such as: margin 1.5: the cheapest of 81 that kept 4 % late over the last 36 h."""
    margin, tally = f"margin {choice.setting.margin:g}", choice.tally
    if choice.basis is Basis.RECALLED:
        return f"{margin}: as before the restart"
    if tally is None:
        return f"{margin}: too few requests were seen yet to choose by"
    seen = _describe_time(choice.seen_seconds)
    if choice.basis is Basis.BUDGET:
        share = f"{100 * choice.budget:.2g} %"
        return f"{margin}: the cheapest of {choice.settings} that kept {share} late over the last {seen}"
    return (
        f"{margin}: {100 * tally.late_share:.2g} % late over the last {seen}, since less of it would cost more than "
        f"{choice.price_seconds:.0f} GPU-seconds a request"
    )


def advise(choice: Choice, cold_start_seconds: float) -> str:
    """What would help where the error budget isn't kept since that costs too much; empty where it is kept."""
    tally, best = choice.tally, choice.keeping
    if choice.basis is not Basis.PRICE or tally is None or tally.keeps(LATE_BUDGET):
        return ""
    late = f"{100 * tally.late_share:.2g} % of requests are late, more than {100 * LATE_BUDGET:g} %"
    start = f"a shorter cold start (it takes {cold_start_seconds:.0f} s)"
    helps = f"minReplicas where requests come by chance, a schedule where their times are known, or {start}"
    if best is None or best.late >= tally.late:
        return f"{late}, and no headroom that was tried keeps that. What helps: {helps}."
    price = (best.gpu_seconds - tally.gpu_seconds) / (tally.late - best.late)
    return (
        f"{late}. With fewer late ones {best.gpu_seconds / tally.gpu_seconds:.2g} times the GPU time would be used, "
        f"{price:.0f} GPU-seconds for each late request less, and {choice.price_seconds:.0f} are allowed. What helps: "
        f"{helps}; or to pay it, maxGpuSecondsPerLateRequest."
    )


def _describe_time(seconds: float) -> str:
    return f"{seconds / 3600:.0f} h" if seconds >= 7200 else f"{seconds / 60:.0f} min"


def _explain_number(
    desired: int, strongest: Proposal, pods: PodCounts, scaling: ScalingSpec, delay: ScaleDownDelay
) -> str:
    wanted, because = strongest.most, strongest.because
    if wanted == 0:
        because = "nothing waits or runs"
    if desired == wanted:
        return because if wanted else _explain_silence(delay)
    if desired > wanted:
        return f"{because} ({wanted} needed; {_explain_more(desired, wanted, pods, scaling, delay)})"
    if desired == scaling.max_replicas:
        needed = f"{wanted}" if wanted != scaling.max_replicas + 1 else "more"
        return f"{because} ({needed} needed; maxReplicas {desired})"
    if not pods.unschedulable:
        return _explain_silence(delay)  # which outweighs what arrived before
    return f"{because} ({wanted} needed; the cluster has no room for {pods.unschedulable} of the pods already ordered)"


def _explain_silence(delay: ScaleDownDelay) -> str:
    return f"nothing waited or ran for {delay.last_pod.total_seconds():.0f} s"


def _explain_more(desired: int, wanted: int, pods: PodCounts, scaling: ScalingSpec, delay: ScaleDownDelay) -> str:
    if desired == scaling.min_replicas:
        return f"minReplicas {desired}"
    if wanted == 0 and desired == 1:
        return f"the last pod is scaled down after {delay.last_pod.total_seconds():.0f} s of that"
    if pods.is_rolling_out:
        return "none is scaled down while pods are being replaced"
    return f"a pod is scaled down after {delay.pod.total_seconds():.0f} s without need"


def _count(pods: int) -> str:
    return f"{pods} pod" if pods == 1 else f"{pods} pods"
