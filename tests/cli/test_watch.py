"""``easel status --watch`` without a terminal: what changes, as it changes, until Ctrl-C."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import IO, Any

from tests.cli.fake_api_server import run_api_server

TIMEOUT_SECONDS = 180.0
SERVICE = "/apis/easel.dev/v1alpha1/namespaces/art/stablediffusionservices/sdxl"


def build_service(desired: int) -> dict[str, Any]:
    scaling = {"desiredReplicas": desired, "reason": f"{desired} pods: work waits"}
    return {"metadata": {"namespace": "art", "name": "sdxl"}, "spec": {}, "status": {"scaling": scaling}}


def test_what_changes_is_said_once(tmp_path: Path) -> None:
    with run_api_server({SERVICE: build_service(1)}, tmp_path) as fake:
        command = [sys.executable, "-m", "easel_cli", "status", "sdxl", "--watch", "--kubeconfig", str(fake.kubeconfig)]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "PYTHONUNBUFFERED": "1"}
        with subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout is not None
            assert "1 pods: work waits" in _read_until(process.stdout, "why")
            looked = len(fake.asked)
            give_up_at = time.monotonic() + TIMEOUT_SECONDS
            while len(fake.asked) < looked + 2:  # it looks again, and has nothing to say
                assert time.monotonic() < give_up_at, "it doesn't look again"
                time.sleep(0.05)
            fake.answers[SERVICE] = build_service(3)
            assert "3 pods: work waits" in _read_until(process.stdout, "why"), "what stayed the same wasn't said again"
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=TIMEOUT_SECONDS)
    assert process.returncode == 130
    assert errors == "easel: stopped\n"


def _read_until(stream: IO[str], word: str) -> str:
    return next(line for line in iter(stream.readline, "") if word in line)
