"""The synthetic engine: takes the time that was configured, and says everywhere that it is no model."""

import subprocess
import sys
from io import BytesIO

import pytest
from easel_contract.server_config import EngineConfig, EngineKind, ModelConfig, SyntheticConfig
from easel_server.engine.interface import StopGenerationError
from easel_server.engine.loading import load_engine
from easel_server.engine.synthetic_engine import SyntheticEngine
from easel_server.generation.cost import work_units
from easel_server.generation.parameters import GenerationParameters, ImageFormat
from easel_server.generation.tasks import Task
from PIL import Image

from tests.support.jobs import build_parameters
from tests.support.tiny_engine import Step, generate, generate_together, ignore_step

INSTANT = SyntheticConfig(milliseconds_per_step=0, milliseconds_per_image=0)


class Clock:
    """Time passes by sleeping only; each sleep oversleeps a little, as real ones do."""

    OVERSLEEP_SECONDS = 0.0001

    def __init__(self) -> None:
        self.now = 100.0
        self.sleeps = 0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.sleeps += 1
        self.now += seconds + self.OVERSLEEP_SECONDS


def build_engine(config: SyntheticConfig, clock: Clock) -> SyntheticEngine:
    return SyntheticEngine("any/name", config, clock=clock, pause=clock.sleep)


def open_image(data: bytes) -> Image.Image:
    return Image.open(BytesIO(data))


TIMES: dict[str, tuple[list[GenerationParameters], float]] = {
    "one megapixel, ten steps, no guidance": (
        [build_parameters(width_pixels=1024, height_pixels=1024, steps=10, guidance_scale=0.0)],
        10 * 0.05 + 0.1,
    ),
    "guidance needs a second pass": (
        [build_parameters(width_pixels=1024, height_pixels=1024, steps=10, guidance_scale=7.5)],
        2 * 10 * 0.05 + 0.1,
    ),
    "a quarter of the pixels, four images": (
        [build_parameters(width_pixels=512, height_pixels=512, steps=10, guidance_scale=0.0, images=4)],
        10 * 0.05 + 4 * 0.1,
    ),
    "half the steps are taken": (
        [
            build_parameters(
                width_pixels=1024,
                height_pixels=1024,
                steps=10,
                guidance_scale=0.0,
                task=Task.IMAGE_TO_IMAGE,
                strength=0.5,
            )
        ],
        5 * 0.05 + 0.1,
    ),
    "a batch takes what its jobs take": (
        [build_parameters(width_pixels=1024, height_pixels=1024, steps=10, guidance_scale=0.0, seed=s) for s in (1, 2)],
        2 * (10 * 0.05 + 0.1),
    ),
}


@pytest.mark.parametrize(("batch", "seconds"), TIMES.values(), ids=TIMES.keys())
def test_time_follows_the_work(batch, seconds):
    clock = Clock()
    generate(build_engine(SyntheticConfig(milliseconds_per_step=50, milliseconds_per_image=100), clock), *batch)
    assert clock.now - 100.0 == pytest.approx(seconds, abs=2 * Clock.OVERSLEEP_SECONDS)
    units = sum(map(work_units, batch))
    images = sum(one.images for one in batch)
    assert seconds == pytest.approx(units * 0.05 + images * 0.1), "a line through work units, as costs are predicted"


def test_late_wake_ups_do_not_add_up():
    clock = Clock()
    config = SyntheticConfig(milliseconds_per_step=50, milliseconds_per_image=0)
    parameters = build_parameters(width_pixels=1024, height_pixels=1024, steps=100, guidance_scale=0.0)
    generate(build_engine(config, clock), parameters)
    assert clock.sleeps == 100
    assert clock.now - 100.0 == pytest.approx(100 * 0.05, abs=2 * Clock.OVERSLEEP_SECONDS)


def test_without_time_it_never_sleeps_and_is_instant():
    clock = Clock()
    engine = build_engine(INSTANT, clock)
    generate(engine, build_parameters(steps=1000))
    assert clock.sleeps == 0
    assert engine.description.is_instant
    assert not build_engine(SyntheticConfig(), clock).description.is_instant


def test_a_stop_takes_effect_at_the_next_step():
    clock = Clock()
    seen: list[int] = []

    def stop_at_three(step: Step) -> None:
        seen.append(step.done)
        if step.done == 3:
            raise StopGenerationError

    with pytest.raises(StopGenerationError):
        generate_together(build_engine(SyntheticConfig(), clock), [build_parameters(steps=30)], {}, stop_at_three)
    assert seen == [1, 2, 3]


@pytest.mark.parametrize("config", [INSTANT, SyntheticConfig(milliseconds_per_step=1)], ids=["instant", "timed"])
@pytest.mark.parametrize("image_format", list(ImageFormat))
@pytest.mark.parametrize(("width", "height"), [(64, 64), (512, 768)])
def test_images_have_the_size_and_format_asked_for(config, image_format, width, height):
    parameters = build_parameters(width_pixels=width, height_pixels=height, image_format=image_format, images=2)
    [images] = generate(build_engine(config, Clock()), parameters)
    assert len(images) == 2
    for data in images:
        image = open_image(data)
        image.load()
        assert (image.format, image.size) == (image_format.name, (width, height))


@pytest.mark.parametrize("config", [INSTANT, SyntheticConfig(milliseconds_per_step=1)], ids=["instant", "timed"])
def test_a_png_names_prompt_and_seed_and_that_no_model_made_it(config):
    parameters = build_parameters(prompt="ein Kätzchen 🐈", seed=41, images=2)
    [images] = generate(build_engine(config, Clock()), parameters)
    text = open_image(images[1]).info["parameters"]
    assert text.startswith("ein Kätzchen 🐈\n")
    assert "Seed: 42" in text
    assert 'Engine: "synthetic, no model"' in text


def test_a_timed_image_differs_with_its_label():
    engine = build_engine(SyntheticConfig(milliseconds_per_step=1), Clock())
    one, other = (open_image(generate(engine, build_parameters(seed=seed))[0][0]).tobytes() for seed in (1, 2))
    assert one != other


def test_previews_are_small_pngs_one_for_each_request():
    previews: list[bytes] = []

    def look(step: Step) -> None:
        if step.done == 2:
            previews.extend(step.build_previews())

    batch = [build_parameters(width_pixels=2048, height_pixels=1024, seed=seed) for seed in (1, 2)]
    generate_together(build_engine(SyntheticConfig(), Clock()), batch, {}, look)
    assert [open_image(data).size for data in previews] == [(512, 256)] * 2
    assert {open_image(data).format for data in previews} == {"PNG"}


def test_any_model_name_is_loaded_and_the_time_of_loading_is_simulated():
    config = EngineConfig(kind=EngineKind.SYNTHETIC, synthetic=SyntheticConfig(load_seconds=1))
    engine = load_engine(ModelConfig(name="no/such-model", source="no/such-model"), hub_token=None, engine=config)
    description = engine.description
    assert (description.engine, description.model) == ("synthetic", "no/such-model")
    assert description.load_seconds >= 1
    assert set(description.tasks) == set(Task)
    assert "Euler a" in description.samplers


def test_it_needs_no_torch():
    program = (
        "import sys; import easel_server.engine.synthetic_engine; print([m for m in ('torch', 'diffusers') if m in "
        "sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "[]\n"


def test_progress_ends_at_the_steps_asked_for_even_if_fewer_are_taken():
    seen: list[tuple[int, int]] = []
    parameters = build_parameters(steps=20, task=Task.IMAGE_TO_IMAGE, strength=0.3)
    engine = build_engine(SyntheticConfig(), Clock())
    generate_together(engine, [parameters], {}, lambda step: seen.append((step.done, step.steps)))
    assert len(seen) == 6
    assert seen[-1] == (20, 20)
    assert generate(engine, parameters) == generate_together(engine, [parameters], {}, ignore_step)
