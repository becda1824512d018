"""Previews: like the image, for next to nothing, of every model that has an autoencoder."""

from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image

from tests.support.images import open_image, pixels_differ_by
from tests.support.tiny_engine import Step, generate_together, ignore_step, tiny_engine, tiny_parameters

pytestmark = pytest.mark.torch

LIKE = 0.5  # correlation of colours; a decoder of random weights is less linear than a trained one


@pytest.mark.parametrize("model", ["sd15", "sdxl"])
@pytest.mark.parametrize("rows", [1, 3])
def test_previews_are_one_for_each_request_and_change_nothing(model: str, rows: int) -> None:
    engine = tiny_engine(model)
    requests = [tiny_parameters(seed=10 * row, images=1 + row % 2, steps=8) for row in range(rows)]
    expected = generate_together(engine, requests, {}, ignore_step)
    previews: dict[int, list[bytes]] = {}

    def look(step: Step) -> None:
        previews[step.done] = step.build_previews()

    assert generate_together(engine, requests, {}, look) == expected
    side = open_image(expected[0][0]).size
    assert {len(shown) for shown in previews.values()} == {rows}
    assert {(open_image(data).format, open_image(data).size) for shown in previews.values() for data in shown} == {
        ("PNG", side)
    }
    assert pixels_differ_by(previews[8][0], previews[2][0]) > 2


@pytest.mark.parametrize("name", ["sd15", "sdxl"])
def test_the_last_preview_resembles_the_image_and_no_other(name: str) -> None:
    pipeline = build_smooth_pipeline(name)
    (latents, image), (_, other) = (generate_latents(pipeline, seed) for seed in (7, 8))
    preview = show(pipeline, latents)
    assert correlate_colors(preview, image) > LIKE
    assert correlate_colors(preview, other) < LIKE / 2


def test_latents_that_are_packed_into_tokens_as_flux_does_are_shown_alike() -> None:
    from diffusers import FluxPipeline  # noqa: PLC0415  # loads torch

    pipeline = build_smooth_pipeline("sd15")
    latents, _ = generate_latents(pipeline, 7)
    packed = FluxPipeline._pack_latents(latents, *latents.shape)
    assert packed.shape == (1, 256, 16)
    assert show(pipeline, packed) == show(pipeline, latents)


def test_a_preview_costs_less_than_a_thirtieth_of_decoding_the_image() -> None:
    """In operations that torch counts, at an eighth of real decoders' width: theirs is 60 times as much."""
    from torch.utils.flop_counter import FlopCounterMode  # noqa: PLC0415  # loads torch

    pipeline = build_smooth_pipeline("sd15")
    latents, _ = generate_latents(pipeline, 7)
    show(pipeline, latents)  # the fit
    with FlopCounterMode(display=False) as preview:
        show(pipeline, latents)
    with FlopCounterMode(display=False) as decoding:
        pipeline.vae.decode(latents)
    assert 0 < preview.get_total_flops() * 30 < decoding.get_total_flops()


def build_smooth_pipeline(name: str) -> Any:
    """A tiny model whose decoder is like a trained one in this: its residual branches add detail, not colours."""
    import torch  # noqa: PLC0415  # most tests don't need it

    from tests.support import tiny_models  # noqa: PLC0415  # loads torch

    pipeline: Any = {"sd15": tiny_models.build_sd15, "sdxl": tiny_models.build_sdxl}[name]()
    pipeline.set_progress_bar_config(disable=True)
    with torch.no_grad():
        for part, module in pipeline.vae.decoder.named_modules():
            if part.endswith(("conv2", "to_out.0")):
                module.weight *= 0.1
    return pipeline


def generate_latents(pipeline: Any, seed: int) -> tuple[Any, Image.Image]:
    """Latents of 32 by 32 and their image."""
    import torch  # noqa: PLC0415  # most tests don't need it

    kinds = {"output_type": "latent"}, {"output_type": "pil"}
    latents, images = (
        pipeline(
            prompt="a cat",
            width=256,
            height=256,
            num_inference_steps=4,
            generator=torch.Generator("cpu").manual_seed(seed),
            **kind,
        ).images
        for kind in kinds
    )
    return latents, images[0]


def show(pipeline: Any, latents: Any) -> bytes:
    """The preview of latents after a last step."""
    from easel_server.engine.images.previews import build_preview  # noqa: PLC0415  # loads torch

    plain = SimpleNamespace(vae=pipeline.vae, vae_scale_factor=pipeline.vae_scale_factor, scheduler=None)
    preview = build_preview(plain, 1, latents, (256, 256))
    assert preview is not None
    return preview


def correlate_colors(preview: bytes, image: Image.Image) -> float:
    """Of the colours of 32 by 32 places, each channel around its own mean."""
    import numpy as np  # noqa: PLC0415  # most tests don't need it

    shown, real = (
        np.asarray(each.convert("RGB").resize((32, 32), Image.Resampling.BOX), dtype=float)
        for each in (open_image(preview), image)
    )
    return float(np.corrcoef(*((each - each.mean(axis=(0, 1))).ravel() for each in (shown, real)))[0, 1])


def test_a_preview_that_does_not_fit_into_memory_is_left_out(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    import torch  # noqa: PLC0415  # most tests don't need it
    from easel_server.engine.images.previews import build_preview  # noqa: PLC0415  # loads torch

    from tests.support.tiny_models import build_sd15  # noqa: PLC0415  # loads torch

    def run_out(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    pipeline: Any = build_sd15()
    with monkeypatch.context() as patched:
        patched.setattr(pipeline.vae, "decode", run_out)
        assert build_preview(pipeline, 1, torch.zeros(1, 4, 8, 8), (64, 64)) is None
    assert caplog.messages == ["no preview: the memory of cpu doesn't suffice for it"]
    assert build_preview(pipeline, 1, torch.zeros(1, 4, 8, 8), (64, 64)), "there may be memory again"


@pytest.mark.parametrize(
    "shape",
    [(1, 17, 16), (1, 16, 20), (1, 4, 1, 8, 8), (1, 5, 8, 8)],
    ids=["tokens of another size", "tokens of another width", "a film", "another number of channels"],
)
def test_latents_that_are_no_image_of_this_autoencoder_have_no_preview(shape: tuple[int, ...]) -> None:
    import torch  # noqa: PLC0415  # most tests don't need it
    from easel_server.engine.images.previews import build_preview  # noqa: PLC0415  # loads torch

    from tests.support.tiny_models import build_sd15  # noqa: PLC0415  # loads torch

    assert build_preview(build_sd15(), 1, torch.zeros(shape), (64, 64)) is None


def test_latents_that_are_no_numbers_have_no_preview() -> None:
    import torch  # noqa: PLC0415  # most tests don't need it
    from easel_server.engine.images.previews import build_preview  # noqa: PLC0415  # loads torch

    from tests.support.tiny_models import build_sd15  # noqa: PLC0415  # loads torch

    assert build_preview(build_sd15(), 1, torch.full((1, 4, 8, 8), float("nan")), (64, 64)) is None


def test_a_preview_of_a_large_image_is_bounded() -> None:
    sizes: list[tuple[int, int]] = []

    def look(step: Step) -> None:
        sizes.extend(open_image(data).size for data in step.build_previews())

    parameters = tiny_parameters(width_pixels=640, height_pixels=320, steps=1, guidance_scale=1.0, sampler="DDIM")
    generate_together(tiny_engine(), [parameters], {}, look)
    assert sizes == [(256, 128)]
