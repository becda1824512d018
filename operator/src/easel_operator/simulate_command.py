"""``easel simulate``: the files, the arguments and the output around the simulation, which is pure."""

import argparse
import json
import math
import random
from pathlib import Path
from typing import Any, Final

from easel_operator.service_file import ServiceFile, load_service
from easel_operator.service_history import Replay, add_arguments, load_replay
from easel_operator.simulation.lower_bound import find_lower_bound_seconds
from easel_operator.simulation.outcome import Outcome
from easel_operator.simulation.policies.interface import PolicyError, split_policy_names
from easel_operator.simulation.policies.registry import ORACLE, POLICY_KINDS
from easel_operator.simulation.report import build_records, build_table
from easel_operator.simulation.scenario import (
    FindOracle,
    Scenario,
    SweepError,
    build_scenarios,
    parse_sweep,
    run_scenario,
)
from easel_operator.simulation.settings import ColdStart, Settings
from easel_operator.simulation.trace import Trace, TraceError, cut, parse_trace, upscale, write_trace
from easel_operator.usage import INSTALL, UsageError

PLOT_SAMPLES: Final = 3000
HOUR_SECONDS: Final = 3600.0
PLOT_SUFFIXES: Final = (".png", ".html")
MAX_UPSCALE: Final = 10_000


def add_to(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """The command and its arguments."""
    parser = commands.add_parser(
        "simulate",
        help="what a trace of requests would have cost, and how late they would have been, under scaling policies",
        description="Replay a trace of requests against a service, without a cluster, under one or more policies.",
    )
    requests = parser.add_mutually_exclusive_group(required=True)
    requests.add_argument("--trace", type=Path, metavar="FILE.csv", help="arrival_seconds,work_seconds")
    requests.add_argument("--from-prometheus", metavar="URL", help="the service's own history, as Prometheus keeps it")
    add_arguments(parser)
    parser.add_argument("--save-trace", type=Path, metavar="FILE.csv", help="keep what --from-prometheus found")
    parser.add_argument("--service", type=Path, required=True, metavar="FILE.yaml", help="a StableDiffusionService")
    parser.add_argument(
        "--policy",
        required=True,
        metavar="NAME[,NAME...]",
        help=f"{', '.join(POLICY_KINDS)}; with parameters as in hpa-queue:target=1.5,downWindow=120",
    )
    parser.add_argument(
        "--cold-start-seconds",
        metavar="X[:SPREAD]",
        help="uniform in X plus or minus SPREAD; if unset, what the service's status says",
    )
    parser.add_argument("--upscale", type=int, default=1, metavar="N", help="copies of the trace laid over it")
    parser.add_argument(
        "--jitter-seconds", type=float, default=0.0, metavar="S", help="moves each by up to S to either side"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="K", help="of jitter and cold starts")
    parser.add_argument("--from", dest="begin", type=float, default=0.0, metavar="SECONDS", help="part of the trace")
    parser.add_argument("--until", type=float, metavar="SECONDS", help="end of the part; the trace's end by default")
    parser.add_argument("--sweep", action="append", default=[], metavar="KEY=V,V...", help="coldStart, target, ...")
    parser.add_argument("--gpu-hour-price", type=float, metavar="P", help="adds the cost")
    parser.add_argument("--json", action="store_true", help="figures by policy instead of a table")
    parser.add_argument("--plot", type=Path, metavar="FILE.png|.html", help="demand, backlog, pods and latency")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> str:
    """What to print. Raises UsageError."""
    try:
        return _run(arguments)
    except (TraceError, PolicyError, SweepError) as error:
        raise UsageError(str(error)) from None


def _run(arguments: argparse.Namespace) -> str:
    policies = split_policy_names(arguments.policy)
    if not policies:
        raise UsageError(f"--policy names none; there are {', '.join(POLICY_KINDS)}")
    if len(set(policies)) < len(policies):
        raise UsageError("--policy names one twice")
    service = load_service(arguments.service)
    settings = Settings(service.spec, choose_cold_start(arguments.cold_start_seconds, service), arguments.seed)
    scenarios = build_scenarios(settings, [parse_sweep(sweep) for sweep in arguments.sweep])
    find_oracle = _load_oracle() if ORACLE in policies else _no_oracle
    plot = _load_plot(arguments.plot) if arguments.plot else None
    trace, replay = load_trace(arguments, service)
    step = max(1.0, trace.duration_seconds / PLOT_SAMPLES) if plot else None
    outcomes = [run_scenario(trace, scenario, policies, find_oracle, step) for scenario in scenarios]
    if plot:
        plot(trace, scenarios[0].settings.target_seconds, outcomes[0], arguments.plot)
    return _render(arguments, trace, replay, scenarios, outcomes)


def _render(
    arguments: argparse.Namespace,
    trace: Trace,
    replay: Replay | None,
    scenarios: list[Scenario],
    outcomes: list[list[Outcome]],
) -> str:
    results: list[dict[str, Any]] = [
        {
            **scenario.values,
            "lower_bound_gpu_hours": round(find_lower_bound_seconds(trace, scenario.settings) / HOUR_SECONDS, 3),
            "policies": build_records(found, gpu_hour_price=arguments.gpu_hour_price),
        }
        for scenario, found in zip(scenarios, outcomes, strict=True)
    ]
    work_gpu_hours = round(trace.total_work_seconds / HOUR_SECONDS, 3)
    if arguments.json:
        about: dict[str, Any] = {"requests": len(trace), "seconds": round(trace.duration_seconds, 3)}
        about |= {"work_gpu_hours": work_gpu_hours, **({"history": replay.to_record()} if replay else {})}
        body: dict[str, Any] = {"sweep": results} if arguments.sweep else results[0]
        return json.dumps({"trace": about, "seed": arguments.seed, **body}, indent=2) + "\n"
    hours = trace.duration_seconds / HOUR_SECONDS
    text = f"{len(trace)} requests in {hours:.1f} h, {work_gpu_hours:.1f} GPU-hours of work\n"
    text += f"{replay.describe()}\n" if replay else ""
    for scenario, result in zip(scenarios, results, strict=True):
        title = "".join(f"{key} {value:g}, " for key, value in scenario.values.items())
        text += f"\n{title}no plan needs less than {result['lower_bound_gpu_hours']:.1f} GPU-hours\n"
        text += f"{build_table(result['policies'])}\n"
    return text


def load_trace(arguments: argparse.Namespace, service: ServiceFile) -> tuple[Trace, Replay | None]:
    """The file or the service's history, scaled up and cut. Raises UsageError or TraceError."""
    if not 1 <= arguments.upscale <= MAX_UPSCALE:
        raise UsageError(f"--upscale is {arguments.upscale}; 1 to {MAX_UPSCALE} are allowed")
    if not (arguments.jitter_seconds >= 0 and math.isfinite(arguments.jitter_seconds)):
        raise UsageError(f"--jitter-seconds is {arguments.jitter_seconds:g}; 0 or more is allowed")
    source = random.Random(arguments.seed)  # noqa: S311 - jitter that its seed replays
    replay = _replay_history(arguments, service, source) if arguments.from_prometheus is not None else None
    trace = replay.trace if replay else _read_trace(arguments)
    trace = upscale(trace, arguments.upscale, arguments.jitter_seconds, source)
    return _cut_trace(trace, arguments), replay


def _replay_history(arguments: argparse.Namespace, service: ServiceFile, source: random.Random) -> Replay:
    replay = load_replay(arguments, service, source)
    if arguments.save_trace:
        try:
            with arguments.save_trace.open("w", encoding="utf-8") as file:
                write_trace(replay.trace, file)
        except OSError as error:
            raise UsageError(f"--save-trace: can't write {arguments.save_trace}: {error}") from None
    return replay


def _read_trace(arguments: argparse.Namespace) -> Trace:
    for option in ("last", "prometheus_selector", "save_trace"):
        if getattr(arguments, option) is not None:
            raise UsageError(f"--{option.replace('_', '-')} goes with --from-prometheus, not with --trace")
    try:
        with arguments.trace.open(encoding="utf-8", newline="") as lines:
            return parse_trace(lines, str(arguments.trace))
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--trace: can't read {arguments.trace}: {error}") from None


def _cut_trace(trace: Trace, arguments: argparse.Namespace) -> Trace:
    if arguments.begin == 0 and arguments.until is None:
        return trace
    until = trace.duration_seconds + 1 if arguments.until is None else arguments.until
    if not 0 <= arguments.begin < until:
        raise UsageError(f"--from {arguments.begin:g} --until {until:g}: the end must come after the beginning")
    part = cut(trace, arguments.begin, until)
    if not len(part):
        raise UsageError(f"--from {arguments.begin:g} --until {until:g}: no request arrives then")
    return part


def choose_cold_start(text: str | None, service: ServiceFile) -> ColdStart:
    """What was given, or else what the operator measured on the service. Raises UsageError."""
    if text is not None:
        return parse_cold_start(text)
    measured = service.read_cold_starts()
    if measured is None:
        raise UsageError(
            f"--cold-start-seconds is needed: {service.path} has no status.scaling.coldStartsSeconds, as the output of "
            "kubectl get sds NAME -o yaml has once workers were started"
        )
    median = measured.median_seconds
    return ColdStart(median, min(median, measured.slow_seconds - median))


def parse_cold_start(text: str) -> ColdStart:
    """``X`` or ``X:SPREAD`` in seconds. Raises UsageError."""
    seconds, _, spread = text.partition(":")
    try:
        cold_start = ColdStart(float(seconds), float(spread or 0))
    except ValueError:
        cold_start = ColdStart(math.nan)
    if not 0 <= cold_start.spread_seconds <= cold_start.seconds < math.inf:
        raise UsageError(f"--cold-start-seconds is {text!r}; X or X:SPREAD in seconds, SPREAD at most X, is expected")
    return cold_start


def _load_oracle() -> FindOracle:
    try:
        from easel_operator.simulation.oracle import find_oracle  # noqa: PLC0415 - numpy is optional
    except ImportError:
        raise UsageError(f"the oracle needs numpy: {INSTALL}") from None
    return find_oracle


def _no_oracle(_trace: Trace, _settings: Settings, _timeline_step_seconds: float | None) -> Outcome:
    raise UsageError("no oracle was asked for")


def _load_plot(path: Path) -> Any:
    if path.suffix not in PLOT_SUFFIXES:
        raise UsageError(f"--plot is {path}; a file that ends in {' or '.join(PLOT_SUFFIXES)} is expected")
    try:
        from easel_operator.simulation.plot import plot  # noqa: PLC0415 - matplotlib is optional
    except ImportError:
        raise UsageError(f"--plot needs matplotlib: {INSTALL}") from None
    return plot
