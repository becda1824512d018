"""``python -m benchmarks.gpu [MODEL...]``: into benchmarks/results/gpu-DEVICE.json and as a table.

Each model is measured by a process of its own, within its share of the time, and each part is written as soon as it is
there: what runs out of time or memory loses no other figure.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from benchmarks.record import build_provenance
from benchmarks.server.processes import ROOT

RESULTS: Final = ROOT / "benchmarks/results"
NAMES: Final = ("sd15", "sdxl", "sd35-medium", "flux-dev")
SECONDS: Final = 570.0  # of all: fits into a command of ten minutes
# How much of the time that is left a model may take, so that those behind it get theirs.
SHARES: Final = {"sd15": 0.3, "sdxl": 0.45, "sd35-medium": 0.5, "flux-dev": 1.0}
# MLPerf Inference 5.1 (datacenter, closed, offline), Stable Diffusion XL, 1024x1024, 20 steps, by GPU.
ANCHORS: Final = {"H100": 2.26, "H200": 2.40}
ANCHORED: Final = "sdxl"


def main() -> int:
    """Measure, write, print; 1 if a model has no figures at all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help=f"of {', '.join(NAMES)}; default: all")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="for all of them")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder for the result file")
    parser.add_argument("--tiny", action="store_true", help="tiny models of the same families, on the CPU too")
    parser.add_argument("--compile-backend", default="inductor", help="of torch.compile")
    parser.add_argument("--into", type=Path, help=argparse.SUPPRESS)  # in the process of a model
    arguments = parser.parse_args()
    if unknown := set(arguments.names) - set(NAMES):
        parser.error(f"no model is called {', '.join(sorted(unknown))}; there are {', '.join(NAMES)}")
    missing = [name for name in ("torch", "diffusers", "transformers", "greenlet", "pydantic") if not find_spec(name)]
    if missing:
        parser.error(
            f"missing here: {', '.join(missing)}; `python -m benchmarks.gpu.packages` on a machine with internet"
        )
    if arguments.into is not None:
        measure_here(arguments.names[0], arguments.into, tiny=arguments.tiny, backend=arguments.compile_backend)
        return 0
    return measure_all(arguments)


def measure_all(arguments: argparse.Namespace) -> int:
    """Each model in a process of its own."""
    import torch  # noqa: PLC0415  # slow, and not needed to say what is missing

    has_gpu = torch.cuda.is_available()
    device = torch.cuda.get_device_name(0) if has_gpu else "CPU"
    if not has_gpu and not arguments.tiny:
        sys.stderr.write("torch sees no GPU here; --tiny runs the same on the CPU with tiny models\n")
        return 1
    file = arguments.results / f"gpu-{re.sub(r'[^A-Za-z0-9]+', '-', device)}{'-tiny' if arguments.tiny else ''}.json"
    give_up_at = time.monotonic() + arguments.seconds
    results: dict[str, Any] = {}
    for name in arguments.names or NAMES:
        sys.stderr.write(f"measuring {name}\n")
        share = SHARES[name] if not arguments.names else 1.0
        results[name] = measure_apart(name, arguments, (give_up_at - time.monotonic()) * share)
        write(file, device, results)
    sys.stdout.write("".join(f"{line}\n" for line in build_table(device, results)))
    return int(not all("stock" in figures for figures in results.values()))


def measure_apart(name: str, arguments: argparse.Namespace, limit_seconds: float) -> dict[str, Any]:
    """What there was until it ended, or had to."""
    with tempfile.TemporaryDirectory(prefix="easel-bench-") as directory:
        into = Path(directory) / "figures"
        command = [sys.executable, "-m", "benchmarks.gpu", name, "--into", str(into)]
        command += ["--compile-backend", arguments.compile_backend, *(["--tiny"] if arguments.tiny else [])]
        ended = "whole"
        try:
            code = subprocess.run(command, cwd=ROOT, check=False, timeout=max(limit_seconds, 1)).returncode
            ended = f"ended with code {code}" if code else ended
        except subprocess.TimeoutExpired:
            ended = f"its {limit_seconds:.0f} s were over"
        lines = into.read_text().splitlines() if into.exists() else []
        figures: dict[str, Any] = dict(json.loads(line) for line in lines)
        return {**figures, "ended": ended}


def measure_here(name: str, into: Path, *, tiny: bool, backend: str) -> None:
    """Into lines of a file, a part each."""
    from easel_server.engine.loading import prepare_libraries  # noqa: PLC0415

    prepare_libraries()
    warnings.filterwarnings("ignore")  # libraries' own
    import torch  # noqa: PLC0415

    from benchmarks.gpu.measure import Bench  # noqa: PLC0415
    from benchmarks.gpu.models import MODELS, TINY, build_on  # noqa: PLC0415
    from benchmarks.gpu.start import measure_start  # noqa: PLC0415

    has_gpu = torch.cuda.is_available()
    device = torch.device("cuda", 0) if has_gpu else torch.device("cpu")
    dtype = torch.bfloat16 if has_gpu else torch.float32
    model = (TINY if tiny else MODELS)[name]

    def tell(part: str, figures: Mapping[str, Any]) -> None:
        with into.open("a") as file:
            file.write(json.dumps([part, figures]) + "\n")

    bench = Bench(model, device, dtype, compile_backend=backend)
    bench.run(tell)
    if name == "sd15":
        tell(
            "start",
            measure_start(
                lambda directory: build_on(model, torch.device("cpu"), dtype).save_pretrained(directory),
                model.side_pixels,
            ),
        )


def write(file: Path, device: str, results: Mapping[str, Any]) -> None:
    """Models that weren't measured keep their last figures."""
    import torch  # noqa: PLC0415

    kept = json.loads(file.read_text()) if file.exists() else {}
    versions = {"torch": torch.__version__, "cuda": torch.version.cuda}
    for name, figures in results.items():
        kept[name] = {**figures, "measured": {"device": device, **versions, **build_provenance()}}
    file.write_text(json.dumps(kept, indent=2) + "\n")


def build_table(device: str, results: Mapping[str, Any]) -> Iterator[str]:
    """A line for each figure, with the device's name above and the anchor beside."""
    yield f"{device}"
    for name, figures in results.items():
        for part, values in figures.items():
            yield from _build_lines(f"{name}.{part}", values)
    if ANCHORED in results:
        for gpu, images_per_second in ANCHORS.items():
            yield f"{'MLPerf 5.1, Stable Diffusion XL, offline, one ' + gpu:<70} {images_per_second:>10} images/s"


def _build_lines(name: str, value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _build_lines(f"{name}.{key}", inner)
        return
    yield f"{name:<70} {value!s:>10}"


if __name__ == "__main__":
    sys.exit(main())
