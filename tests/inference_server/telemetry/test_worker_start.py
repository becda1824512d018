"""What a worker's start is made of."""

import subprocess
import sys
import time
from pathlib import Path

from easel_contract.metrics import ColdStartPhase
from easel_server.telemetry.worker_start import WorkerStart, read_process_start_seconds


def test_each_phase_lasts_from_the_end_of_the_one_before():
    now = iter([13.0, 15.5, 15.5, 17.0])
    ready = []
    start = WorkerStart(10.0, on_ready=lambda: ready.append(True), clock=lambda: next(now))
    for phase in (ColdStartPhase.IMPORTED, ColdStartPhase.WEIGHTS, ColdStartPhase.COMPILED):
        start.mark(phase)
    assert not ready
    start.finish()
    assert ready
    assert start.phase_seconds == {"imported": 3.0, "weights": 2.5, "compiled": 0.0, "warm": 1.5}


def test_a_phase_counts_once():
    now = iter([11.0, 12.0])
    start = WorkerStart(10.0, clock=lambda: next(now))
    start.mark(ColdStartPhase.IMPORTED)
    start.mark(ColdStartPhase.IMPORTED)
    start.mark(ColdStartPhase.WEIGHTS)
    assert start.phase_seconds == {"imported": 1.0, "weights": 1.0}


def test_a_process_begins_before_its_interpreter_does_anything():
    program = (
        "from easel_server.telemetry.worker_start import read_process_start_seconds\n"
        "print(read_process_start_seconds())"
    )
    before = time.monotonic()
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    began = float(done.stdout)
    assert before - 0.05 < began < time.monotonic(), "the kernel counts in hundredths of a second"


def test_without_the_kernels_word_a_start_begins_now(tmp_path: Path):
    before = time.monotonic()
    assert before <= read_process_start_seconds(tmp_path / "none") <= time.monotonic()
    (tmp_path / "stat").write_text("1 (easel) S 1")
    assert before <= read_process_start_seconds(tmp_path / "stat") <= time.monotonic()
