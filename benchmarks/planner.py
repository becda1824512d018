"""``make bench-planner``: what the planner and its bank of shadow fleets take, into benchmarks/results/planner.json.

Services are simulated, and the operator's own observation, bank and plan run at every tick of two seconds, as in the
operator. Each of the three is timed by this process's processor time, so the planner without the bank stands beside it
in the same run, and other work on the machine doesn't count. Memory is what tracemalloc finds for each part, and what
the process has grown by.
"""

import argparse
import gc
import json
import os
import random
import sys
import time
import tracemalloc
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean
from typing import Any, Final
from unittest.mock import patch

from easel_contract.resource import StableDiffusionServiceSpec
from easel_operator.autoscaling.observation import observe
from easel_operator.autoscaling.planner import plan
from easel_operator.autoscaling.replay.bank import Bank
from easel_operator.simulation.policies import easel
from easel_operator.simulation.policies.easel import OPERATOR_TICK_SECONDS, EaselPolicy
from easel_operator.simulation.policies.registry import build_policy
from easel_operator.simulation.settings import ColdStart, Settings
from easel_operator.simulation.simulation import simulate
from easel_operator.simulation.trace import Trace, build_trace

from benchmarks.pages import replace_part
from benchmarks.record import build_provenance
from benchmarks.server.processes import resident_mib
from benchmarks.server.samples import percentile

RESULTS: Final = Path(__file__).parent / "results/planner.json"
PAGE: Final = Path(__file__).parents[1] / "docs/platform/autoscaling.md"
PART: Final = "make bench-planner"
POLICY: Final = "easel:quiet=0"  # the planner looks at every tick, as the operator does
PARTS: Final = ("observe", "bank", "plan")
RATES: Final = (0.01, 0.2, 2.0, 20.0, 100.0)  # requests a second
USUAL_RATE: Final = 0.2
JOB_SECONDS: Final = 4.0
SPREAD: Final = 0.6  # of the logarithm of a job's length
SECONDS: Final = 1800.0  # of each service: several chunks of the bank
SEED: Final = 1


@dataclass
class Clock:
    """Processor seconds of each part's calls."""

    seconds: dict[str, list[float]] = field(default_factory=lambda: {part: [] for part in PARTS})

    def time(self, part: str, call: Callable[..., Any]) -> Callable[..., Any]:
        """``call``, timed."""
        spent = self.seconds[part]

        def timed(*args: Any) -> Any:
            began = time.process_time_ns()
            found = call(*args)
            spent.append((time.process_time_ns() - began) / 1e9)
            return found

        return timed


@contextmanager
def timing() -> Iterator[Clock]:
    """What the simulated operator calls while the body runs is timed."""
    clock = Clock()
    with (
        patch.object(easel, "observe", clock.time("observe", observe)),
        patch.object(easel, "plan", clock.time("plan", plan)),
        patch.object(Bank, "watch", clock.time("bank", Bank.watch)),
    ):
        yield clock


def build_load(rate: float, seconds: float, seed: int) -> Trace:
    """By chance at ``rate``, with bursts of three times as much for a tenth of the time."""
    source = random.Random(seed)  # noqa: S311 - replayed by its seed
    at, requests = 0.0, []
    while (at := at + source.expovariate(3 * rate)) < seconds:
        is_burst = at % 600.0 < 60.0
        if is_burst or source.random() < 1 / 3:
            requests.append((at, JOB_SECONDS * source.lognormvariate(-SPREAD * SPREAD / 2, SPREAD)))
    return build_trace(requests, seconds)


def build_settings(rate: float) -> Settings:
    """A service that is large enough for its load."""
    scaling = {"minReplicas": 0, "maxReplicas": min(1000, max(8, round(20 * rate)))}
    spec = {"model": {"source": {"huggingFace": {"repository": "any/model"}}}, "scaling": scaling}
    return Settings(StableDiffusionServiceSpec.model_validate(spec), ColdStart(90.0), SEED)


def run(rate: float, seconds: float, seed: int) -> EaselPolicy:
    """A service, simulated to its end: what the operator then has of it."""
    settings = build_settings(rate)
    policy = build_policy(POLICY, settings)
    assert isinstance(policy, EaselPolicy)
    simulate(build_load(rate, seconds, seed), policy, settings)
    return policy


def measure_rate(rate: float, services: int, seconds: float) -> dict[str, Any]:
    """A tick's processor time by part, and what a thousand such services take of a core."""
    with timing() as clock:
        for index in range(services):
            run(rate, seconds, SEED + index)
    ticks = len(clock.seconds["observe"])
    cores = {part: sum(spent) / ticks * 1000 / OPERATOR_TICK_SECONDS for part, spent in clock.seconds.items()}
    return {
        "requests_a_second": rate,
        "ticks": ticks,
        "tick_milliseconds": {part: _describe(spent) for part, spent in clock.seconds.items()},
        "cores_of_1000_services": {
            **{part: round(share, 3) for part, share in cores.items()},
            "without_bank": round(cores["observe"] + cores["plan"], 3),
            "with_bank": round(sum(cores.values()), 3),
        },
    }


def measure_memory(services: int, traced: int, seconds: float) -> dict[str, Any]:
    """What is kept of a service between ticks: KiB of each, and what the process grew by for all of them."""
    tracemalloc.start()
    few = [run(USUAL_RATE, seconds, SEED + index) for index in range(traced)]
    gc.collect()
    whole = tracemalloc.get_traced_memory()[0]
    _drop_banks(few)
    gc.collect()
    without = tracemalloc.get_traced_memory()[0]
    few.clear()
    gc.collect()
    nothing = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    before = resident_mib(os.getpid())
    kept = [run(USUAL_RATE, seconds, SEED + index) for index in range(services)]
    gc.collect()
    grown = resident_mib(os.getpid()) - before
    return {
        "services": len(kept),
        "kib_of_a_service": {
            "without_bank": round((without - nothing) / traced / 1024, 1),
            "bank": round((whole - without) / traced / 1024, 1),
        },
        "resident_mib_of_all": round(grown, 1),
    }


def _drop_banks(policies: Sequence[EaselPolicy]) -> None:
    """In a function of its own, so that no name keeps one of them alive."""
    for policy in policies:
        del policy.bank


def _describe(spent: Sequence[float]) -> dict[str, float]:
    named = {"median": 50, "p99": 99, "longest": 100}
    return {"mean": round(mean(spent) * 1e3, 4)} | {
        name: round(percentile(spent, percent) * 1e3, 3) for name, percent in named.items()
    }


def build_page(result: Mapping[str, Any]) -> str:
    """Markdown: a row for each load, and the memory."""
    rows = [
        "| requests a second, of each service | 1,000 services take of a core: without the bank | with it "
        "| tick of one: mean | longest part, the bank's longest |",
        "| --- | --- | --- | --- | --- |",
    ]
    for rate in result["rates"]:
        cores, ticks = rate["cores_of_1000_services"], rate["tick_milliseconds"]
        whole = sum(ticks[part]["mean"] for part in PARTS)
        rows.append(
            f"| {rate['requests_a_second']:g} | {cores['without_bank']:.2f} | {cores['with_bank']:.2f} "
            f"| {whole:.2f} ms "
            f"| {max(ticks[part]['longest'] for part in PARTS):.1f} ms, {ticks['bank']['longest']:.1f} ms |"
        )
    memory = result["memory"]
    kib = memory["kib_of_a_service"]
    return "\n".join(
        [
            *rows,
            "",
            f"Ticks of {result['tick_seconds']:g} s, processor time; scraping isn't in it. A service keeps "
            f"{kib['without_bank']:.0f} KiB between ticks and its bank {kib['bank']:.0f} KiB; {memory['services']} "
            f"services {memory['resident_mib_of_all']:.0f} MiB of the process. Measured {result['date']} at "
            f"`{result['commit']}` ({result['machine']['cores']} shared cores).",
            "",
        ]
    )


def main() -> int:
    """Measure, print, and write unless it is a dry run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--services", type=int, default=1000, help="of which the memory is measured")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="of each service")
    parser.add_argument("--dry", action="store_true", help="print only, leave the result file alone")
    arguments = parser.parse_args()
    rates = []
    for rate in RATES:
        rates.append(measure_rate(rate, max(1, min(20, round(4 / rate))), arguments.seconds))
        sys.stdout.write(f"{json.dumps(rates[-1])}\n")
        sys.stdout.flush()
    memory = measure_memory(arguments.services, min(20, arguments.services), arguments.seconds / 3)
    result = {
        **build_provenance(),
        "tick_seconds": OPERATOR_TICK_SECONDS,
        "simulated_seconds": arguments.seconds,
        "rates": rates,
        "memory": memory,
    }
    text = json.dumps(result, indent=2) + "\n"
    sys.stdout.write(text)
    if not arguments.dry:
        RESULTS.write_text(text)
        PAGE.write_text(replace_part(PAGE.read_text(), PART, build_page(result)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
