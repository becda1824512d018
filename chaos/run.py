"""One run: the clients' process beside, faults one after the other, then what came of it as plain data."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any, Final

from chaos.injection import Injector
from chaos.plan import FORMS, PlannedFault, plan_run
from chaos.recovery import Injected
from chaos.report import build_record
from chaos.world import RECEIVER, World
from demo.cluster import ROOT

STARTING_SECONDS: Final = 5.0  # for the clients' process to be there
CLOSING_SECONDS: Final = 600.0  # for the last jobs, looks and webhooks


class Say:
    """Lines with the time since the run began."""

    def __init__(self, began: float) -> None:
        self._began = began

    def __call__(self, text: str) -> None:
        """One line."""
        sys.stdout.write(f"[{time.monotonic() - self._began:7.1f} s] {text}\n")
        sys.stdout.flush()


def run_chaos(
    world: World, form: str, seed: int, jobs: int, *, only: str = "", values: Sequence[str] = ()
) -> dict[str, Any]:
    """The record of a run on a cluster whose service is ready. ``only``: see ``Form.select``;
    ``values``: of the installed chart.

    Raises RuntimeError where the clients' process fails, TimeoutError where it doesn't end.
    """
    plan = plan_run(FORMS[form].select(only), seed, jobs)
    began = time.monotonic() + STARTING_SECONDS
    say = Say(began)
    say(f"CHAOS_SEED={seed} CHAOS_JOBS={jobs}: {len(plan.faults)} faults in {plan.seconds:.0f} s, form {form}")
    output = world.cluster.state / "chaos-clients.json"
    injector = Injector(world, began, tuple(values), FORMS[form].span_share)
    command = (
        *(sys.executable, "-m", "chaos.clients", "--url", world.url, "--receiver", RECEIVER),
        *("--form", form, "--seed", str(seed), "--jobs", str(jobs), "--began", str(began), "--output", str(output)),
        *("--only", only),
    )
    search = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    with subprocess.Popen(world.inside(*command), env=os.environ | {"PYTHONPATH": search}) as clients:
        try:
            injected = [_inject(injector, fault, say) for fault in plan.faults]
            left = began + plan.seconds + CLOSING_SECONDS - time.monotonic()
            code = clients.wait(timeout=max(left, CLOSING_SECONDS))
        finally:
            clients.kill()
    if code != 0:
        raise RuntimeError(f"the clients' process ended with code {code}")
    return build_record(plan, form, json.loads(output.read_text()), injected)


def _inject(injector: Injector, fault: PlannedFault, say: Say) -> Injected:
    injected = injector.inject(fault)
    seen = ", ".join(f"{name} {moment:.1f}" for name, moment in injected.moments.items())
    say(f"{injected.kind}: {injected.target}, undone after {injected.ended - injected.began:.1f} s; {seen}")
    return injected
