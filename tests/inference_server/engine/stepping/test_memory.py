"""Where memory runs out, or the device is lost: what is tried again, on what is free by then, and who fails."""

import weakref
from typing import Any

import pytest
from easel_server.engine.interface import GenerationError

from tests.inference_server.engine.stepping.running import build_engine, go_on, images_of, run_alone
from tests.support.images import pixels_differ_by
from tests.support.tiny_engine import tiny_parameters

pytestmark = pytest.mark.torch

TOLERANCE = 2  # of 255: libraries round otherwise in a batch of another size
JOBS = [tiny_parameters(seed=seed, steps=steps, sampler="Euler") for seed, steps in ((1, 4), (2, 6), (3, 5), (4, 4))]


class Memory:
    """A device's memory that holds so many rows of the denoiser; what is alive of earlier calls takes some, too."""

    def __init__(self, module: Any, rows: int, error: Exception | None = None) -> None:
        self.rows = rows
        self.calls: list[int] = []  # rows of each call that fitted
        self.refused: list[int] = []
        self._error = error
        self._alive: list[weakref.ref[Any]] = []
        self._forward = module.forward
        module.forward = self._run

    def _run(self, sample: Any, timestep: Any, *arguments: Any, **options: Any) -> Any:
        import torch  # noqa: PLC0415  # most tests don't need it

        left = [each for each in self._alive if each() is not None]
        assert left == [], "what an earlier call held is alive"
        activations = sample * 2
        self._alive.append(weakref.ref(activations))
        rows = sample.shape[0]
        if rows > self.rows:
            self.refused.append(rows)
            raise self._error or torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        self.calls.append(rows)
        return self._forward(sample, timestep, *arguments, **options)


@pytest.fixture
def pipeline() -> Any:
    from tests.support.tiny_models import build_sd15  # noqa: PLC0415  # loads torch

    return build_sd15()


def begin_all(engine: Any) -> list[Any]:
    return [engine.begin(job, {}) for job in JOBS]


@pytest.mark.parametrize("rows", [1, 2, 4])
@pytest.mark.parametrize("error", [None, MemoryError(), RuntimeError("MPS backend out of memory")], ids=repr)
def test_what_does_not_fit_at_once_is_halved_and_nothing_of_it_is_alive_then(
    pipeline: Any, rows: int, error: Any
) -> None:
    memory = Memory(pipeline.unet, 8, error)
    engine = build_engine(pipeline)
    expected = [run_alone(engine, job)[0] for job in JOBS]
    memory.rows = rows
    memory.calls.clear()
    generations = begin_all(engine)
    go_on(engine, generations)
    for image, generation in zip(expected, generations, strict=True):
        assert pixels_differ_by(images_of(generation)[0], image) <= TOLERANCE
    assert max(memory.calls) == rows


def test_a_size_that_ran_out_of_memory_once_is_not_tried_again_and_others_are(pipeline: Any) -> None:
    memory = Memory(pipeline.unet, 4)
    engine = build_engine(pipeline, max_batch_images=8)
    assert engine.max_images(64, 64) == 8
    go_on(engine, begin_all(engine))
    refused = list(memory.refused)
    assert refused == [8]
    assert engine.max_images(64, 64) == 2  # of two rows each: guidance
    assert engine.max_images(72, 64) == 8
    go_on(engine, begin_all(engine))
    assert memory.refused == refused


def test_only_what_does_not_fit_alone_fails_and_says_its_size_and_what_to_do(pipeline: Any) -> None:
    forward = pipeline.unet.forward

    def run(sample: Any, *arguments: Any, **options: Any) -> Any:
        if sample.shape[-1] > 8:
            raise MemoryError
        return forward(sample, *arguments, **options)

    pipeline.unet.forward = run
    engine = build_engine(pipeline)
    large, small = (engine.begin(tiny_parameters(width_pixels=side), {}) for side in (128, 64))
    go_on(engine, [large, small])
    assert isinstance(large.error, GenerationError)
    assert str(large.error) == (
        "1 image(s) of 128x64 pixels don't fit into the memory of cpu, not even row by row and tile by tile; "
        "ask for fewer or smaller ones"
    )
    assert images_of(small)


@pytest.mark.parametrize("direction", ["encode", "decode"])
def test_an_autoencoder_that_runs_out_of_memory_goes_tile_by_tile_from_then_on_for_that_size(
    pipeline: Any, direction: str
) -> None:
    import torch  # noqa: PLC0415  # most tests don't need it
    from easel_server.engine.images.tiling import tile_by_size  # noqa: PLC0415  # loads torch

    vae = pipeline.vae
    modes: list[tuple[int, bool]] = []
    alive: list[weakref.ref[Any]] = []
    original = getattr(vae, direction)

    def run(values: Any) -> Any:
        assert [each for each in alive if each() is not None] == []
        held = values * 2
        alive.append(weakref.ref(held))
        modes.append((values.shape[-1], vae.use_tiling))
        if not vae.use_tiling and values.shape[-1] > 64:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return original(values)

    setattr(vae, direction, run)
    tile_by_size(vae, None)
    channels = 3 if direction == "encode" else 4
    with torch.inference_mode():
        for side in (128, 128, 64):
            getattr(vae, direction)(torch.zeros(1, channels, 64, side))
    assert modes == [(128, False), (128, True), (128, True), (64, False)]


def test_a_lost_device_fails_every_job_with_its_own_words_and_nothing_is_tried_again(pipeline: Any) -> None:
    lost = RuntimeError("CUDA error: an illegal memory access was encountered")
    memory = Memory(pipeline.unet, 0, lost)
    engine = build_engine(pipeline)
    wider = tiny_parameters(width_pixels=128)  # no call of the others'
    generations = [*begin_all(engine), engine.begin(wider, {})]
    engine.step(generations)
    assert [generation.error for generation in generations] == [lost] * 5
    assert len(memory.refused) == 1


def test_of_another_error_each_job_is_tried_alone_once_and_only_the_guilty_one_fails(pipeline: Any) -> None:
    forward = pipeline.unet.forward
    calls: list[int] = []

    def run(sample: Any, timestep: Any, *arguments: Any, **options: Any) -> Any:
        calls.append(sample.shape[0])
        if guilty is not None and any(torch_equal(guilty, row) for row in sample):
            raise RuntimeError("no such shape")
        return forward(sample, timestep, *arguments, **options)

    import torch  # noqa: PLC0415  # most tests don't need it

    torch_equal = torch.equal
    guilty: Any = None
    pipeline.unet.forward = run
    engine = build_engine(pipeline)
    expected = run_alone(engine, JOBS[3])[0]
    calls.clear()
    generations = begin_all(engine)
    guilty = generations[2].call.pending.arguments["sample"][0]
    engine.step(generations)
    assert calls == [8, 2, 2, 2, 2]
    assert [str(generation.error) for generation in generations] == ["None", "None", "no such shape", "None"]
    go_on(engine, generations)
    assert pixels_differ_by(images_of(generations[3])[0], expected) <= TOLERANCE


def test_a_job_that_failed_or_stopped_holds_nothing_and_leaves_the_thread_as_it_was(pipeline: Any) -> None:
    import torch  # noqa: PLC0415  # most tests don't need it

    seen: list[weakref.ref[Any]] = []
    engine = build_engine(pipeline)
    failed, stopped = begin_all(engine)[:2]
    for generation in (failed, stopped):
        seen += [weakref.ref(value) for value in generation.call.pending.arguments.values() if hasattr(value, "shape")]
    stopped.stop()
    failed.call.throw(RuntimeError("no such shape"))
    assert [each for each in seen if each() is not None] == []
    assert torch.is_grad_enabled()
    assert not torch.is_inference_mode_enabled()


def test_an_autoencoder_that_a_failing_job_left_in_float32_is_itself_again_for_the_next(pipeline: Any) -> None:
    """Stable Diffusion XL's pipeline decodes in float32, and sets the dtype back only where it succeeds."""
    import torch  # noqa: PLC0415  # most tests don't need it

    engine = build_engine(pipeline)
    [generation] = begin_all(engine)[:1]
    pipeline.vae.to(torch.float64)
    generation.call.throw(RuntimeError("while decoding"))
    engine.step([generation])
    assert pipeline.vae.dtype is torch.float32
