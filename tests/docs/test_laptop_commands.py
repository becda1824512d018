"""What pages do on a machine of one's own: programs of the repository as processes on loopback ports."""

import json
import os
import re
import shlex
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
from easel_contract.server_config import EngineConfig, ModelConfig, ServerConfig

from tests.docs.blocks import Block, Setting, group_by_page
from tests.support.redis_server import RedisServer
from tests.support.server_process import ServerProcess

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = ".venv/bin/easel-server"
SERVER = re.compile(rf"^(?=(?:[A-Z_]+=\S+ )?{re.escape(PROGRAM)} )", re.MULTILINE)
COMMAND_SECONDS = 600  # a machine that is busy with other tests
COMMANDS = group_by_page(Setting.LAPTOP)
SERVICE = "examples/sdxl.yaml"
TRACE = "arrival_seconds,work_seconds\n" + "".join(f"{10 * number},4\n" for number in range(60))


class Laptop:
    """A folder that looks like a clone after ``make setup``, with the files that pages call their readers'."""

    def __init__(self, folder: Path, redis: RedisServer) -> None:
        self._folder = folder
        for name in ("scripts", "examples"):
            (folder / name).symlink_to(ROOT / name)
        (folder / ".venv").symlink_to(sys.prefix)
        model = ModelConfig(name="any", source="/any")
        synthetic = EngineConfig(kind="Synthetic")
        (folder / "gateway.json").write_text(json.dumps(ServerConfig(model=model).to_wire()))
        (folder / "worker.json").write_text(json.dumps(ServerConfig(model=model, engine=synthetic).to_wire()))
        (folder / "requests.csv").write_text(TRACE)
        (folder / "service.yaml").write_text((ROOT / SERVICE).read_text())
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("EASEL_")}
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        self._environment = {**inherited, "HOME": str(folder), "PATH": path}
        self._redis = f"127.0.0.1:{redis.port}"

    def run(self, block: Block) -> None:
        """The server of a line serves the lines after it, until the next server's."""
        text = block.text.replace("\\\n", " ").replace("localhost:6379", self._redis)
        before, *parts = SERVER.split(text)
        self._call(before, block)
        for part in parts:
            command, _, after = part.partition("\n")
            words = shlex.split(command, comments=True)
            start = words.index(PROGRAM)
            variables = dict(word.split("=", 1) for word in words[:start])
            with ServerProcess(*words[start + 1 :], config=None, port=0, **variables) as server:
                server.wait_until_listening()
                if "--metrics-port" not in words:  # else readiness is asked for there
                    server.wait_for(partial(_is_ready, server), "readiness", COMMAND_SECONDS)
                self._call(
                    after.replace("http://localhost:8080", server.url).replace("localhost:8080", server.url), block
                )

    def _call(self, script: str, block: Block) -> None:
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", script],
            cwd=self._folder,
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=COMMAND_SECONDS,
            check=False,
        )
        assert done.returncode == 0, f"{block.place}\n{script}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
        assert '"error"' not in done.stdout, f"{block.place}\n{script}\n{done.stdout[-2000:]}"


def _is_ready(server: ServerProcess) -> bool:
    return server.ready()[0] == 200


@pytest.mark.parametrize("page", COMMANDS)
def test_the_commands_of_a_page_do_what_they_say(
    page: str, redis_server: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # of the servers
    laptop = Laptop(tmp_path, redis_server)
    for block in COMMANDS[page]:
        laptop.run(block)
