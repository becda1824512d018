"""A new revision of workers on a share of the jobs first: promoted step by step, taken back, or held, by its figures.

Real server processes do the jobs; the one that fails is a real one whose engine raises at half of them.
"""

import asyncio
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from demo.load import Tally, burst, forwarded
from tests.e2e.waiting import Services, tiny, wait_until

ENGINE = {"kind": "Synthetic", "synthetic": {"millisecondsPerStep": 1, "millisecondsPerImage": 40}}
CANARY = {"steps": [30, 60], "minJobs": 20, "maxStepSeconds": 300}
ROLLED_OUT_SECONDS = 150
FAULT = """
import easel_server.engine.synthetic_engine as synthetic

begin = synthetic.SyntheticEngine.begin

def fail_half(self, parameters, *arguments, **options):
    if parameters.prompt[-1] in "02468":
        raise RuntimeError("this revision is broken")
    return begin(self, parameters, *arguments, **options)

synthetic.SyntheticEngine.begin = fail_half
"""


def fast(name: str, **changes: Any) -> dict[str, Any]:
    """A service with two workers that are done with a job in no time."""
    fields = {"replicas": 2, "scaling": None, "worker__engine": ENGINE, "rollout__canary": CANARY, **changes}
    return tiny(name, **fields)


@contextmanager
def under_load(services: Services, name: str) -> Iterator[Tally]:
    """Requests go on while the context is open."""
    tally, is_over = Tally(), threading.Event()

    def ask(url: str) -> None:
        while not is_over.is_set():
            asyncio.run(burst(url, tally, requests=12, clients=6, steps=1))

    with forwarded(services.cluster, name) as url:
        thread = threading.Thread(target=ask, args=(url,))
        thread.start()
        try:
            yield tally
        finally:
            is_over.set()
            thread.join()


def start(services: Services, service: dict[str, Any]) -> str:
    """Applied, and its workers are there."""
    name = services.apply(service)
    services.wait_for(name, "Progressing", "True", "Complete")
    services.wait_for(name, "Ready", "True")
    return name


def revisions_of(services: Services, name: str) -> list[str]:
    """What each of the workers runs."""
    found = [pod["metadata"]["annotations"]["easel.dev/revision"] for pod in services.pods(name, "worker")]
    return sorted(found)


def wait_for_event(services: Services, name: str, reason: str) -> str:
    """The note of a service's event."""
    selector = f"involvedObject.name={name},reason={reason}"

    def look() -> list[str]:
        listed = services.cluster.get("events", "--field-selector", selector)["items"]
        return [item["message"] for item in listed]

    return wait_until(look, bool, f"event {reason} of {name}", ROLLED_OUT_SECONDS)[0]


def test_a_good_revision_is_promoted_step_by_step_with_its_figures_in_an_event(services: Services) -> None:
    name = start(services, fast("careful"))
    before = revisions_of(services, name)
    with under_load(services, name) as tally:
        changed = {"metadata": {"labels": {"try": "one"}}}
        services.apply(fast(name, worker__podTemplate=changed))
        services.wait_for(name, "Progressing", "True", "CanaryRunning")
        mixed = wait_until(
            lambda: revisions_of(services, name), lambda seen: len(set(seen)) == 2, "both revisions side by side", 60
        )
        assert before[0] in mixed
        note = wait_for_event(services, name, "CanaryPromoted")
        services.wait_for(name, "Progressing", "True", "Complete", timeout_seconds=ROLLED_OUT_SECONDS)
    assert "In step 2 of 2, 0 of" in note
    assert "p95 from claimed to done" in note
    after = revisions_of(services, name)
    assert len(after) == 2
    assert before[0] not in after
    assert tally.failures == []
    status = services.cluster.get("sds", name)["status"]
    assert "canary" not in status
    assert [entry["number"] for entry in status["revisions"]] == [1, 2]


def test_a_revision_whose_jobs_fail_goes_back_with_its_figures_in_an_event(services: Services) -> None:
    name, broken = "fragile", break_workers(services, "fragile")
    start(services, fast(name))
    before = revisions_of(services, name)
    with under_load(services, name):
        services.apply(fast(name, worker__podTemplate=broken))
        services.wait_for(name, "Progressing", "False", "RolledBack", timeout_seconds=ROLLED_OUT_SECONDS)
        note = wait_for_event(services, name, "RolledBack")
        wait_until(lambda: revisions_of(services, name), lambda seen: seen == before, "as before", 90)
    assert "jobs fail more often by" in note
    assert "failed on the new revision, 0 of" in note


@pytest.mark.nightly
def test_a_slower_revision_is_held_where_it_is_to_hold_and_goes_back_when_it_may(services: Services) -> None:
    name = start(services, fast("patient", rollout__onFailure="Hold"))
    before = revisions_of(services, name)
    slow = {**ENGINE, "synthetic": {"millisecondsPerStep": 1, "millisecondsPerImage": 400}}
    with under_load(services, name):
        services.apply(fast(name, rollout__onFailure="Hold", worker__engine=slow))
        failed = services.wait_for(name, "Progressing", "False", "CanaryFailed", timeout_seconds=ROLLED_OUT_SECONDS)
        assert "jobs take longer by" in failed["message"]
        status = services.cluster.get("sds", name)["status"]["canary"]
        assert (status["phase"], status["step"]) == ("Held", 1)
        assert status["canary"]["p95Seconds"] > 1.5 * status["stable"]["p95Seconds"]
        assert before[0] in revisions_of(services, name)
    services.apply(fast(name, worker__engine=slow))
    services.wait_for(name, "Progressing", "False", "RolledBack")
    wait_until(lambda: revisions_of(services, name), lambda seen: seen == before, "as before", 90)


@pytest.mark.parametrize(
    ("rollout", "sentence"),
    [
        ({"canary": {"steps": [50, 10]}}, "canary.steps must rise"),
        ({"canary": {}, "surge": "Never"}, "a canary runs beside a worker of the stable revision"),
    ],
)
def test_what_can_be_no_canary_is_refused_with_a_sentence(
    services: Services, rollout: dict[str, Any], sentence: str
) -> None:
    service = tiny("impossible", replicas=1, scaling=None)
    service["spec"]["rollout"] = rollout
    assert sentence in services.refused(service)


def break_workers(services: Services, name: str) -> dict[str, Any]:
    """An overlay by which a worker's process takes jobs and fails at them."""
    fault = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": f"{name}-fault"}}
    config = {**fault, "data": {"sitecustomize.py": FAULT}}
    services.cluster.kubectl("apply", "-f", "-", stdin=json.dumps(config))
    return {
        "spec": {
            "containers": [
                {
                    "name": "server",
                    "env": [{"name": "PYTHONPATH", "value": "/fault"}],
                    "volumeMounts": [{"name": "fault", "mountPath": "/fault"}],
                }
            ],
            "volumes": [{"name": "fault", "configMap": {"name": f"{name}-fault"}}],
        }
    }
