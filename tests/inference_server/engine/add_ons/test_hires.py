"""The second pass: equal to the stock calls one after the other, in any company, and across workers."""

import io
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
from easel_contract.add_ons import UpscalerConfig
from easel_server.engine.interface import Generation, StopGenerationError
from easel_server.generation.add_ons import HiresPass
from PIL import Image, ImageChops

from tests.inference_server.engine.add_ons.adapters import NEAR, adapter_job, build_tiny, write_adapter
from tests.inference_server.engine.stepping.running import build_engine
from tests.support.tiny_engine import tiny_engine, tiny_parameters

pytestmark = pytest.mark.torch

FAMILIES = ("sd15", "sdxl", "sd3")


def ask(upscaler: str = "Latent", *, key: str = "", **changes: Any) -> Any:
    hires = HiresPass(
        width_pixels=changes.pop("width", 128),
        height_pixels=changes.pop("height", 128),
        upscaler=upscaler,
        key=key,
        steps=changes.pop("second_steps", None),
        strength=changes.pop("strength", 0.75),
    )
    return tiny_parameters(hires=hires, **changes)


def finish(engine: Any, *generations: Generation) -> list[Image.Image]:
    while not all(each.is_done for each in generations):
        engine.step(list(generations))
    for each in generations:
        assert each.error is None, each.error
    return [Image.open(io.BytesIO(each.encode_images()[0])).convert("RGB") for each in generations]


def run(engine: Any, parameters: Any, **options: Any) -> Image.Image:
    return finish(engine, engine.begin(parameters, {}, **options))[0]


def find_difference(one: Image.Image, other: Image.Image) -> float:
    """The largest of all, of 255."""
    extrema: Any = ImageChops.difference(one, other).getextrema()
    return max(high for _, high in extrema)


def pipelines_of(engine: Any) -> tuple[Any, Any]:
    """Of the first pass, and of the second."""
    from easel_server.generation.tasks import Task  # noqa: PLC0415

    return engine._pipelines[Task.TEXT_TO_IMAGE].pipeline, engine._pipelines[Task.IMAGE_TO_IMAGE].pipeline


def call_stock(base: Any, second: Any, parameters: Any) -> Image.Image:
    """diffusers' own pipelines, one after the other, by hand."""
    import torch  # noqa: PLC0415

    hires = parameters.hires
    shared = {"prompt": parameters.prompt, "guidance_scale": parameters.guidance_scale}
    is_latent = hires.upscaler == "Latent"
    first = base(
        **shared,
        width=parameters.width_pixels,
        height=parameters.height_pixels,
        num_inference_steps=parameters.steps,
        generator=torch.Generator("cpu").manual_seed(parameters.seed),
        output_type="latent" if is_latent else "pil",
    ).images
    if is_latent:
        given = torch.nn.functional.interpolate(
            first, size=(hires.height_pixels // 8, hires.width_pixels // 8), mode="bilinear"
        )
    else:
        given = first[0].resize((hires.width_pixels, hires.height_pixels), Image.Resampling.LANCZOS)
    sized = {"width": hires.width_pixels, "height": hires.height_pixels} if "3" in type(second).__name__ else {}
    image: Image.Image = second(
        **shared,
        **sized,
        image=given,
        strength=hires.strength,
        num_inference_steps=hires.steps or parameters.steps,
        generator=torch.Generator("cpu").manual_seed(parameters.seed),
    ).images[0]
    return image


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("upscaler", ["Latent", "Lanczos"])
def test_a_second_pass_is_what_the_stock_calls_give_one_after_the_other(family: str, upscaler: str) -> None:
    engine: Any = tiny_engine(family)
    parameters = ask(upscaler, second_steps=6)
    image = run(engine, parameters)
    assert image.size == (128, 128)
    assert ImageChops.difference(image, call_stock(*pipelines_of(engine), parameters)).getbbox() is None


@pytest.mark.filterwarnings("ignore")  # of peft
@pytest.mark.parametrize(("family", "upscaler"), [("sd15", "Latent"), ("sdxl", "Lanczos"), ("sd3", "Lanczos")])
def test_adapters_act_in_both_passes_as_in_stock_calls_with_peft(family: str, upscaler: str, tmp_path: Path) -> None:
    from tests.support.tiny_models import BUILDERS  # noqa: PLC0415  # loads torch

    engine: Any = build_engine(build_tiny(family))
    style = write_adapter(tmp_path, "style", model=family)
    plain = ask(upscaler, second_steps=6)
    parameters = adapter_job((style, 0.8), hires=plain.hires)
    before = run(engine, plain)
    image = run(engine, parameters, add_ons=[style])
    base = BUILDERS[family]()
    base.set_progress_bar_config(disable=True)
    second = type(pipelines_of(engine)[1])(**base.components)
    second.set_progress_bar_config(disable=True)
    base.load_lora_weights(tmp_path, weight_name="style.safetensors", adapter_name="style")
    base.set_adapters(["style"], [0.8])
    for part in base.components.values():
        if hasattr(part, "requires_grad_"):
            part.requires_grad_(False)  # what could be trained torch multiplies in another order
    assert find_difference(image, call_stock(base, second, parameters)) == 0
    assert find_difference(image, before) > NEAR
    assert find_difference(run(engine, plain), before) == 0


def test_adapters_act_in_both_passes_around_a_refiner_and_not_in_it(tmp_path: Path) -> None:
    import torch  # noqa: PLC0415

    from tests.support.tiny_models import BUILDERS  # noqa: PLC0415  # loads torch

    base, refiner = build_tiny("sdxl"), BUILDERS["sdxl-refiner"]()
    engine: Any = build_engine(base, refiner=refiner)
    style = write_adapter(tmp_path, "style", model="sdxl")
    calls: list[tuple[str, bool]] = []
    for name, unet in (("base", base.unet), ("refiner", refiner.unet)):
        layers = [each for each in unet.modules() if isinstance(each, torch.nn.Linear)]
        forward = engine._stepper._forwards[unet]

        def note_and_run(name: str = name, layers: Any = layers, forward: Any = forward, **arguments: Any) -> Any:
            calls.append((name, any("forward" in vars(each) for each in layers)))
            return forward(**arguments)

        engine._stepper._forwards[unet] = note_and_run
    plain = ask("Lanczos", steps=10)
    before = run(engine, plain)
    assert {is_changed for _, is_changed in calls} == {False}
    calls.clear()
    styled = run(engine, adapter_job((style, 1.0), steps=10, hires=plain.hires), add_ons=[style])
    assert [key for key, _ in groupby(calls)] == [("base", True), ("refiner", False), ("base", True)]
    assert find_difference(styled, before) > NEAR
    assert find_difference(run(engine, plain), before) == 0


def test_second_passes_with_and_without_adapters_share_calls_and_stay_apart(tmp_path: Path) -> None:
    engine: Any = build_engine(build_tiny("sd15"))
    styles = [write_adapter(tmp_path, name, seed=seed) for seed, name in enumerate(("one", "other"))]
    hires = ask().hires
    jobs = [ask(seed=1), *(adapter_job((style, 0.8), hires=hires, seed=2) for style in styles)]
    alone = [run(engine, job, add_ons=styles) for job in jobs]
    together = finish(engine, *(engine.begin(job, {}, add_ons=styles) for job in jobs))
    assert max(find_difference(one, other) for one, other in zip(alone, together, strict=True)) <= NEAR
    assert find_difference(alone[1], alone[2]) > NEAR


def test_flux_goes_by_pixels() -> None:
    engine: Any = tiny_engine("flux")
    assert run(engine, ask("Lanczos", guidance_scale=3.5)).size == (128, 128)


def test_a_job_with_a_second_pass_is_the_same_beside_others() -> None:
    engine: Any = tiny_engine()
    parameters = ask()
    alone = run(engine, parameters)
    generations = [engine.begin(parameters, {}), engine.begin(tiny_parameters(width_pixels=128, height_pixels=128), {})]
    together = finish(engine, *generations)[0]
    assert find_difference(alone, together) <= 1


def test_each_image_of_a_job_has_its_own_second_pass() -> None:
    engine: Any = tiny_engine()
    generation = engine.begin(ask("Lanczos", images=2), {})
    finish(engine, generation)
    second = Image.open(io.BytesIO(generation.encode_images()[1])).convert("RGB")
    alone = run(engine, ask("Lanczos", seed=8))
    assert find_difference(second, alone) <= 1


@pytest.mark.parametrize("upscaler", ["Latent (nearest-exact)", "Nearest"])
@pytest.mark.parametrize("sampler", ["Euler a", "DPM++ 2M"])
def test_another_worker_goes_on_from_any_step_of_either_pass(upscaler: str, sampler: str) -> None:
    engine: Any = tiny_engine()
    parameters = ask(upscaler, sampler=sampler)
    whole = run(engine, parameters)
    step = 0
    while True:
        step += 1
        generation = engine.begin(parameters, {})
        for _ in range(step):
            engine.step([generation])
        if generation.is_done:
            break
        checkpoint = generation.checkpoint()
        assert checkpoint is not None
        generation.stop()
        resumed = engine.begin(parameters, {}, checkpoint=checkpoint)
        assert resumed.steps_done == generation.steps_done
        assert ImageChops.difference(finish(engine, resumed)[0], whole).getbbox() is None, step
    assert step > 6


def test_progress_counts_both_passes_by_their_work_and_previews_show_either() -> None:
    engine: Any = tiny_engine()
    generation = engine.begin(ask(steps=20), {})
    seen = []
    while not generation.is_done:
        engine.step([generation])
        seen.append(generation.steps_done)
        if not generation.is_done:
            assert generation.build_preview() is not None
    assert seen == sorted(seen)
    assert seen[-1] == 20
    # Of the work a quarter is the first pass's, whose scheduler takes one more step: as many steps at a quarter of the
    # pixels, where the second pass takes three quarters of them.
    assert seen[20] == 5


def test_a_cancelled_job_ends_within_the_second_pass() -> None:
    engine: Any = tiny_engine()
    generation = engine.begin(ask(), {})
    for _ in range(5):
        engine.step([generation])
    generation.stop()
    assert generation.is_done
    assert isinstance(generation.error, StopGenerationError)


def test_another_shape_is_covered_and_cut_in_the_middle() -> None:
    assert run(tiny_engine(), ask("Latent", width=192, height=128)).size == (192, 128)
    assert run(tiny_engine(), ask("Lanczos", width=64, height=128)).size == (64, 128)


def test_a_network_enlarges_between_the_passes_while_others_have_their_steps(tmp_path: Path) -> None:
    from tests.support.tiny_models.upscalers import write_tiny_upscaler  # noqa: PLC0415

    engine: Any = tiny_engine()
    config = UpscalerConfig(name="4x", source=str(write_tiny_upscaler(tmp_path / "4x.safetensors")))
    parameters = ask("4x", key=config.key, width_pixels=256, height_pixels=256, width=512, height=512, steps=2)
    engine.gather(parameters, (config,))
    generation = engine.begin(parameters, {}, add_ons=(config,))
    neighbour = engine.begin(tiny_parameters(steps=40), {})
    turns = 0
    while not generation.is_done:
        before = neighbour.steps_done
        engine.step([generation, neighbour])
        turns += neighbour.steps_done > before
    assert generation.error is None
    assert turns >= 2 + 4 + 1  # steps of the first pass, tiles, a step of the second
    whole = Image.open(io.BytesIO(generation.encode_images()[0])).convert("RGB")
    assert whole.size == (512, 512)
    plain = run(engine, ask("Lanczos", width_pixels=256, height_pixels=256, width=512, height=512, steps=2))
    assert ImageChops.difference(plain, whole).getbbox() is not None
    interrupted = engine.begin(parameters, {}, add_ons=(config,))
    for _ in range(4):  # two steps, and some tiles
        engine.step([interrupted])
    resumed = engine.begin(parameters, {}, checkpoint=interrupted.checkpoint(), add_ons=(config,))
    assert ImageChops.difference(finish(engine, resumed)[0], whole).getbbox() is None
