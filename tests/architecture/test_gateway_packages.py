"""A gateway runs on what requirements/gateway.txt has, which is what its image has: no torch."""

import subprocess
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

from tests.architecture.test_layers import TORCH_STACK

ROOT = Path(__file__).resolve().parents[2]
OURS = {"easel-serving"}

# What a gateway imports, some of it at the first request that needs it; and the engine that has no model.
IMPORT = """
import sys
refused = set(sys.argv[1].split(","))
class Refusing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in refused:
            raise ModuleNotFoundError(f"no module {name} in the gateway's image")
sys.meta_path.insert(0, Refusing())
import easel_server.main
import easel_server.engine.synthetic_engine
import easel_server.gateway.preprocessing.work
import easel_server.stores.cache.memcached
import easel_server.stores.images.s3
import easel_server.stores.jobs.redis
import easel_server.telemetry.otlp
"""


def read_locked(name: str) -> set[str]:
    """Names of the packages in a lock."""
    lines = (ROOT / f"requirements/{name}.txt").read_text().splitlines()
    return {line.partition("==")[0] for line in lines if "==" in line}


def test_a_gateway_imports_nothing_that_its_lock_lacks() -> None:
    locked = read_locked("gateway") | OURS
    refused = [
        module
        for module, packages in packages_distributions().items()
        if not {package.lower().replace("_", "-").replace(".", "-") for package in packages} & locked
    ]
    assert set(refused) >= TORCH_STACK, "this test would hold for nothing"
    done = subprocess.run(
        [sys.executable, "-c", IMPORT, ",".join(refused)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_the_gateways_lock_is_a_part_of_the_servers() -> None:
    versions = {
        name: {line.split()[0] for line in (ROOT / f"requirements/{name}.txt").read_text().splitlines() if "==" in line}
        for name in ("gateway", "server")
    }
    assert versions["gateway"] < versions["server"]
    assert read_locked("gateway") & {*TORCH_STACK, "nvidia-cublas", "triton", "torchvision"} == set()
