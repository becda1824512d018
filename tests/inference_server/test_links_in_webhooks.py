"""A webhook's links open for its receiver, who has no API key: absolute, and signed. A real process, without Redis."""

import json
from pathlib import Path

import httpx2
from easel_contract.gateway_config import GatewayConfig, WebhookConfig
from easel_contract.server_config import ModelConfig, ServerConfig

from tests.inference_server.api.serving import wait_for
from tests.support.server_process import ServerProcess
from tests.support.webhook_receiver import WebhookReceiver

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


def test_the_links_in_a_webhook_lead_to_the_host_that_was_called_and_open(tmp_path: Path) -> None:
    (tmp_path / "alice").write_text("alices-key")
    gateway = GatewayConfig(api_keys_directory=str(tmp_path), webhook=WebhookConfig(allowed_networks=("127.0.0.0/8",)))
    config = ServerConfig(model=ModelConfig(name="any", source="any"), gateway=gateway)
    process = ServerProcess("--engine", "synthetic", config=config, EASEL_WEBHOOK_SECRET=SECRET)
    with WebhookReceiver() as receiver, process as server:
        server.wait_until_ready()
        body = {"input": {"prompt": "a cat", "num_inference_steps": 1}, "webhook": receiver.url}
        headers = {"Authorization": "Bearer alices-key"}
        assert httpx2.post(f"{server.url}/v1/predictions", json=body, headers=headers).status_code == 201
        wait_for(lambda: len(receiver.received) == 2, timeout_seconds=30)
        bodies = [json.loads(body) for _, body in receiver.received]
        output = next(body["output"][0] for body in bodies if body["status"] == "succeeded")
        assert output.startswith(f"{server.url}/v1/predictions/")
        assert httpx2.get(output).content.startswith(b"\x89PNG")
        assert httpx2.get(output.partition("?")[0]).status_code == 401
        assert "done" in httpx2.get(bodies[0]["urls"]["stream"]).text
