"""A base model that hands over to a refiner in one job, and ControlNets, step together with others."""

from typing import Any

import pytest

from tests.inference_server.engine.stepping.running import build_engine, go_on, images_of, run_alone, take_checkpoint
from tests.support.images import open_image, pixels_differ_by
from tests.support.tiny_engine import tiny_parameters

pytestmark = pytest.mark.torch

TOLERANCE = 2  # of 255: libraries round otherwise in a batch of another size
STEPS = 10
REFINED = [tiny_parameters(seed=seed, steps=STEPS, sampler=name) for seed, name in ((1, None), (2, "DPM++ 2M"))]


def build_pair() -> tuple[Any, Any]:
    """A base model and its refiner, which share what the real ones share."""
    from tests.support import tiny_models  # noqa: PLC0415  # loads torch

    base: Any = tiny_models.build_sdxl()
    refiner: Any = tiny_models.build_sdxl_refiner()
    shared = {"vae": base.vae, "text_encoder_2": base.text_encoder_2, "tokenizer_2": base.tokenizer_2}
    for name, part in shared.items():
        setattr(refiner, name, part)
    for pipeline in (base, refiner):
        pipeline.set_progress_bar_config(disable=True)
    return base, refiner


def test_base_and_refiner_give_what_their_own_calls_give_one_after_the_other() -> None:
    import torch  # noqa: PLC0415  # most tests don't need it

    base, refiner = build_pair()
    base.vae.enable_slicing()  # as the engine does
    generator = [torch.Generator("cpu").manual_seed(7)]
    shared = {"num_inference_steps": STEPS, "guidance_scale": 7.5, "generator": generator}
    latents = base("a cat", width=64, height=64, denoising_end=0.8, output_type="latent", **shared).images
    expected = refiner("a cat", image=latents, denoising_start=0.8, **shared).images[0]
    engine = build_engine(base, refiner=refiner)
    [data] = run_alone(engine, tiny_parameters(seed=7, steps=STEPS))
    assert open_image(data).tobytes() == expected.tobytes()


def test_jobs_share_steps_in_both_stages_and_progress_is_one_for_the_whole() -> None:
    base, refiner = build_pair()
    engine = build_engine(base, refiner=refiner)
    expected = [run_alone(engine, job) for job in REFINED]
    generations = [engine.begin(REFINED[0], {})]
    engine.step(generations)
    generations.append(engine.begin(REFINED[1], {}))
    seen: list[int] = []

    def look() -> bool:
        seen.append(generations[0].steps_done)
        return False

    go_on(engine, generations, until=look)
    assert seen == sorted(seen)
    assert seen[-1] == STEPS
    for images, generation in zip(expected, generations, strict=True):
        assert pixels_differ_by(images_of(generation)[0], images[0]) <= TOLERANCE


@pytest.mark.parametrize("steps", [3, 8, 9])
def test_a_checkpoint_of_either_stage_and_from_between_them_leads_to_the_same_image(steps: int) -> None:
    base, refiner = build_pair()
    engine = build_engine(base, refiner=refiner)
    for job in REFINED:
        checkpoint = take_checkpoint(engine, job, steps=steps)
        resumed = engine.begin(job, {}, checkpoint=checkpoint)
        assert resumed.steps_done == steps
        go_on(engine, [resumed])
        assert images_of(resumed) == run_alone(engine, job)


def test_with_too_few_steps_for_a_refiner_the_base_model_takes_them_all() -> None:
    base, refiner = build_pair()
    assert run_alone(build_engine(base, refiner=refiner), tiny_parameters(steps=2))


@pytest.mark.parametrize("model", ["sd15_controlnet", "sdxl_controlnet"])
def test_controlnets_share_steps_and_other_scales_are_calls_of_their_own(model: str) -> None:
    import torch  # noqa: PLC0415  # most tests don't need it
    from easel_server.engine.stepping.stepper import SteppedCall, Stepper  # noqa: PLC0415  # loads torch

    from tests.support import tiny_models  # noqa: PLC0415  # loads torch

    torch.set_num_threads(1)
    pipeline: Any = getattr(tiny_models, f"build_{model}")()
    pipeline.set_progress_bar_config(disable=True)
    calls: list[int] = []
    forward = pipeline.controlnet.forward

    def count(sample: Any, *arguments: Any, **options: Any) -> Any:
        calls.append(sample.shape[0])
        return forward(sample, *arguments, **options)

    pipeline.controlnet.forward = count
    controls = torch.rand(4, 3, 64, 64, generator=torch.Generator("cpu").manual_seed(0))

    def generate(number: int, scale: float, **changes: Any) -> Any:
        import copy  # noqa: PLC0415

        own = copy.copy(pipeline)
        own.scheduler = type(pipeline.scheduler).from_config(pipeline.scheduler.config)
        generator = torch.Generator("cpu").manual_seed(number)
        return lambda: (
            own(
                "a cat",
                image=controls[number : number + 1],
                num_inference_steps=3,
                generator=generator,
                controlnet_conditioning_scale=scale,
                output_type="np",
                **changes,
            ).images
        )

    kinds: list[tuple[float, dict[str, Any]]] = [(1.0, {}), (1.0, {}), (0.5, {}), (1.0, {"guess_mode": True})]
    expected = [generate(number, scale, **changes)() for number, (scale, changes) in enumerate(kinds)]
    stepper = Stepper([pipeline.unet, pipeline.controlnet])
    stepped = [SteppedCall(generate(number, scale, **changes)) for number, (scale, changes) in enumerate(kinds)]
    calls.clear()
    for call in stepped:
        call.advance()
    while not all(call.is_done for call in stepped):
        stepper.step(stepped)
    assert [call.error for call in stepped] == [None] * 4
    assert max(calls) == 4, "two with the same scale go together"
    for call, images in zip(stepped, expected, strict=True):
        assert abs(call.result - images).max() * 255 <= TOLERANCE
