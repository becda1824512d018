"""Weights are read while libraries are imported: those that will be loaded, without torch, within bounds."""

import json
import subprocess
import sys
from pathlib import Path

from easel_contract.server_config import DType
from easel_server.engine.model_files import read_ahead as module
from easel_server.engine.model_files.memory import read_free_host_bytes
from easel_server.engine.model_files.read_ahead import ReadAhead, read_ahead

INDEX = {"_class_name": "StableDiffusionPipeline", "unet": ["diffusers", "UNet2DConditionModel"]}
WIDE_BYTES = 20_000_000
NARROW_BYTES = 10_000_000


def write_model(root: Path) -> Path:
    unet = root / "unet"
    unet.mkdir()
    (root / "model_index.json").write_text(json.dumps(INDEX))
    (unet / "config.json").write_text("{}")
    (unet / "diffusion_pytorch_model.safetensors").write_bytes(bytes(WIDE_BYTES))
    (unet / "diffusion_pytorch_model.fp16.safetensors").write_bytes(bytes(NARROW_BYTES))
    (unet / "diffusion_pytorch_model.bin").write_bytes(bytes(WIDE_BYTES))
    return root


def read(source: Path, *devices: Path, dtype: DType = DType.AUTO) -> int:
    reading = read_ahead(source, dtype=dtype, devices=devices)
    assert reading is not None
    assert reading.wait(timeout_seconds=60)
    return reading.read_bytes


def test_what_will_be_loaded_is_read_and_nothing_else(tmp_path: Path) -> None:
    model = write_model(tmp_path)
    assert read(model) == WIDE_BYTES
    assert read(model, tmp_path) == NARROW_BYTES  # a file that exists stands for an accelerator
    assert read(model, tmp_path, dtype=DType.FLOAT32) == WIDE_BYTES
    assert read(model, dtype=DType.FLOAT16) == NARROW_BYTES
    assert read(model / "unet" / "diffusion_pytorch_model.safetensors") == WIDE_BYTES


def test_what_is_not_here_or_no_model_is_left_to_loading(tmp_path: Path) -> None:
    for source in (Path("owner/model"), tmp_path, tmp_path / "gone"):
        assert read_ahead(source) is None


def test_no_more_is_read_than_there_is_memory_for(tmp_path: Path) -> None:
    file = tmp_path / "weights.safetensors"
    file.write_bytes(bytes(WIDE_BYTES))
    reading = ReadAhead([file], max_bytes=module.CHUNK_BYTES)
    assert reading.wait(timeout_seconds=60)
    assert reading.read_bytes == module.CHUNK_BYTES


def test_a_stopped_reading_ends_and_files_that_are_gone_do_no_harm(tmp_path: Path) -> None:
    reading = ReadAhead([tmp_path / "gone"] * 5, max_bytes=1 << 30)
    reading.stop()
    assert reading.wait(timeout_seconds=60)
    assert reading.read_bytes == 0


def test_reading_ahead_imports_no_torch() -> None:
    program = "import sys, easel_server.engine.model_files.read_ahead as r; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "False\n"


def test_free_memory_is_the_nodes_cut_to_the_containers_limit(tmp_path: Path) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal:       16000000 kB\nMemAvailable:    8000000 kB\n")
    assert read_free_host_bytes(tmp_path, meminfo) == 8000000 << 10
    (tmp_path / "memory.max").write_text("max\n")
    assert read_free_host_bytes(tmp_path, meminfo) == 8000000 << 10
    (tmp_path / "memory.max").write_text(f"{4 << 30}\n")
    (tmp_path / "memory.current").write_text(f"{3 << 30}\n")
    (tmp_path / "memory.stat").write_text(f"anon {1 << 30}\ninactive_file {1 << 30}\nactive_file {1 << 29}\n")
    # Pages that only cache files are given up by the kernel.
    assert read_free_host_bytes(tmp_path, meminfo) == (4 << 30) - (3 << 30) + (1 << 30) + (1 << 29)
    assert read_free_host_bytes(tmp_path / "gone", tmp_path / "gone") is None
