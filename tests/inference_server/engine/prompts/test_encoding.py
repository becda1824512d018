"""Long prompts, weights and clip skip, as CLIP's families get them: against their encoders, called by hand."""

import copy
from collections.abc import Sequence
from typing import Any, Final

import pytest
from easel_server.generation.families import find_family
from easel_server.generation.tasks import Task

from tests.inference_server.engine.parity.stock import build_engine, build_job, build_pipeline, build_tiny, call_stock
from tests.inference_server.engine.parity.test_parity import generate, run
from tests.inference_server.engine.stepping.running import build_engine as build_engine_around
from tests.inference_server.engine.stepping.running import run_alone
from tests.inference_server.engine.stepping.test_stages import build_pair
from tests.support.images import open_image, pixels_differ_by
from tests.support.tiny_engine import generate as generate_all
from tests.support.tiny_engine import tiny_engine, tiny_parameters

pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("ignore::FutureWarning")]

CLIP: Final = ("sd15", "sd2", "lcm", "sdxl", "sdxl-turbo", "sdxl-refiner", "sd3")
ROOM: Final = 75
LONG: Final = "x" * ROOM + " " + "y" * 10


def attach(pipeline: Any) -> Any:
    """A job's own copy of a pipeline, as the engine makes it."""
    from easel_server.engine.speed.prompt_cache import PromptCache  # noqa: PLC0415  # loads torch

    own = copy.copy(pipeline)
    PromptCache().attach(own)
    return own


def encode(pipeline: Any, prompt: str, negative: str | None = None, **options: Any) -> tuple[Any, ...]:
    """What the call is given: prompt, negative prompt, and the pooled ones of families that have them."""
    import torch  # noqa: PLC0415

    others = {"prompt_2": None, "prompt_3": None} if hasattr(pipeline, "tokenizer_3") else {}
    given = {"num_images_per_prompt": 1, "do_classifier_free_guidance": True, "device": torch.device("cpu")}
    with torch.inference_mode():
        own: Any = attach(pipeline)
        encoded: tuple[Any, ...] = own.encode_prompt(
            prompt=prompt, negative_prompt=negative, **given | others | options
        )
    return encoded


def encode_by_hand(pipeline: Any, text: str, *, skipped: int = 0) -> tuple[Any, Any]:
    """[1, 77, width] of a short text by its family's rule, from the encoders' own outputs; and the pooled one."""
    import torch  # noqa: PLC0415

    parts, pooled = [], []
    is_single = not hasattr(pipeline, "text_encoder_2")
    for number in ("", "_2"):
        encoder: Any = getattr(pipeline, f"text_encoder{number}", None)
        tokenizer: Any = getattr(pipeline, f"tokenizer{number}", None)
        if encoder is None:
            continue
        ids = tokenizer(text, padding="max_length", max_length=77, truncation=True, return_tensors="pt").input_ids
        with torch.inference_mode():
            output = encoder(ids, output_hidden_states=True)
            if is_single:
                norm = getattr(encoder, "text_model", encoder).final_layer_norm
                parts.append(norm(output.hidden_states[-1 - skipped]))
            else:
                parts.append(output.hidden_states[-2 - skipped])
                pooled.append(output[0])
    if hasattr(pipeline, "tokenizer_3") and pooled:
        pooled = [torch.cat(pooled, -1)]
    return torch.cat(parts, -1), pooled[-1] if pooled else None


def take_clip(pipeline: Any, embeddings: Any) -> Any:
    """Of embeddings what CLIP made of them: Stable Diffusion 3 has T5's behind them, and zeros beside."""
    if not hasattr(pipeline, "tokenizer_3"):
        return embeddings
    width = pipeline.text_encoder.config.hidden_size + pipeline.text_encoder_2.config.hidden_size
    return embeddings[:, :-256, :width]


@pytest.mark.parametrize("name", CLIP)
def test_a_long_prompt_is_its_chunks_one_after_another(name: str) -> None:
    import torch  # noqa: PLC0415

    pipeline = build_pipeline(name)
    chunks = [encode_by_hand(pipeline, text) for text in ("x" * ROOM, "y" * 10)]
    encoded = encode(pipeline, LONG, "b")
    assert torch.equal(take_clip(pipeline, encoded[0]), torch.cat([each for each, _ in chunks], dim=1))
    if len(encoded) == 4:
        pooled = encoded[2]
        assert torch.equal(pooled, chunks[0][1]), "the first chunk's"


@pytest.mark.parametrize("name", CLIP)
def test_the_shorter_of_prompt_and_negative_prompt_is_filled_up_with_chunks_without_words(name: str) -> None:
    import torch  # noqa: PLC0415

    pipeline = build_pipeline(name)
    short, empty = encode_by_hand(pipeline, "b")[0], encode_by_hand(pipeline, "")[0]
    assert torch.equal(take_clip(pipeline, encode(pipeline, LONG, "b")[1]), torch.cat([short, empty], dim=1))
    assert torch.equal(take_clip(pipeline, encode(pipeline, "b", LONG)[0]), torch.cat([short, empty], dim=1))
    without = encode(pipeline, LONG)
    assert without[1].shape == without[0].shape
    is_zero = getattr(pipeline.config, "force_zeros_for_empty_prompt", False)
    expected = torch.zeros_like(without[1]) if is_zero else torch.cat([empty, empty], dim=1)
    assert torch.equal(take_clip(pipeline, without[1]), take_clip(pipeline, expected) if is_zero else expected)


def weigh(embeddings: Any, weights: Sequence[float]) -> Any:
    """AUTOMATIC1111's rule: each token times its weight, then all times what brings their mean back."""
    import torch  # noqa: PLC0415

    weighted = embeddings * torch.tensor(weights)[None, :, None]
    return weighted * (embeddings.mean() / weighted.mean())


@pytest.mark.parametrize("name", CLIP)
def test_weights_multiply_each_encoders_tokens_and_keep_its_mean(name: str) -> None:
    import torch  # noqa: PLC0415

    pipeline = build_tiny(name, bare=False)
    for encoder in (getattr(pipeline, f"text_encoder{number}", None) for number in ("", "_2")):
        if encoder is not None:  # as trained ones have it: a norm whose mean isn't nothing
            torch.nn.init.constant_(getattr(encoder, "text_model", encoder).final_layer_norm.bias, 0.3)
    weights = [1, 1, 1.3, 1.3, 0.5, *(1,) * 72]  # the mark of the beginning, a, bc, d, the rest
    parts, _ = encode_by_hand(pipeline, "a bc d")
    first = getattr(pipeline, "text_encoder", None)
    width = first.config.hidden_size if first is not None else parts.shape[-1]
    expected = [weigh(parts[..., part], weights) for part in (slice(None, width), slice(width, None))]
    encoded = encode(pipeline, "a (bc:1.3) (d:0.5)", "b")
    own = take_clip(pipeline, encoded[0])
    torch.testing.assert_close(own, torch.cat([part for part in expected if part.numel()], dim=-1))
    assert not torch.allclose(own, parts, atol=1e-2)
    if len(encoded) == 4:
        assert torch.equal(encoded[2], encode_by_hand(pipeline, "a bc d")[1]), "without weights"


def test_where_a_mean_is_nothing_but_rounding_weights_are_left_as_they_are() -> None:
    import torch  # noqa: PLC0415
    from easel_server.engine.prompts.encoding import apply_weights  # noqa: PLC0415

    centred = torch.nn.functional.layer_norm(torch.randn(1, 4, 32, generator=torch.Generator().manual_seed(0)), (32,))
    weighted = apply_weights(centred, (1, 1.5, 1, 0))
    assert torch.equal(weighted, centred * torch.tensor([1, 1.5, 1, 0])[None, :, None])


@pytest.mark.parametrize("name", CLIP)
def test_clip_skip_takes_an_earlier_layer_for_both_prompts(name: str) -> None:
    import torch  # noqa: PLC0415

    pipeline = build_pipeline(name)
    encoded = encode(pipeline, "a cat", "b", clip_skip=1)
    for number, text in enumerate(("a cat", "b")):
        assert torch.equal(take_clip(pipeline, encoded[number]), encode_by_hand(pipeline, text, skipped=1)[0])
    assert not torch.equal(encoded[0], encode(pipeline, "a cat", "b")[0])


@pytest.mark.parametrize("name", ["sdxl", "sd3"])
def test_clip_skip_is_the_pipelines_own_where_that_works(name: str) -> None:
    """Stable Diffusion's looks for a part that text encoders no longer have; XL's leaves negative prompts out."""
    job = build_job(Task.TEXT_TO_IMAGE, guidance_scale=1.0, clip_skip=3)
    expected = call_stock(build_pipeline(name), job, clip_skip=1)
    assert generate(build_engine(name), job).tobytes() == expected.tobytes()


@pytest.mark.parametrize("name", [name for name in CLIP if name != "sdxl-refiner"])
def test_signs_without_effect_leave_the_stock_image_to_the_byte(name: str) -> None:
    engine = build_engine(name)
    plain = call_stock(build_pipeline(name), build_job(Task.TEXT_TO_IMAGE, prompt="a (black) cat"))
    marked = generate(engine, build_job(Task.TEXT_TO_IMAGE, prompt=r"a \(black\) (cat:1.0)"))
    assert marked.tobytes() == plain.tobytes()


@pytest.mark.parametrize("name", ["sd15", "sdxl", "sd3", "lcm"])
def test_every_part_of_a_prompt_has_an_effect_on_the_image(name: str) -> None:
    engine = build_engine(name)
    prompts = ["a cat", "a (cat:1.3)", "a [cat]", "a BREAK cat", LONG, LONG + "z", f"{LONG} (z:1.2)"]
    images = {generate(engine, build_job(Task.TEXT_TO_IMAGE, prompt=prompt)).tobytes() for prompt in prompts}
    assert len(images) == len(prompts)


@pytest.mark.parametrize("task", [Task.TEXT_TO_IMAGE, Task.IMAGE_TO_IMAGE, Task.INPAINT])
@pytest.mark.parametrize("name", ["sd15", "sdxl", "sd3"])
def test_a_long_weighted_prompt_is_for_every_task_and_several_images(name: str, task: Task) -> None:
    engine = build_engine(name)
    job = build_job(task, prompt=f"({LONG}:1.2) BREAK b", negative_prompt="(c)", images=2, seed=70)
    generation = run(engine, job)
    assert generation.error is None
    second = run(engine, job.model_copy(update={"images": 1, "seed": 71}))
    pair = [generation.encode_images()[1], second.encode_images()[0]]
    assert pixels_differ_by(*pair) <= 2


def test_jobs_with_prompts_of_other_lengths_get_in_company_what_they_get_alone() -> None:
    engine = tiny_engine()
    jobs = [tiny_parameters(prompt=prompt, seed=seed) for seed, prompt in enumerate(("a", LONG, "(b:1.4)", LONG + "z"))]
    together = generate_all(engine, *jobs)
    for images, job in zip(together, jobs, strict=True):
        assert pixels_differ_by(images[0], generate_all(engine, job)[0][0]) <= 2


def test_a_refiner_reads_a_long_prompt_too() -> None:
    import torch  # noqa: PLC0415

    base, refiner = build_pair()
    [image] = run_alone(build_engine_around(base, refiner=refiner), tiny_parameters(prompt=LONG, steps=10, seed=7))
    base, refiner = build_pair()
    base.vae.enable_slicing()  # as the engine does
    shared: dict[str, Any] = {"num_inference_steps": 10, "guidance_scale": 7.5}
    shared["generator"] = [torch.Generator("cpu").manual_seed(7)]
    names = ("prompt_embeds", "negative_prompt_embeds", "pooled_prompt_embeds", "negative_pooled_prompt_embeds")
    of_base, of_refiner = (dict(zip(names, encode(each, LONG), strict=True)) for each in (base, refiner))
    sides = {"width": 64, "height": 64}
    latents = base(**of_base, **sides, denoising_end=0.8, output_type="latent", **shared).images
    expected = refiner(**of_refiner, image=latents, denoising_start=0.8, **shared).images[0]
    assert open_image(image).tobytes() == expected.tobytes()


@pytest.mark.parametrize("build", ["build_sd15_controlnet", "build_sdxl_controlnet"])
def test_pipelines_with_a_controlnet_read_them_likewise(build: str) -> None:
    import torch  # noqa: PLC0415

    from tests.support import tiny_models  # noqa: PLC0415

    pipeline = getattr(tiny_models, build)()
    chunks = [encode_by_hand(pipeline, text)[0] for text in ("x" * ROOM, "y" * 10)]
    assert torch.equal(encode(pipeline, LONG, "b")[0], torch.cat(chunks, dim=1))


def test_prompts_that_differ_in_a_weight_alone_are_not_taken_for_each_other_by_the_cache() -> None:
    from easel_server.engine.speed.prompt_cache import PromptCache  # noqa: PLC0415

    pipeline, cache = build_pipeline("sd15"), PromptCache()
    images = []
    for prompt in ("a (cat:1.3)", "a (cat:1.4)", "a (cat:1.3)"):
        own = copy.copy(pipeline)
        cache.attach(own)
        images.append(call_stock(own, build_job(Task.TEXT_TO_IMAGE, prompt=prompt)).tobytes())
    assert images[0] == images[2] != images[1]


def test_stable_diffusion_3_gives_t5_a_longer_window_where_a_prompt_needs_it() -> None:
    engine = build_engine("sd3")
    prompts = ["x" * 300, "x" * 299 + "y"]
    images = {generate(engine, build_job(Task.TEXT_TO_IMAGE, prompt=prompt)).tobytes() for prompt in prompts}
    assert len(images) == 2
    embeddings = encode(build_pipeline("sd3"), "x" * 300, max_sequence_length=512)[0]
    assert embeddings.shape[1] == 4 * 77 + 512


def test_flux_is_left_as_it_is() -> None:
    from easel_server.engine.prompts.encoding import find_encoding  # noqa: PLC0415

    assert find_encoding(build_pipeline("flux")) is None
    job = build_job(Task.TEXT_TO_IMAGE, prompt="a (cat:1.3) BREAK b")
    assert generate(build_engine("flux"), job).tobytes() == call_stock(build_pipeline("flux"), job).tobytes()
    assert find_family("FluxPipeline").long_prompt_tokens is None
