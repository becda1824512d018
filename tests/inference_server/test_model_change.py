"""A service whose model is changed and changed back, from outside: processes over one Redis, and what clients get."""

from contextlib import ExitStack
from io import BytesIO
from typing import Any

import httpx
import pytest
from easel_contract.server_config import EngineConfig, EngineKind, ModelConfig, ServerConfig, SyntheticConfig
from PIL import Image

from tests.inference_server.api.serving import wait_for
from tests.support.redis_server import RedisServer
from tests.support.server_process import ServerProcess

pytestmark = pytest.mark.redis

# With some time a step, its images name the model.
SYNTHETIC = EngineConfig(kind=EngineKind.SYNTHETIC, synthetic=SyntheticConfig(milliseconds_per_step=1))
FIRST, SECOND = (
    ServerConfig(model=ModelConfig(name=name, source=f"owner/{name}"), engine=SYNTHETIC) for name in ("first", "second")
)
BODY = {"prompt": "a cat", "seed": 7, "num_inference_steps": 4, "size": "64x64", "response_format": "url"}


class Service:
    """Starts processes over one Redis, and ends them all."""

    def __init__(self, redis: RedisServer, stack: ExitStack) -> None:
        self._environment: dict[str, Any] = {"EASEL_REDIS_URL": redis.url}
        self._stack = stack

    def start(self, role: str, config: ServerConfig) -> ServerProcess:
        process = ServerProcess("--role", role, config=config, **self._environment)
        return self._stack.enter_context(process).wait_until_ready()


def predict(gateway: ServerProcess) -> str:
    """Where the prediction is that was asked for."""
    given = {"prompt": "a cat", "seed": 7, "num_inference_steps": 4, "width": 64, "height": 64}
    answer = httpx.post(f"{gateway.url}/v1/predictions", json={"input": given}, timeout=30)
    assert answer.status_code == 201, answer.text
    return str(answer.json()["urls"]["get"])


def finished(url: str) -> dict[str, Any]:
    """The prediction at its end."""

    def look() -> dict[str, Any] | None:
        prediction: dict[str, Any] = httpx.get(url, timeout=10).json()
        return prediction if prediction["status"] in {"succeeded", "failed"} else None

    return wait_for(look, timeout_seconds=30) or {}


def model_in(url: str) -> str:
    """The model that an image says it is of."""
    parameters: str = Image.open(BytesIO(httpx.get(url, timeout=10).content)).info["parameters"]
    return parameters.partition("Model: ")[2].partition(",")[0]


def ask(gateway: ServerProcess) -> tuple[str, str]:
    """Whether the answer came from the cache, and the model of its image."""
    answer = httpx.post(f"{gateway.url}/v1/images/generations", json=BODY, timeout=30)
    assert answer.status_code == 200, answer.text
    return answer.headers["X-Cache"], model_in(answer.json()["data"][0]["url"])


def test_nobody_is_ever_served_another_models_image() -> None:
    with RedisServer() as redis, ExitStack() as stack:
        service = Service(redis, stack)
        gateway = service.start("gateway", FIRST)
        waiting = predict(gateway)  # while no worker runs

        other_gateway, other_worker = service.start("gateway", SECOND), service.start("worker", SECOND)
        other = finished(predict(other_gateway))
        assert (other["model"], model_in(other["output"][0])) == ("second", "second")
        assert httpx.get(waiting, timeout=10).json()["status"] == "starting", "the other model's worker leaves it alone"
        assert ask(other_gateway) == ("hit", "second")
        other_worker.terminate()
        other_worker.wait()

        service.start("worker", FIRST)
        own = finished(waiting)
        assert (own["model"], model_in(own["output"][0])) == ("first", "first")
        assert ask(gateway) == ("hit", "first")
        assert ask(other_gateway) == ("hit", "second")
        seen_by_either = [httpx.get(other["urls"]["get"].replace(other_gateway.url, gateway.url), timeout=10).json()]
        assert seen_by_either[0]["model"] == "second", "a prediction keeps saying what it was made with"


def test_a_running_gateway_takes_over_another_model_and_jobs_keep_theirs() -> None:
    with RedisServer() as redis, ExitStack() as stack:
        service = Service(redis, stack)
        gateway = service.start("gateway", FIRST)
        waiting = predict(gateway)  # while no worker runs
        gateway.write_config(SECOND)
        wait_for(lambda: httpx.get(f"{gateway.url}/v1/models", timeout=10).json()["data"][0]["id"] == "second")

        service.start("worker", SECOND)
        assert ask(gateway) == ("miss", "second")
        assert httpx.get(f"{gateway.url}/playground/config", timeout=10).json()["model"] == "second"
        refused = httpx.post(f"{gateway.url}/v1/images/generations", json={**BODY, "model": "first"}, timeout=10)
        assert refused.status_code == 404

        service.start("worker", FIRST)  # one of the workers that are being replaced
        first = finished(waiting)
        assert (first["model"], model_in(first["output"][0])) == ("first", "first")
