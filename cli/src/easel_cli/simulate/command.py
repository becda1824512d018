"""The command: from its arguments to what it prints."""

import inspect
import json
import math
import random
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, get_type_hints

import typer
from easel_operator.simulation.lower_bound import find_lower_bound_seconds
from easel_operator.simulation.outcome import Outcome, merge_outcomes
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
from easel_operator.simulation.trace import (
    Trace,
    TraceError,
    cut,
    merge_traces,
    parse_trace,
    parse_traces,
    upscale,
    write_trace,
)

from easel_cli.errors import INSTALL_SIMULATE, UsageError
from easel_cli.simulate.arguments import Arguments
from easel_cli.simulate.model_costs import parse_pool
from easel_cli.simulate.service_file import ServiceFile, load_service
from easel_cli.simulate.service_history import Replay, load_replay

PLOT_SAMPLES: Final = 3000
HOUR_SECONDS: Final = 3600.0
PLOT_SUFFIXES: Final = (".png", ".html")
MAX_UPSCALE: Final = 10_000
COLD_START_NUMBERS: Final = 3
POOL: Final = "pool"


def add_to(app: typer.Typer) -> None:
    """The command. Its options are the fields of ``Arguments``, so that each is written once."""

    def simulate(**given: Any) -> None:
        sys.stdout.write(run(Arguments(**given)))

    simulate.__signature__ = inspect.signature(Arguments)  # type: ignore[attr-defined] # which Typer reads
    simulate.__annotations__ = get_type_hints(Arguments, include_extras=True)
    app.command(
        help="Replay a trace of requests against a service, without a cluster, under one or more scaling policies."
    )(simulate)


def run(arguments: Arguments) -> str:
    """What to print. Raises UsageError."""
    if (arguments.trace is None) == (arguments.from_prometheus is None):
        raise UsageError("one of --trace and --from-prometheus is needed: where the requests are read from")
    try:
        return _run(arguments)
    except (TraceError, PolicyError, SweepError) as error:
        raise UsageError(str(error)) from None


def _run(arguments: Arguments) -> str:
    policies = split_policy_names(arguments.policy)
    if not policies:
        raise UsageError(f"--policy names none; there are {', '.join(POLICY_KINDS)}")
    if len(set(policies)) < len(policies):
        raise UsageError("--policy names one twice")
    service = load_service(arguments.service)
    settings = choose_settings(arguments, service)
    scenarios = build_scenarios(settings, [parse_sweep(sweep) for sweep in arguments.sweep or ()])
    find_oracle = _load_oracle() if ORACLE in policies else _no_oracle
    plot = _load_plot(arguments.plot) if arguments.plot else None
    traces, replay = load_traces(arguments, service)
    if plot and len(traces) > 1 and not arguments.pool:
        raise UsageError(
            f"--plot shows one service, --split-by {arguments.split_by} gives {len(traces)}; leave one out"
        )
    duration_seconds = max(trace.duration_seconds for trace in traces.values())
    step = max(1.0, duration_seconds / PLOT_SAMPLES) if plot else None
    traces, scenarios = _pool_services(arguments, traces, scenarios, policies)
    results = [_run_services(traces, scenario, policies, find_oracle, step) for scenario in scenarios]
    if plot:
        plot(next(iter(traces.values())), settings.target_seconds, results[0].together, arguments.plot)
    return _render(arguments, traces, replay, results)


def _pool_services(
    arguments: Arguments,
    traces: Mapping[str, Trace],
    scenarios: list[Scenario],
    policies: Sequence[str],
) -> tuple[Mapping[str, Trace], list[Scenario]]:
    """With --pool: one service, whose pods change between the models. Raises UsageError."""
    if arguments.pool is None and arguments.model_costs is None:
        return traces, scenarios
    if arguments.pool is None or arguments.model_costs is None or arguments.split_by is None:
        raise UsageError(
            "--pool, --model-costs and --split-by go together: the column says which model a request needs"
        )
    if ORACLE in policies:
        raise UsageError("--pool: the oracle plans for pods that have their model; leave one out")
    pool = parse_pool(arguments.pool, arguments.model_costs, list(traces))
    pooled = [replace(scenario, settings=replace(scenario.settings, pool=pool)) for scenario in scenarios]
    return {POOL: merge_traces(list(traces.values()))}, pooled


@dataclass(frozen=True, slots=True)
class _Result:
    """What one scenario came to."""

    scenario: Scenario
    together: Sequence[Outcome]  # by policy
    by_service: Mapping[str, Sequence[Outcome]]
    lower_bound_gpu_hours: float

    def to_record(self, gpu_hour_price: float | None) -> dict[str, Any]:
        """JSON-ready. Services are told apart where there are several."""
        record: dict[str, Any] = {
            **self.scenario.values,
            "lower_bound_gpu_hours": round(self.lower_bound_gpu_hours, 3),
            "policies": build_records(self.together, gpu_hour_price=gpu_hour_price),
        }
        if len(self.by_service) > 1:
            record["services"] = {
                name: {"policies": build_records(outcomes, gpu_hour_price=gpu_hour_price)}
                for name, outcomes in self.by_service.items()
            }
        return record


def _run_services(
    traces: Mapping[str, Trace],
    scenario: Scenario,
    policies: Sequence[str],
    find_oracle: FindOracle,
    timeline_step_seconds: float | None,
) -> _Result:
    """Each service has pods of its own."""
    by_service = {
        name: run_scenario(trace, scenario, policies, find_oracle, timeline_step_seconds)
        for name, trace in traces.items()
    }
    target = scenario.settings.target_seconds
    columns = list(zip(*by_service.values(), strict=True))
    together = [column[0] if len(column) == 1 else merge_outcomes(column, target) for column in columns]
    bound = sum(find_lower_bound_seconds(trace, scenario.settings) for trace in traces.values())
    return _Result(scenario, together, by_service, bound / HOUR_SECONDS)


def _render(
    arguments: Arguments, traces: Mapping[str, Trace], replay: Replay | None, results: Sequence[_Result]
) -> str:
    records = [result.to_record(arguments.gpu_hour_price) for result in results]
    requests = sum(len(trace) for trace in traces.values())
    seconds = max(trace.duration_seconds for trace in traces.values())
    order = results[0].scenario.settings.scaling.queue_order
    work_gpu_hours = round(sum(trace.total_work_seconds for trace in traces.values()) / HOUR_SECONDS, 3)
    if arguments.json:
        about: dict[str, Any] = {"requests": requests, "seconds": round(seconds, 3)}
        about |= {
            "work_gpu_hours": work_gpu_hours,
            "queue_order": str(order),
            **({"history": replay.to_record()} if replay else {}),
        }
        body: dict[str, Any] = {"sweep": records} if arguments.sweep else records[0]
        return json.dumps({"trace": about, "seed": arguments.seed, **body}, indent=2) + "\n"
    hours = seconds / HOUR_SECONDS
    text = f"{requests} requests in {hours:.1f} h, {work_gpu_hours:.1f} GPU-hours of work, {order}\n"
    text += (
        f"{len(traces)} services, pods of their own for each; figures are of all together\n" if len(traces) > 1 else ""
    )
    text += f"one pool of pods for all models: {arguments.pool}, {arguments.model_costs}\n" if arguments.pool else ""
    text += f"{replay.describe()}\n" if replay else ""
    for result, record in zip(results, records, strict=True):
        title = "".join(f"{key} {value:g}, " for key, value in result.scenario.values.items())
        text += f"\n{title}no plan needs less than {record['lower_bound_gpu_hours']:.1f} GPU-hours\n"
        text += f"{build_table(record['policies'])}\n"
    return text


def load_traces(arguments: Arguments, service: ServiceFile) -> tuple[Mapping[str, Trace], Replay | None]:
    """The file or the service's history, scaled up and cut; by service, of which only --split-by makes several.

    Raises UsageError or TraceError.
    """
    if not 1 <= arguments.upscale <= MAX_UPSCALE:
        raise UsageError(f"--upscale is {arguments.upscale}; 1 to {MAX_UPSCALE} are allowed")
    if not (arguments.jitter_seconds >= 0 and math.isfinite(arguments.jitter_seconds)):
        raise UsageError(f"--jitter-seconds is {arguments.jitter_seconds:g}; 0 or more is allowed")
    source = random.Random(arguments.seed)  # noqa: S311 - jitter that its seed replays
    if arguments.from_prometheus is not None and arguments.split_by is not None:
        raise UsageError("--split-by goes with --trace, not with --from-prometheus: counters don't tell models apart")
    url = arguments.from_prometheus
    replay = _replay_history(url, arguments, service, source) if url is not None else None
    traces = {"": replay.trace} if replay else _read_traces(arguments)
    scaled = {
        name: upscale(trace, arguments.upscale, arguments.jitter_seconds, source) for name, trace in traces.items()
    }
    return _cut_traces(scaled, arguments), replay


def _replay_history(url: str, arguments: Arguments, service: ServiceFile, source: random.Random) -> Replay:
    replay = load_replay(url, arguments, service, source)
    if arguments.save_trace:
        try:
            with arguments.save_trace.open("w", encoding="utf-8") as file:
                write_trace(replay.trace, file)
        except OSError as error:
            raise UsageError(f"--save-trace: can't write {arguments.save_trace}: {error}") from None
    return replay


def _read_traces(arguments: Arguments) -> Mapping[str, Trace]:
    for option in ("last", "prometheus_selector", "save_trace"):
        if getattr(arguments, option) is not None:
            raise UsageError(f"--{option.replace('_', '-')} goes with --from-prometheus, not with --trace")
    if arguments.trace is None:
        raise UsageError("--trace is missing")
    try:
        with arguments.trace.open(encoding="utf-8", newline="") as lines:
            if arguments.split_by is not None:
                return parse_traces(lines, str(arguments.trace), arguments.split_by)
            return {"": parse_trace(lines, str(arguments.trace))}
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--trace: can't read {arguments.trace}: {error}") from None


def _cut_traces(traces: Mapping[str, Trace], arguments: Arguments) -> Mapping[str, Trace]:
    """By the file's own clock. A service without a request in the part is left out."""
    if arguments.begin is None and arguments.until is None:
        return traces
    clock = min(trace.begins_at for trace in traces.values())
    end = clock + max(trace.duration_seconds for trace in traces.values()) + 1
    begin = clock if arguments.begin is None else arguments.begin
    until = end if arguments.until is None else arguments.until
    if not begin < until:
        raise UsageError(f"--from {begin:g} --until {until:g}: the end must come after the beginning")
    begin = max(begin, clock)
    parts = {name: cut(trace, begin - clock, until - clock) for name, trace in traces.items()}
    if not any(parts.values()):
        raise UsageError(
            f"--from {begin:g} --until {until:g}: no request arrives then; the trace is {clock:g} to {end:g}"
        )
    return {name: part for name, part in parts.items() if part}


def choose_settings(arguments: Arguments, service: ServiceFile) -> Settings:
    """The service, and what was given beside it. Raises UsageError."""
    cold_start = choose_cold_start(arguments.cold_start_seconds, service)
    settings = Settings(service.spec, cold_start, arguments.seed)
    return settings if arguments.queue_order is None else settings.order_by(arguments.queue_order)


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
    """``X``, ``X:SPREAD`` or ``X:SPREAD:CROWD`` in seconds. Raises UsageError."""
    try:
        numbers = [float(number) for number in text.split(":")]
    except ValueError:
        numbers = []
    cold_start = ColdStart(*numbers) if 1 <= len(numbers) <= COLD_START_NUMBERS else ColdStart(math.nan)
    if not (
        0 <= cold_start.spread_seconds <= cold_start.seconds < math.inf and 0 <= cold_start.crowd_seconds < math.inf
    ):
        raise UsageError(
            f"--cold-start-seconds is {text!r}; X, X:SPREAD or X:SPREAD:CROWD in seconds, SPREAD at most X, is expected"
        )
    return cold_start


def _load_oracle() -> FindOracle:
    try:
        from easel_operator.simulation.oracle.search import find_oracle  # noqa: PLC0415 - numpy is optional
    except ImportError:
        raise UsageError(f"the oracle needs numpy: {INSTALL_SIMULATE}") from None
    return find_oracle


def _no_oracle(_trace: Trace, _settings: Settings, _timeline_step_seconds: float | None) -> Outcome:
    raise UsageError("no oracle was asked for")


def _load_plot(path: Path) -> Any:
    if path.suffix not in PLOT_SUFFIXES:
        raise UsageError(f"--plot is {path}; a file that ends in {' or '.join(PLOT_SUFFIXES)} is expected")
    try:
        from easel_operator.simulation.plot import plot  # noqa: PLC0415 - matplotlib is optional
    except ImportError:
        raise UsageError(f"--plot needs matplotlib: {INSTALL_SIMULATE}") from None
    return plot
