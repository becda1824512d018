"""What is measured of one model, part by part; each is told as soon as it is known, and out of memory ends a part only.

The stock call comes first, before the engine has the pipeline. Times are those of the wall between two moments at which
the device has nothing left to do.
"""

import gc
import random
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, Final

import torch
from easel_server.engine.add_ons.lora_formats import takes_adapters
from easel_server.engine.diffusers_engine import DiffusersEngine
from easel_server.engine.interface import Generation
from easel_server.generation.parameters import GenerationParameters
from easel_server.worker.job_run import choose_preview_steps

from benchmarks.adapters.measure import describe_adapters, measure_rotation, measure_switches, write_adapters
from benchmarks.engine.jobs import build_engine
from benchmarks.gpu.models import GpuModel, build_on

PROMPT: Final = "a lighthouse at dawn, oil on canvas"
REPEATS: Final = 2
TURNS: Final = 3
STEP_JOBS_STEPS: Final = 8
MIXED_JOBS: Final = 12
MIXED_SHARES: Final = (0.4, 0.6, 1.0)  # of the model's steps
PREVIEWS: Final = 3
SWITCHES: Final = 10
SEED: Final = 7
MIB: Final = 2**20

Tell = Callable[[str, Mapping[str, Any]], None]


class Bench:
    """One model on one device, built once."""

    def __init__(self, model: GpuModel, device: torch.device, dtype: torch.dtype, *, compile_backend: str) -> None:
        self._model = model
        self._device = device
        self._dtype = dtype
        self._backend = compile_backend
        began = time.perf_counter()
        self._pipeline = build_on(model, device, dtype)
        self._synchronize()
        self.build_seconds = time.perf_counter() - began
        self._engine: DiffusersEngine | None = None

    def run(self, tell: Tell) -> None:
        """All parts, those that matter most first."""
        parts: dict[str, Callable[[], Mapping[str, Any]]] = {
            "model": self._describe,
            "stock": self._measure_stock,
            "engine": self._measure_engine,
            "steps": self._measure_steps,
            "mixed": self._measure_mixed,
            "previews": self._measure_previews,
            "adapters": self._measure_adapters,
            "compiled": self._measure_compiled,
        }
        for name, part in parts.items():
            try:
                figures = part()
            except torch.OutOfMemoryError as error:
                figures = {"out_of_memory": str(error).partition(". ")[0]}
            except Exception as error:  # the others are worth having all the same
                figures = {"failed": f"{type(error).__name__}: {error}".partition("\n")[0][:300]}
            # Outside the except: what the failed part held is free by now.
            self._free()
            tell(name, figures)

    # Parts

    def _describe(self) -> dict[str, Any]:
        return {
            "name": self._model.name,
            "dtype": str(self._dtype).removeprefix("torch."),
            "steps": self._model.steps,
            "guidance_scale": self._model.guidance_scale,
            "build_seconds": round(self.build_seconds, 1),
            "weights_mib": round(
                sum(
                    parameter.numel() * parameter.element_size()
                    for part in self._pipeline.components.values()
                    if isinstance(part, torch.nn.Module)
                    for parameter in part.parameters()
                )
                / MIB
            ),
        }

    def _measure_stock(self) -> dict[str, Any]:
        """The pipeline's own call, eager, by images of one call."""
        figures: dict[str, Any] = {}
        self._call_stock(1, 2)  # libraries choose their kernels at first use
        for images in self._model.images_at_once:
            self._reset_peak()
            try:
                self._call_stock(images, 1)
                seconds = min(self._time(partial(self._call_stock, images)) for _ in range(REPEATS))
            except torch.OutOfMemoryError:
                figures[f"images={images}"] = {"out_of_memory": True}
                break
            figures[f"images={images}"] = {
                "images_per_second": round(images / seconds, 3),
                "seconds": round(seconds, 3),
                **self._peak(),
            }
        return figures

    def _measure_engine(self) -> dict[str, Any]:
        """A job alone in the engine, in turns with the stock call of the same pipeline."""
        engine, job = self._load_engine(), self._job(1)
        ours, stock = [], []
        self._draw([job])
        for _ in range(TURNS):
            ours.append(self._time(lambda: self._draw([job])))
            stock.append(self._time(lambda: self._call_stock(1)))
        self._reset_peak()
        drawn = self._draw([job])[0]
        encoding = self._time(drawn.encode_images)
        return {
            "images_per_second": round(1 / median(ours), 3),
            "over_stock": round(median(a / b for a, b in zip(ours, stock, strict=True)), 4),
            "encoding_milliseconds": round(encoding * 1000, 1),
            "max_images": engine.max_images(self._model.side_pixels, self._model.side_pixels),
            **self._peak(),
        }

    def _measure_steps(self) -> dict[str, Any]:
        """A step by jobs that share it, and what sharing saves of a step alone."""
        figures: dict[str, Any] = {}
        alone = 0.0
        for count in self._model.images_at_once:
            self._reset_peak()
            try:
                seconds = self._time_steps(count)
            except torch.OutOfMemoryError:
                figures[f"jobs={count}"] = {"out_of_memory": True}
                break
            alone = alone or seconds
            figures[f"jobs={count}"] = {"step_milliseconds": round(seconds * 1000, 2), **self._peak()}
            if count > 1:
                figures[f"jobs={count}"]["saves"] = round((count - seconds / alone) / (count - 1), 3)
        return figures

    def _time_steps(self, count: int) -> float:
        generations = [self._load_engine().begin(self._job(seed, STEP_JOBS_STEPS), {}) for seed in range(count)]
        # The last step decodes, the first may choose kernels.
        self._load_engine().step(generations)
        times = [self._time(lambda: self._load_engine().step(generations)) for _ in range(STEP_JOBS_STEPS - 2)]
        self._finish(generations)
        return median(times)

    def _measure_mixed(self) -> dict[str, Any]:
        """Jobs of mixed steps that are all there: by steps beside static batches of equal steps, at the same width."""
        width = max(2, self._model.images_at_once[-1] // 2)
        chance = random.Random(SEED)  # noqa: S311
        counts = [max(1, round(self._model.steps * share)) for share in MIXED_SHARES]
        jobs = [self._job(seed, chance.choice(counts)) for seed in range(MIXED_JOBS)]
        self._draw(jobs[:width])
        seconds = {
            "by steps": self._time(lambda: self._draw(jobs, width)),
            "static": self._time(lambda: self._draw_static(jobs, width)),
            "one by one": self._time(lambda: self._draw(jobs, 1)),
        }
        return {
            "jobs": MIXED_JOBS,
            "seed": SEED,
            "width": width,
            **{f"{name}, images_per_second": round(MIXED_JOBS / each, 3) for name, each in seconds.items()},
            "by_steps_over_static": round(seconds["static"] / seconds["by steps"], 3),
            "by_steps_over_one_by_one": round(seconds["one by one"] / seconds["by steps"], 3),
        }

    def _measure_previews(self) -> dict[str, Any]:
        job, with_previews, without = self._job(1), [], []
        self._draw([job], previews=PREVIEWS)
        for _ in range(TURNS):
            with_previews.append(self._time(lambda: self._draw([job], previews=PREVIEWS)))
            without.append(self._time(lambda: self._draw([job])))
        over = median(a / b for a, b in zip(with_previews, without, strict=True))
        return {"previews": PREVIEWS, "with_over_without": round(over, 4)}

    def _measure_adapters(self) -> dict[str, Any]:
        """LoRAs: what a switch takes, and images a second with so many in rotation over none."""
        if not takes_adapters(self._pipeline):
            return {"possible": False}
        width = self._model.images_at_once[-1]
        with tempfile.TemporaryDirectory(prefix="easel-bench-") as directory:
            configs = write_adapters(Path(directory) / "adapters", self._pipeline, max(self._model.adapters))
            return {
                "adapter": describe_adapters(self._pipeline, configs),
                "switch": measure_switches(self._pipeline, configs, SWITCHES),
                "images": measure_rotation(
                    self._load_engine(),
                    lambda seed, fields: self._job(seed, STEP_JOBS_STEPS, prompt=f"{PROMPT}, {seed}", **fields),
                    configs,
                    counts=self._model.adapters,
                    width=width,
                    rounds=TURNS,
                    synchronize=self._synchronize,
                ),
            }

    def _measure_compiled(self) -> dict[str, Any]:
        """The denoiser's repeated blocks compiled: a job alone beside eager, and what compiling takes."""
        job = self._job(1)
        eager = min(self._time(lambda: self._draw([job])) for _ in range(REPEATS))
        denoiser = getattr(self._pipeline, "unet", None) or self._pipeline.transformer
        denoiser.compile_repeated_blocks(backend=self._backend, dynamic=True)
        first = self._time(lambda: self._draw([job]))
        compiled = min(self._time(lambda: self._draw([job])) for _ in range(REPEATS))
        figures = {
            "backend": self._backend,
            "first_image_seconds": round(first, 1),
            "images_per_second": round(1 / compiled, 3),
            "over_eager": round(compiled / eager, 4),
        }
        width = max(2, self._model.images_at_once[-1] // 2)
        second = self._time(lambda: self._draw([self._job(seed) for seed in range(width)]))
        figures[f"first_time_jobs={width}_seconds"] = round(second, 1)
        figures[f"jobs={width}_step_milliseconds"] = round(self._time_steps(width) * 1000, 2)
        return figures

    # What they consist of

    def _job(self, seed: int, steps: int | None = None, **fields: Any) -> GenerationParameters:
        return GenerationParameters(
            **{"prompt": PROMPT, **fields},
            width_pixels=self._model.side_pixels,
            height_pixels=self._model.side_pixels,
            steps=steps or self._model.steps,
            guidance_scale=self._model.guidance_scale,
            seed=seed,
        )

    def _call_stock(self, images: int, steps: int | None = None) -> None:
        with torch.inference_mode():
            self._pipeline(
                prompt=PROMPT,
                width=self._model.side_pixels,
                height=self._model.side_pixels,
                num_inference_steps=steps or self._model.steps,
                guidance_scale=self._model.guidance_scale,
                num_images_per_prompt=images,
                generator=[torch.Generator("cpu").manual_seed(seed) for seed in range(images)],
            )

    def _load_engine(self) -> DiffusersEngine:
        if self._engine is None:
            self._engine = build_engine(self._pipeline, self._model.name)
            self._engine.measure_batch_cap(None)
        return self._engine

    def _draw(
        self, jobs: Sequence[GenerationParameters], width: int | None = None, *, previews: int = 0
    ) -> list[Generation]:
        """All of them, so many at a time: each joins when another has left."""
        engine, waiting = self._load_engine(), list(jobs)
        running: list[Generation] = []
        drawn: list[Generation] = []
        due = choose_preview_steps(jobs[0].steps, previews) if previews else []
        while waiting or running:
            while waiting and (width is None or len(running) < width):
                running.append(engine.begin(waiting.pop(0), {}))
                drawn.append(running[-1])
            engine.step(running)
            if due and running[0].steps_done >= due[0]:
                due.pop(0)
                running[0].build_preview()
            running = [each for each in running if not each.is_done]
        _check(drawn)
        return drawn

    def _draw_static(self, jobs: Sequence[GenerationParameters], width: int) -> None:
        waiting = list(jobs)
        while waiting:
            batch = [each for each in waiting if each.steps == waiting[0].steps][:width]
            waiting = [each for each in waiting if each not in batch]
            self._draw(batch)

    def _finish(self, generations: Sequence[Generation]) -> None:
        while not all(each.is_done for each in generations):
            self._load_engine().step(generations)
        _check(generations)

    # The device

    def _time(self, run: Callable[[], object]) -> float:
        self._synchronize()
        began = time.perf_counter()
        run()
        self._synchronize()
        return time.perf_counter() - began

    def _synchronize(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)

    def _reset_peak(self) -> None:
        self._free()
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)

    def _peak(self) -> dict[str, int]:
        if self._device.type != "cuda":
            return {}
        return {"max_memory_mib": round(torch.cuda.max_memory_allocated(self._device) / MIB)}

    def _free(self) -> None:
        gc.collect()
        if self._device.type == "cuda":
            torch.cuda.empty_cache()


def _check(generations: Sequence[Generation]) -> None:
    for each in generations:
        if each.error is not None:
            raise each.error
