"""From a process's start to the first image with a model's files on disk: a bare script, and the engine's own loading.

``python -m benchmarks.gpu.start script|engine DIRECTORY SIDE`` is the process that is measured.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from benchmarks.server.processes import ROOT

TIMEOUT_SECONDS: Final = 120.0


def measure_start(write: Any, side_pixels: int) -> Mapping[str, Any]:
    """``write`` puts a model into a directory; its files are in the page cache then, as on a node that has them."""
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="easel-bench-") as directory:
        write(Path(directory))
        figures["files_mib"] = round(sum(file.stat().st_size for file in Path(directory).rglob("*")) / 2**20)
        for kind in ("script", "engine"):
            began = time.perf_counter()
            done = subprocess.run(
                [sys.executable, "-m", "benchmarks.gpu.start", kind, directory, str(side_pixels)],
                cwd=ROOT,
                env=dict(os.environ),
                capture_output=True,
                text=True,
                timeout=TIMEOUT_SECONDS,
                check=False,
            )
            if done.returncode != 0:
                figures[kind] = {"failed": done.stderr.strip().rpartition("\n")[2][:300]}
                continue
            figures[kind] = {"seconds": round(time.perf_counter() - began, 2)}
    return figures


def run_script(directory: str, side_pixels: int) -> None:
    """What a user would write."""
    import torch  # noqa: PLC0415  # importing is what is measured
    from diffusers import DiffusionPipeline  # noqa: PLC0415

    has_gpu = torch.cuda.is_available()
    pipeline: Any = DiffusionPipeline.from_pretrained(  # type: ignore[no-untyped-call]
        directory, torch_dtype=torch.bfloat16 if has_gpu else torch.float32
    )
    pipeline.to("cuda" if has_gpu else "cpu")
    pipeline("a cat", num_inference_steps=1, width=side_pixels, height=side_pixels)


def run_engine(directory: str) -> None:
    """What a worker does, up to where it is ready: it has generated an image of one step."""
    from easel_contract.server_config import ModelConfig  # noqa: PLC0415
    from easel_server.engine.loading import load_engine  # noqa: PLC0415

    load_engine(ModelConfig(name="bench", source=directory), hub_token=None)


if __name__ == "__main__":
    if sys.argv[1] == "script":
        run_script(sys.argv[2], int(sys.argv[3]))
    else:
        run_engine(sys.argv[2])
