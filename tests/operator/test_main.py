"""The operator's loops together, against an API server in memory."""

import asyncio
import contextlib
import sys

import pytest
from easel_operator.config import OperatorConfig
from easel_operator.handlers.shared_state import SharedState
from easel_operator.main import Operator, main
from easel_operator.objects import NAMESPACES, SERVICES_OF_EASEL
from prometheus_client import REGISTRY

from tests.operator.fake_api import FakeApi
from tests.operator.objects import CAPABLE, OWNER, build_service
from tests.support.eventually import eventually

CONFIG = OperatorConfig.from_environment(
    {
        "EASEL_GATEWAY_IMAGE": "registry.example/easel-gateway:0.1.0",
        "EASEL_WORKER_IMAGE": "registry.example/easel-worker:0.1.0",
        "EASEL_REDIS_URL": "redis://redis.easel.svc:6379/0",
        "EASEL_OPERATOR_NAMESPACE": "easel",
        "EASEL_POD_NAME": "operator-a",
        "EASEL_WATCH_NAMESPACES": OWNER.namespace,
    }
)


def count_faults(where: str) -> float:
    return REGISTRY.get_sample_value("easel_operator_faults_total", {"where": where}) or 0


async def test_answers_that_nobody_foresaw_end_no_loop_and_afterwards_the_operator_does_its_work() -> None:
    api = FakeApi(lambda _method, path: KeyError(f"nobody thought of {path}"))
    service = api.store(SERVICES_OF_EASEL.path(OWNER.namespace, OWNER.name), build_service())
    api.store(NAMESPACES.path(None, OWNER.namespace), {"metadata": {"name": OWNER.namespace}})
    operator = Operator(CONFIG, api, SharedState(CAPABLE))
    loops = operator._loops()
    before = {name: count_faults(name) for name in loops}
    tasks = [asyncio.create_task(loop, name=name) for name, loop in loops.items()]
    # For the namespaces, for the caches, for something to look up, for the lead.
    waiting = {name for name in loops if name.startswith("watch of ")}
    waiting |= {"list of services", "reconciler", "scaling loop", "cleanup", "references", "services outside"}

    async def have_all_failed() -> bool:
        return all(count_faults(name) > before[name] for name in loops.keys() - waiting)

    try:
        await eventually(have_all_failed)
        assert [task.get_name() for task in tasks if task.done()] == []
        api.fault = lambda _method, _path: None

        async def is_reconciled() -> bool:
            return "status" in api.objects[SERVICES_OF_EASEL.path(OWNER.namespace, OWNER.name)]

        await eventually(is_reconciled, 30)
        assert service["metadata"]["uid"] == OWNER.uid
    finally:
        for task in tasks:
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(*tasks)
        await operator._metrics_server.close()
        await operator._scraper.close()
        await operator._keys.close()


@pytest.mark.parametrize(("word", "said"), [("--help", "farewell"), ("--version", "easel-operator ")])
def test_the_command_says_what_it_is(
    word: str, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without its environment, as somebody who looks at an image runs it."""
    monkeypatch.setattr(sys, "argv", ["easel-operator", word])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 0
    assert said in capsys.readouterr().out
