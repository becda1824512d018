"""``easel generate`` through a real gateway: files, progress, refusals, Ctrl-C."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import httpx2
import pytest
from easel_cli.decide.usage_report import UsageRow, parse_usage
from easel_contract.gateway_config import GatewayConfig
from easel_contract.server_config import EngineConfig, EngineKind, ModelConfig, ServerConfig, SyntheticConfig

from tests.cli.run import Done, run_here
from tests.support.redis_server import find_free_port
from tests.support.server_process import ServerProcess

KEY: Final = "esl_live_of_this_test"
PNG: Final = b"\x89PNG"
TIMEOUT_SECONDS: Final = 180.0
SMALL: Final = ("--size", "64x64", "--steps", "3")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    keys = tmp_path_factory.mktemp("keys")
    (keys / "acme").write_text(KEY)
    config = ServerConfig(
        model=ModelConfig(name="any", source="any"),
        # Of a megapixel: small images take no time, a large one long enough to be stopped.
        engine=EngineConfig(kind=EngineKind.SYNTHETIC, synthetic=SyntheticConfig(milliseconds_per_step=1000)),
        gateway=GatewayConfig(api_keys_directory=str(keys)),
    )
    process = ServerProcess("--metrics-port", str(find_free_port()), config=config).start()
    try:
        process.wait_until_listening()
        ready = f"{find_private_url(process)}/readyz"
        process.wait_for(lambda: httpx2.get(ready, timeout=60).status_code == 200, "readiness")
        yield process
    finally:
        process.process.kill()
        process.process.wait()


def find_private_url(server: ServerProcess) -> str:
    """Of its metrics and probes."""
    port = next(line["metrics_port"] for line in server.log if line["message"] == "listening")
    return f"http://127.0.0.1:{port}"


@pytest.fixture
def generate(
    server: ServerProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EASEL_API_KEY", KEY)

    def run(*arguments: str) -> Done:
        return run_here(capsys, "generate", "a red fox", "--url", server.url, *arguments)

    return run


def test_an_image_is_saved_and_its_file_named(generate, tmp_path: Path) -> None:
    done = generate(*SMALL)
    assert done.status == 0, done.err
    (file,) = tmp_path.iterdir()
    assert done.out == f"{file.name}\n"
    assert file.name.startswith("easel-")
    assert file.read_bytes().startswith(PNG)
    assert done.err.splitlines()[-1] == "succeeded"


def test_several_images_are_numbered_in_the_folder_that_is_named(generate, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    done = generate(*SMALL, "--n", "2", "--output", "out")
    assert [Path(line).name.rpartition("-")[2] for line in done.out.splitlines()] == ["1.png", "2.png"]
    assert all(file.read_bytes().startswith(PNG) for file in (tmp_path / "out").iterdir())


def test_a_seed_gives_the_image_again(generate, tmp_path: Path) -> None:
    for name in ("first.png", "again.png"):
        assert generate(*SMALL, "--seed", "7", "-o", name).status == 0
    assert (tmp_path / "first.png").read_bytes() == (tmp_path / "again.png").read_bytes()


def test_json_has_what_was_asked_for_and_what_came_of_it(generate) -> None:
    said = json.loads(generate(*SMALL, "--seed", "7", "--negative-prompt", "snow", "--json").out)
    assert said["input"]["seed"] == 7
    assert said["input"]["negative_prompt"] == "snow"
    assert (said["input"]["width"], said["input"]["num_inference_steps"]) == (64, 3)
    assert Path(said["files"][0]).exists()


def test_what_the_service_refuses_is_said_in_its_words(generate) -> None:
    done = generate("--size", "8192x64")
    assert done.status == 1
    assert done.err.startswith("easel: the service refused (422): input.width: is 8192 pixels, allowed is")


def test_a_key_that_is_not_known_is_said(generate, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EASEL_API_KEY", "another-key")
    assert "refused (401): the API key is not known" in generate(*SMALL).err


def test_a_file_that_can_not_be_written_names_the_job(generate) -> None:
    done = generate(*SMALL, "-o", "no/such/folder/fox.png")
    assert done.status == 2
    assert "can't write no/such/folder/fox.png: No such file or directory; job " in done.err


@pytest.mark.parametrize("url", ["http://127.0.0.1:9", "fox"])
def test_an_address_without_a_service_is_said(capsys: pytest.CaptureFixture[str], url: str) -> None:
    done = run_here(capsys, "generate", "a red fox", "--url", url)
    assert done.status == 1
    assert f"no answer from {url}: " in done.err


def test_what_a_gateway_says_of_usage_is_read(generate, server: ServerProcess) -> None:
    """By what ``easel usage`` reads through the API server's proxy."""
    assert generate(*SMALL, "--n", "2").status == 0

    def read() -> list[UsageRow]:
        return parse_usage(httpx2.get(f"{find_private_url(server)}/usage", timeout=60).json())

    (row,) = server.wait_for(read, "usage")
    assert (row.customer, row.cost) == ("acme", None)
    assert row.images >= 2
    assert row.gpu_seconds > 0


def test_ctrl_c_cancels_the_job(server: ServerProcess, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "easel_cli", "generate", "a slow fox", "--url", server.url, "--steps", "100"]
    environment = {**os.environ, "EASEL_API_KEY": KEY, "PYTHONPATH": os.pathsep.join(sys.path)}
    with httpx2.Client(base_url=server.url, headers={"Authorization": f"Bearer {KEY}"}, timeout=60) as client:

        def find_job() -> dict[str, object] | None:
            found = client.get("/v1/predictions").json()["results"]
            return next((job for job in found if job["input"]["prompt"] == "a slow fox"), None)

        with subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True) as process:
            assert process.stderr is not None
            said = process.stderr.readline()  # from then on it knows which job to cancel
            job = server.wait_for(lambda: (job := find_job()) and job["status"] == "processing" and job, "a job")
            assert said == f"job {job['id']}\n"
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=TIMEOUT_SECONDS)
        assert process.returncode == 130, errors
        assert errors.splitlines()[-1] == "easel: stopped"
        server.wait_for(lambda: (job := find_job()) and job["status"] == "canceled", "its end")
    assert list(tmp_path.iterdir()) == []
