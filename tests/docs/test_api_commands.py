"""What pages do with curl, carried out as it stands against a real server with a tiny model."""

import base64
import http.server
import json
import os
import re
import shlex
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from io import BytesIO
from operator import attrgetter
from pathlib import Path
from typing import Any

import httpx2
import pytest
from easel_contract.gateway_config import DefaultsConfig, GatewayConfig, InputsConfig
from easel_contract.server_config import ModelConfig, ServerConfig, WorkerConfig
from easel_server.generation.encoding import read_recipe_text
from PIL import Image

from tests.docs.blocks import Block, Setting, list_blocks, read_blocks
from tests.support.client_images import encoded, halves
from tests.support.server_process import ServerProcess

pytestmark = pytest.mark.torch

ROOT = Path(__file__).resolve().parents[2]
ADD_ONS = "docs/developers/add-ons.md"
MODELS = "/tmp/models"  # noqa: S108  # what the documents call it
ELSEWHERE = "https://images.example.com"
TIMEOUT_SECONDS = 120
START_TIMEOUT_SECONDS = 600.0
START = "--adapter ink="  # in the block that the server below is started by
# What a page takes for granted in its Python.
GIVEN = {
    "docs/platform/simulate.md": """
import yaml
from easel_contract.resource import StableDiffusionServiceSpec
spec = StableDiffusionServiceSpec.model_validate(yaml.safe_load(open("examples/sdxl.yaml"))["spec"])
"""
}
BLOCKS = [block for block in list_blocks() if block.setting == Setting.API]


def list_commands() -> Iterator[Any]:
    """Each block that calls the API, without the lines before it that need more than a shell."""
    for block in BLOCKS:
        if START not in block.text:
            kept = [each for each in block.text.splitlines() if not each.startswith((".venv/", "exiftool "))]
            yield pytest.param("\n".join(kept), id=block.place)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What pages call /tmp/models, made by their own command."""
    directory = tmp_path_factory.mktemp("models")
    command = f".venv/bin/python scripts/make_tiny_models.py {MODELS}"
    assert any(command in block.text.splitlines() for block in BLOCKS)
    subprocess.run([sys.executable, "scripts/make_tiny_models.py", directory], cwd=ROOT, check=True)
    return directory


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where other people's images are."""
    directory = tmp_path_factory.mktemp("elsewhere")
    (directory / "cat.png").write_bytes(encoded(halves((64, 64))))

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the base class's name
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(directory))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def server(models: Path) -> Iterator[ServerProcess]:
    """Started as docs/developers/add-ons.md says, but for port and folder; it may fetch, and has an adapter more."""
    [block] = [block for block in BLOCKS if START in block.text]
    command = block.text.replace("\\\n", " ").splitlines()[1].replace(MODELS, str(models))
    program, *arguments = shlex.split(command)
    assert program == ".venv/bin/easel-server"
    inputs = InputsConfig(allowed_hosts=("127.0.0.1",), allowed_networks=("127.0.0.0/8",))
    gateway = GatewayConfig(inputs=inputs, defaults=DefaultsConfig(steps=2))  # which no command names
    worker = WorkerConfig(max_batch_images=1)  # nothing is measured
    config = ServerConfig(model=ModelConfig(name="any", source="/any"), gateway=gateway, worker=worker)
    with ServerProcess(*arguments, "--adapter", "gone=/nowhere/gone.safetensors", config=config) as server:
        server.wait_until_listening()
        server.wait_for(lambda: server.ready()[0] == 200, "readiness", START_TIMEOUT_SECONDS)
        yield server


@pytest.mark.parametrize("block", list(list_commands()))
def test_a_documented_command_is_answered(
    block: str, server: ServerProcess, models: Path, elsewhere: str, tmp_path: Path
) -> None:
    (tmp_path / "cat.png").write_bytes(encoded(halves((64, 64))))
    (tmp_path / "recipe.json").write_text(json.dumps({"easel": 1, "parameters": {"prompt": "a cat", "seed": 7}}))
    # The document's curl with what shows an error as one.
    (tmp_path / ".curlrc").write_text(
        f"silent\nshow-error\nfail-with-body\nmax-time = {TIMEOUT_SECONDS}\nwrite-out = \\n"
    )
    script = (
        block.replace("http://localhost:8080", "$URL").replace("localhost:8080", "$URL").replace(MODELS, str(models))
    )
    script = script.replace("export URL=$URL\n", "").replace(ELSEWHERE, elsewhere)
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=tmp_path,
        env={"PATH": os.environ["PATH"], "URL": server.url, "CURL_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=5 * TIMEOUT_SECONDS,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout[:2000]}\n{done.stderr}"
    answers = [json.loads(line) for line in done.stdout.splitlines() if line.strip()]
    assert len(answers) == len(re.findall(r"^curl ", script, re.MULTILINE))
    assert any(is_successful(each) for each in answers)
    assert all(not each.get("error") for each in answers)


@pytest.mark.parametrize(
    "block", [block for block in list_blocks() if block.setting == Setting.PYTHON], ids=attrgetter("place")
)
def test_documented_python_runs(block: Block, server: ServerProcess) -> None:
    words = [sys.executable, "-c", GIVEN.get(block.page, "") + block.text.replace("http://localhost:8080", server.url)]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=TIMEOUT_SECONDS, check=False)
    assert done.returncode == 0, f"{block.place}\n{done.stderr}"


def is_successful(answer: dict[str, Any]) -> bool:
    """Whether it has images, by the API that was called."""
    return bool(list_images(answer)) or answer.get("status") == "succeeded"


def list_images(answer: dict[str, Any]) -> list[bytes]:
    found = [each["b64_json"] for each in answer.get("data", []) if "b64_json" in each] + answer.get("images", [])
    return [base64.b64decode(each) for each in found]


def test_what_the_page_of_add_ons_asks_for_is_in_the_images(server: ServerProcess, tmp_path: Path) -> None:
    """Each of the first commands of a section does what its section says, by the image's own recipe."""
    (tmp_path / "cat.png").write_bytes(encoded(halves((64, 64))))
    blocks = dict(list_sections())
    adapters = run_first(blocks["A LoRA"], server, tmp_path)
    assert adapters["parameters"]["adapters"][0]["name"] == "ink"
    assert adapters["parameters"]["adapters"][0]["weight"] == 0.8
    controls = run_first(blocks["A ControlNet"], server, tmp_path)
    assert controls["parameters"]["controls"][0]["name"] == "canny"
    hires = run_first(blocks["Larger images"], server, tmp_path)
    assert hires["parameters"]["hires"]["upscaler"] == "sharp"


def test_an_adapter_of_the_command_line_that_isnt_there_is_on_the_metrics_page(server: ServerProcess) -> None:
    page = httpx2.get(f"{server.url}/metrics?labels=none", timeout=10).text
    [line] = [each for each in page.splitlines() if each.startswith("easel_add_on_unavailable{")]
    assert 'name="gone"' in line
    assert "/nowhere/gone.safetensors doesn't exist" in line


def list_sections() -> Iterator[tuple[str, str]]:
    for section in (ROOT / ADD_ONS).read_text().split("\n## ")[1:]:
        if (first := next(read_blocks(ADD_ONS, section), None)) is not None:
            yield section.partition("\n")[0], first.text


def run_first(block: str, server: ServerProcess, directory: Path) -> dict[str, Any]:
    """The recipe of the image that the block's first command answers with."""
    first = re.split(r"\n(?=curl )", block)
    script = "\n".join(first[: 1 if first[0].startswith("curl ") else 2])
    environment = {"PATH": os.environ["PATH"], "URL": server.url}
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script.replace("curl ", "curl -s ")],
        cwd=directory,
        env=environment,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_SECONDS,
        check=True,
    )
    [image] = list_images(json.loads(done.stdout))
    text = read_recipe_text(Image.open(BytesIO(image)))
    assert text
    recipe: dict[str, Any] = json.loads(text)
    return recipe
