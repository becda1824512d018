"""GPU time that no plan can go below, whatever it knows of the future.

Let C be the longest time that a request may take, T the cold start, and let a *lull* be the time from C after one
arrival to the next arrival, if that is later. Nothing waits or runs in a lull. Lulls part the trace into *bouts*.

Claim. Every plan that keeps to C uses at least

    total work + T · max(0, p₁ - n₀) + sum over bouts k > 1 of p_k · min(g_k, T)

of pod time, where n₀ pods are ready at the beginning, g_k is the length of the lull before bout k, and p_k is the
largest ⌈W / (b - a + C)⌉ over all stretches [a, b] of arrivals in bout k with W GPU-seconds of work in total.

Proof. Pod time is busy, starting or idle. Busy time is at least the total work: every request is finished, and what is
done anew only adds to it.
(1) All work that arrives in [a, b] is done within [a, b + C], by one pod a request at a time. So at some moment of that
interval at least p_k pods are ready.
(2) Let h be the least number of pods that exist at any moment of the lull before bout k, and z such a moment. No pod is
busy in the lull, so at least h · g_k of idle or starting time falls into it. By (1) max(0, p_k - h) pods become ready
that were created after z; each of them spends T starting, after z and no later than C after the bout's last arrival,
which is where the next lull begins. If h ≥ p_k, h · g_k ≥ p_k · min(g_k, T). Else h · g_k + (p_k - h) · T is linear in
h and not less than p_k · min(g_k, T). What is counted for bout k lies between the beginning of its lull and that of the
next one: nothing is counted twice, and none of it is busy time.
(3) In the first bout max(0, p₁ - n₀) pods become ready that were created since the beginning.  ∎

Sampled cold starts: T is the shortest that can be sampled.
"""

from collections.abc import Iterator, Sequence
from typing import Final

from easel_operator.simulation.settings import Settings
from easel_operator.simulation.trace import Trace

MAX_WAIT_TARGETS: Final = 3.0  # C, in target latencies


def find_lower_bound_seconds(trace: Trace, settings: Settings) -> float:
    """GPU-seconds. A plan that lets a request take longer than MAX_WAIT_TARGETS targets may go below it."""
    longest = MAX_WAIT_TARGETS * settings.target_seconds
    start = settings.cold_start.seconds - settings.cold_start.spread_seconds
    bound = trace.total_work_seconds
    arrivals, works = trace.arrival_seconds, trace.work_seconds
    for begin, end in _cut_into_bouts(arrivals, longest):
        pods = find_needed_pods(arrivals[begin:end], works[begin:end], longest)
        if begin == 0:
            bound += start * max(0, pods - settings.initial_replicas)
        else:
            lull = arrivals[begin] - arrivals[begin - 1] - longest
            bound += pods * min(lull, start)
    return max(bound, settings.scaling.min_replicas * trace.duration_seconds)


def find_needed_pods(arrivals: Sequence[float], works: Sequence[float], longest_seconds: float) -> int:
    """p: the pods that must be ready at some moment, so that no request takes longer than ``longest_seconds``."""
    pods = 1
    while _exceeds(arrivals, works, longest_seconds, pods):
        pods += 1
    return pods


def _exceeds(arrivals: Sequence[float], works: Sequence[float], longest_seconds: float, pods: int) -> bool:
    """Whether some stretch of arrivals brings more work than this many pods can do until its last one is due."""
    done, least = 0.0, float("inf")  # the work so far; the least of (work before a) - pods · a over all a so far
    for arrival, work in zip(arrivals, works, strict=True):
        least = min(least, done - pods * arrival)
        done += work
        if done - pods * (arrival + longest_seconds) > least + 1e-9 * done:
            return True
    return False


def _cut_into_bouts(arrivals: Sequence[float], longest_seconds: float) -> Iterator[tuple[int, int]]:
    begin = 0
    for index in range(1, len(arrivals)):
        if arrivals[index] - arrivals[index - 1] > longest_seconds:
            yield begin, index
            begin = index
    if arrivals:
        yield begin, len(arrivals)
