"""The options of ``easel simulate``, a field each."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

from easel_contract.resource import QueueOrder
from easel_operator.simulation.policies.registry import POLICY_KINDS
from typer import Option

DEFAULT_POLICY: Final = "easel"
DEFAULT_LAST: Final = "7d"


@dataclass(frozen=True, slots=True, kw_only=True)
class Arguments:
    """What was given. One of ``trace`` and ``from_prometheus`` is set."""

    service: Annotated[Path, Option(metavar="FILE.yaml", help="A StableDiffusionService.")]
    trace: Annotated[Path | None, Option(metavar="FILE.csv", help="Columns arrival_seconds and work_seconds.")] = None
    from_prometheus: Annotated[
        str | None, Option(metavar="URL", help="Instead of a file: the service's own history, as Prometheus keeps it.")
    ] = None
    last: Annotated[
        str | None, Option(metavar="TIME", help=f"Of --from-prometheus: 90m, 36h, 7d, 2w; {DEFAULT_LAST} if unset.")
    ] = None
    prometheus_selector: Annotated[
        str | None,
        Option(
            metavar="LABELS",
            help='Of --from-prometheus: the gateways\' labels if not the usual namespace and pod, as in job="easel".',
        ),
    ] = None
    save_trace: Annotated[Path | None, Option(metavar="FILE.csv", help="Keep what --from-prometheus found.")] = None
    split_by: Annotated[
        str | None,
        Option(metavar="COLUMN", help="Of --trace: each value of this column, such as model, is another service."),
    ] = None
    pool: Annotated[
        str | None,
        Option(
            metavar="GPU[:RAM]",
            help="With --split-by: one set of pods for all, each with so many models in its GPU's memory and in its "
            "RAM.",
        ),
    ] = None
    model_costs: Annotated[
        str | None,
        Option(
            metavar="SWITCH:LOAD|FILE.csv",
            help="With --pool: seconds from RAM into the GPU's memory, and from disk; or a file with columns model, "
            "switch_seconds, load_seconds.",
        ),
    ] = None
    policy: Annotated[
        str,
        Option(
            metavar="NAME[,NAME...]",
            help=f"{', '.join(POLICY_KINDS)}; with parameters as in hpa-queue:target=1.5,downWindow=120.",
        ),
    ] = DEFAULT_POLICY
    cold_start_seconds: Annotated[
        str | None,
        Option(
            metavar="X[:SPREAD[:CROWD]]",
            help="Uniform in X plus or minus SPREAD, and CROWD more for each pod that is starting already; if unset, "
            "what the service's status says.",
        ),
    ] = None
    queue_order: Annotated[
        QueueOrder | None,
        Option(
            help="Of every policy, instead of the service's. TargetFirst: what can still finish within the target "
            "goes before what can't."
        ),
    ] = None
    upscale: Annotated[int, Option(metavar="N", help="Copies of the trace laid over it.")] = 1
    jitter_seconds: Annotated[float, Option(metavar="S", help="Moves each by up to S to either side.")] = 0.0
    seed: Annotated[int, Option(metavar="K", help="Of jitter and cold starts.")] = 0
    begin: Annotated[
        float | None, Option("--from", metavar="SECONDS", help="Part of the trace, by the file's own clock.")
    ] = None
    until: Annotated[float | None, Option(metavar="SECONDS", help="End of the part; the trace's end if unset.")] = None
    sweep: Annotated[
        list[str] | None, Option(metavar="KEY=V,V...", help="What if: coldStart, target, …; may be repeated.")
    ] = None
    gpu_hour_price: Annotated[float | None, Option(metavar="P", help="Adds the cost.")] = None
    plot: Annotated[Path | None, Option(metavar="FILE.png|.html", help="Demand, backlog, pods and latency.")] = None
    json: Annotated[bool, Option("--json", help="Figures by policy instead of a table.")] = False
