"""The health rules of examples/gitops, as Argo CD's Lua and Flux' CEL run them, on what the operator writes."""

from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import celpy
import lupa.lua51  # type: ignore[import-untyped] # has no types
import pytest
import yaml
from celpy.adapter import json_to_cel
from celpy.evaluation import CELEvalError
from easel_contract import names
from easel_operator.decide.snapshot import ScrapeReport, Snapshot
from easel_operator.objects import Json

from tests.operator.decide.test_conditions import build_running, crashed
from tests.operator.decide.test_rollouts import (
    MISSING_MODEL,
    begin,
    carry_out,
    compute_kstatus,
    edit,
    find_stored,
    roll,
    settle_all,
)
from tests.operator.objects import HUB_MODEL, build_pod, build_service

EXAMPLES = Path(__file__).resolve().parents[3] / "examples/gitops"
LUA_KEY = f"resource.customizations.health.{names.API_GROUP}_{names.KIND}"


def ask_argo(service: Json) -> tuple[str, str]:
    """Status and message, as Argo CD has them: gopher-lua is Lua 5.1, and the resource is the global ``obj``."""
    script = yaml.safe_load((EXAMPLES / "argo-cd.yaml").read_text())["data"][LUA_KEY]
    lua = lupa.lua51.LuaRuntime(unpack_returned_tuples=True)
    lua.globals().obj = lua.table_from(service, recursive=True)
    answer = lua.execute(script)
    return answer.status, answer.message


def ask_flux(service: Json) -> str:
    """As its controller evaluates them, in this order; an error has it look again.

    https://github.com/fluxcd/pkg/blob/main/runtime/cel/status_evaluator.go
    """
    (rules,) = yaml.safe_load((EXAMPLES / "flux.yaml").read_text())["spec"]["healthCheckExprs"]
    assert (rules["apiVersion"], rules["kind"]) == (f"{names.API_GROUP}/{names.SERVED_API_VERSIONS[0]}", names.KIND)
    observed = service.get("status", {}).get("observedGeneration")
    if observed is not None and observed != service["metadata"]["generation"]:
        return "InProgress"
    environment = celpy.Environment()
    known: Any = {name: json_to_cel(value) for name, value in service.items()}
    for key, status in (("inProgress", "InProgress"), ("failed", "Failed"), ("current", "Current")):
        try:
            holds = environment.program(environment.compile(rules[key])).evaluate(known)
        except CELEvalError:
            return "InProgress"
        if holds:
            return status
    return "InProgress"


def asleep() -> Snapshot:
    service = build_service({"model": HUB_MODEL, "scaling": {"minReplicas": 0, "maxReplicas": 8}})
    return carry_out(build_running(service, build_pod("gateway"), workers=0))


def without_redis() -> Snapshot:
    return carry_out(replace(begin(), scrape=ScrapeReport(is_broker_up=False)))


def rolling_out() -> Snapshot:
    edited = carry_out(edit(begin(), model={**HUB_MODEL, "dtype": "Float16"}))
    loading = build_pod("worker", is_ready=False)
    return carry_out(roll(edited, "worker", old=2, new=1, ready=2, pod=loading))


def failing() -> Snapshot:
    edited = carry_out(edit(begin(), model=MISSING_MODEL))
    return carry_out(roll(edited, "worker", old=2, new=1, ready=2, pod=crashed(78, "no such repository")))


@pytest.mark.parametrize(
    ("snapshot", "argo", "flux", "part"),
    [
        (begin(), "Healthy", "Current", "The service answers at"),
        (asleep(), "Healthy", "Current", "No worker runs while there is no work"),
        (edit(begin(), model=MISSING_MODEL), "Progressing", "InProgress", "hasn't looked at this spec yet"),
        (rolling_out(), "Progressing", "InProgress", "worker"),
        (failing(), "Degraded", "Failed", "no such repository"),
        (without_redis(), "Degraded", "InProgress", "No pod of the service reaches Redis"),
        (carry_out(settle_all(carry_out(edit(begin(), model=MISSING_MODEL)))), "Healthy", "Current", "answers at"),
    ],
    ids=["running", "asleep", "edited", "rolling out", "failing", "without Redis", "rolled out"],
)
def test_argo_and_flux_take_a_service_for_what_it_is(snapshot: Snapshot, argo: str, flux: str, part: str) -> None:
    status, message = ask_argo(snapshot.service)
    assert (status, ask_flux(snapshot.service)) == (argo, flux)
    assert part in message
    assert ask_flux(snapshot.service) == compute_kstatus(snapshot), "wait: true says the same"


def test_a_service_that_the_operator_has_not_seen_is_on_its_way() -> None:
    for service in (build_service(), build_service(observedGeneration=3)):
        assert ask_argo(service)[0] == "Progressing"
        assert ask_flux(service) == "InProgress"


def test_no_status_is_taken_for_healthy_that_is_not_ready_of_the_newest_spec() -> None:
    """Whatever the conditions are, in each of their values, and of which generation."""
    running = begin().service
    seen = set()
    for ready, reconciling, stalled, of_ready, observed in product(
        *(("True", "False", "Unknown"),) * 3, (2, 3), (2, 3)
    ):
        values = {"Ready": ready, "Reconciling": reconciling, "Stalled": stalled}
        conditions = [
            {**each, "status": values.get(each["type"], each["status"])} for each in running["status"]["conditions"]
        ]
        for each in conditions:
            if each["type"] == "Ready":
                each["observedGeneration"] = of_ready
        service = {**running, "status": {**running["status"], "conditions": conditions, "observedGeneration": observed}}
        is_good = (ready, of_ready, observed) == ("True", 3, 3) and "True" not in (reconciling, stalled)
        argo, flux = ask_argo(service)[0], ask_flux(service)
        assert (argo == "Healthy", flux == "Current") == (is_good, is_good)
        seen.add((argo, flux))
    assert len(seen) >= 4


def test_a_failure_names_what_failed_in_argo() -> None:
    snapshot = failing()
    assert ask_argo(snapshot.service)[1] == find_stored(snapshot, "Stalled")["message"]
