"""A run as a record for benchmarks/results/chaos.json, and a record as tables of docs/platform/chaos.md. Pure."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from statistics import median
from typing import Any, Final

from chaos.ledger import Promise
from chaos.observations import Observations
from chaos.plan import FaultKind, Plan
from chaos.recovery import Injected, find_costs

MAX_SENTENCES: Final = 20  # of broken promises in a record
UNITS: Final = "moments and lengths in seconds, all others are counts"

Record = Mapping[str, Any]


def build_record(plan: Plan, form: str, seen: Record, injected: Sequence[Injected]) -> dict[str, Any]:
    """``seen``: what the clients' process wrote (``chaos.clients.see_through``)."""
    observations = Observations.from_record(seen["observations"])
    broken = Counter(promise for promise, _ in seen["broken"])
    return {
        "form": form,
        "seed": plan.seed,
        "jobs": len(plan.jobs),
        "load_seconds": round(plan.seconds, 1),
        "units": UNITS,
        "counts": {
            **seen["counts"],
            "lost": broken[Promise.KEPT],
            "finished_twice": broken[Promise.ENDS_ONCE],
            "ended_otherwise": broken[Promise.ENDS_WELL],
            "webhooks_missing": broken[Promise.REPORTED],
            "webhooks_doubled": broken[Promise.REPORTED_ONCE],
            "foreign_requests": observations.foreign_asked.total(),
            "foreign_requests_served": len(observations.foreign_served),
            "webhooks_with_a_wrong_signature_or_body": len(seen["receiver_errors"]),
            "answers_500": len(seen["internal_errors"]),
        },
        "broken": [sentence for _, sentence in seen["broken"][:MAX_SENTENCES]] + observations.foreign_served,
        "latency_seconds": _describe_latencies(observations.latencies_seconds),
        "answers": dict(sorted(observations.answers.items())),
        "foreign_answers": dict(sorted(observations.foreign_asked.items())),
        "errors": [*seen["receiver_errors"], *seen["internal_errors"]][:MAX_SENTENCES],
        "faults": [cost.to_record() for cost in find_costs(injected, observations, plan.arrivals)],
    }


def _describe_latencies(latencies: Sequence[float]) -> dict[str, float]:
    ordered = sorted(latencies)
    if not ordered:
        return {}
    shares = {"p50": 0.5, "p95": 0.95, "p99": 0.99, "longest": 1.0}
    return {name: round(ordered[min(len(ordered) - 1, int(share * len(ordered)))], 2) for name, share in shares.items()}


def list_hard_faults(record: Record) -> list[str]:
    """What must never be, whatever was done: one sentence each."""
    counts = record["counts"]
    zero = (
        "lost", "finished_twice", "ended_otherwise", "webhooks_missing", "webhooks_doubled", "foreign_requests_served",
        "webhooks_with_a_wrong_signature_or_body",
    )  # fmt: skip
    return [f"{name}: {counts[name]}" for name in zero if counts[name]] + list(record["broken"])


def build_page(record: Record) -> str:
    """Markdown: what was counted, then a row for each kind of fault."""
    counts, latency = record["counts"], record["latency_seconds"]
    loads = f"{record['load_average_before']:.1f} before, {record['load_average_after']:.1f} after"
    ends = f"{counts['finished_twice']}, {counts['ended_otherwise']}"
    lines = [
        f"{record['date']}, commit {record['commit']}, seed {record['seed']}: {record['jobs']:,} jobs in "
        f"{record['load_seconds'] / 60:.0f} minutes, {len(record['faults'])} faults; "
        f"{record['machine']['cores']} cores, load average {loads}.",
        "",
        "| counted from outside | |",
        "| --- | --- |",
        f"| accepted, finished | {counts['accepted']:,}, {counts['finished']:,} |",
        f"| **lost** | **{counts['lost']}** |",
        f"| **finished twice, or otherwise than asked** | **{ends}** |",
        f"| webhooks promised, received | {counts['webhooks_promised']:,}, {counts['webhooks_received']:,} |",
        f"| **missing, doubled** | **{counts['webhooks_missing']}, {counts['webhooks_doubled']}** |",
        f"| repeated under the same id, as is promised | {counts['webhooks_repeated']} |",
        f"| requests with no key, a wrong one, or for another's job | {counts['foreign_requests']:,} |",
        f"| **served of them** | **{counts['foreign_requests_served']}** |",
        f"| a customer's wait, median / 95 % / 99 % / longest | "
        f"{latency['p50']:.1f} / {latency['p95']:.1f} / {latency['p99']:.1f} / {latency['longest']:.1f} s |",
        "",
        "| fault | times | longest gap without a finished job: median, worst | as before after: median, worst "
        "| answers without success, in all | besides |",
        "| --- | --- | --- | --- | --- | --- |",
        *_build_rows(record["faults"]),
        "",
    ]
    return "\n".join(lines)


def _build_rows(faults: Sequence[Record]) -> Iterator[str]:
    by_kind: defaultdict[str, list[Record]] = defaultdict(list)
    for fault in faults:
        by_kind[fault["kind"]].append(fault)
    for kind in FaultKind:
        if not (found := by_kind.get(kind)):
            continue
        gaps = [fault["longest_gap_seconds"] for fault in found]
        backs = [fault["back_after_seconds"] for fault in found]
        answers: Counter[str] = Counter()
        for fault in found:
            answers.update(fault["answers_without_success"])
        said = ", ".join(f"{name}: {count}" for name, count in sorted(answers.items())) or "none"
        yield (
            f"| {kind} | {len(found)} | {median(gaps):.1f}, {max(gaps):.1f} s "
            f"| {median(backs):.1f}, {max(backs):.1f} s | {said} | {_describe_moments(found)} |"
        )


def _describe_moments(faults: Sequence[Record]) -> str:
    """The worst of each further moment, and what couldn't be done."""
    known = {"at_seconds", "undone_after_seconds", "next_success_seconds", "longest_gap_seconds", "back_after_seconds"}
    names = {name for fault in faults for name in fault if name.endswith("_seconds")} - known
    said = [
        f"{name.removesuffix('_seconds').replace('_', ' ')} {max(fault.get(name, 0.0) for fault in faults):.0f} s"
        for name in sorted(names)
    ]
    said += [fault["target"] for fault in faults if fault["target"].startswith("not done")]
    return "; ".join(said)
