"""The official npm clients of OpenAI, Replicate and Vercel's AI SDK: against a server with keys that generates labelled
images, and with what requests may ask for beside the model against a real one without.

Each check is a function of a script in ``npm/``, run in a process of its own; its name says what holds.
"""

import base64
import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from easel_contract.gateway_config import GatewayConfig, WebhookConfig
from easel_contract.server_config import EngineConfig, EngineKind, ModelConfig, ServerConfig, SyntheticConfig

from tests.clients.conftest import CONTROL_NET, LORA, UPSCALER
from tests.inference_server.api.serving import RunningGateway
from tests.support.server_process import ServerProcess

SCRIPTS = Path(__file__).parent / "npm"
CLIENTS = ("openai", "replicate", "ai_sdk")
DRIVERS = tuple(f"{client}_add_ons" for client in CLIENTS)
CHECK = re.compile(r"^export async function (\w+)\(", re.MULTILINE)
CHECK_TIMEOUT_SECONDS = 60
MODEL = "tiny/sd15"
KEY = "alices-secret-key"
SECRET = "whsec_" + base64.b64encode(b"a signing secret of 32 bytes....").decode()


def find_checks(clients: Sequence[str]) -> list[tuple[str, str]]:
    return [(client, check) for client in clients for check in CHECK.findall((SCRIPTS / f"{client}.mjs").read_text())]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    keys = tmp_path_factory.mktemp("keys")
    (keys / "alice").write_text(KEY)
    config = ServerConfig(
        model=ModelConfig(name=MODEL, source="/nowhere"),
        engine=EngineConfig(
            kind=EngineKind.SYNTHETIC, synthetic=SyntheticConfig(milliseconds_per_step=50, milliseconds_per_image=5)
        ),
        gateway=GatewayConfig(api_keys_directory=str(keys), webhook=WebhookConfig(allowed_networks=("127.0.0.0/8",))),
    )
    with ServerProcess(config=config, EASEL_WEBHOOK_SECRET=SECRET) as server:
        yield server.wait_until_ready()


@pytest.mark.parametrize(("client", "check"), find_checks(CLIENTS))
def test_the_official_client_works(server: ServerProcess, client: str, check: str) -> None:
    run_check(client, check, SERVICE_URL=server.url, API_KEY=KEY, WEBHOOK_SECRET=SECRET)


@pytest.mark.torch
@pytest.mark.parametrize(("client", "check"), find_checks(DRIVERS))
def test_the_official_client_drives_add_ons(service: RunningGateway, client: str, check: str) -> None:
    names = {"LORA": LORA, "CONTROL_NET": CONTROL_NET, "UPSCALER": UPSCALER}
    run_check(client, check, SERVICE_URL=service.url, API_KEY="any", **names)


def run_check(client: str, check: str, **environment: str) -> None:
    """Raises AssertionError with what the check threw."""
    node = shutil.which("node")
    assert node is not None, "node is missing: `make setup` brings it"
    assert (SCRIPTS / "node_modules").is_dir(), "the npm packages are missing: `make setup` brings them"
    done = subprocess.run(
        [node, "run.mjs", client, check],
        cwd=SCRIPTS,
        env={"PATH": os.environ["PATH"], "MODEL": MODEL, **environment},
        capture_output=True,
        text=True,
        timeout=CHECK_TIMEOUT_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr + done.stdout
