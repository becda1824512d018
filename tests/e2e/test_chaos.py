"""The short form of ``make chaos``: load through the Service while pods, Redis, the operator and a node are lost.

What is asserted is what must hold however slow the machine is; docs/platform/chaos.md has the figures of long runs.
``CHAOS_SEED`` chooses another order of faults and other requests.
"""

import json
import os
from typing import Final

import pytest

from chaos.report import list_hard_faults
from chaos.run import run_chaos
from chaos.world import World, build_objects
from tests.e2e.waiting import Services

JOBS: Final = 300


@pytest.mark.embedded
def test_no_job_is_lost_or_done_twice_and_no_wrong_key_is_served_while_things_die(services: Services) -> None:
    *secrets, service = build_objects()
    for secret in secrets:
        services.cluster.kubectl("apply", "-f", "-", stdin=json.dumps(secret))
    name = services.apply(service)
    services.wait_for(name, "Ready", "True", timeout_seconds=180)
    record = run_chaos(World(services.cluster), "short", int(os.environ.get("CHAOS_SEED") or 1), JOBS)
    assert list_hard_faults(record) == []
    assert record["counts"]["finished"] == record["counts"]["accepted"] == JOBS
    assert record["counts"]["foreign_requests"] > 0
    assert [fault["target"] for fault in record["faults"] if fault["target"].startswith("not done")] == []
