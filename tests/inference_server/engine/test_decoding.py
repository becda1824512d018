"""Numbers that aren't finite are an error with advice, or mended in float32; never a black image that passes for one.

Real pipelines with random weights, of which one is made to overflow.
"""

from typing import Any

import pytest
from easel_server.engine import loading
from easel_server.engine.interface import Engine, NonFiniteError
from easel_server.generation.models import EngineDescription

from tests.support.images import open_image, pixels_differ_by
from tests.support.tiny_engine import Step, generate, generate_together, tiny_parameters

pytestmark = pytest.mark.torch

OVERFLOW = 3e5  # times weights of 0.17 at most: they fit into float16 (65504), what comes of them does not


def build_engine(*, dtype: str = "float32", vae_factor: float = 1.0, unet_factor: float = 1.0) -> Engine:
    """A tiny Stable Diffusion 1.5, one layer of its autoencoder or denoiser scaled; in every dtype alike."""
    loading.prepare_libraries()
    import torch  # noqa: PLC0415  # most tests don't need it
    from easel_server.engine.diffusers_engine import DiffusersEngine  # noqa: PLC0415

    from tests.support.tiny_models import build_sd15  # noqa: PLC0415

    torch.set_num_threads(1)  # other tests and other people's processes share the CPUs
    pipeline: Any = build_sd15()
    pipeline.to(getattr(torch, dtype))
    with torch.no_grad():
        pipeline.vae.decoder.conv_in.weight *= vae_factor
        pipeline.vae.decoder.conv_in.bias *= vae_factor
        pipeline.unet.conv_out.weight *= unet_factor
    description = EngineDescription(
        engine="diffusers",
        pipeline="StableDiffusionPipeline",
        device="cpu",
        dtype=dtype,
        model="tiny",
        load_seconds=0.0,
        versions={"easel": "0", "diffusers": "0", "torch": "0"},
    )
    return DiffusersEngine(pipeline, description)


@pytest.mark.parametrize(
    ("dtype", "advice"),
    [("float16", "model.dtype to BFloat16 or Float32"), ("float32", "the model's files may be damaged")],
)
def test_a_denoiser_that_overflows_fails_its_job_with_advice(dtype: str, advice: str) -> None:
    engine = build_engine(dtype=dtype, unet_factor=float("inf"))
    with pytest.raises(
        NonFiniteError, match=rf"the denoiser gave .* in {dtype}, so the image would be black; .*{advice}"
    ):
        generate(engine, tiny_parameters(steps=2))


def test_an_autoencoder_that_overflows_in_float16_decodes_in_float32(caplog: pytest.LogCaptureFixture) -> None:
    engine = build_engine(dtype="float16", vae_factor=OVERFLOW)
    images = [generate(engine, tiny_parameters(steps=2, seed=7))[0][0] for _ in range(2)]
    expected = generate(build_engine(vae_factor=OVERFLOW), tiny_parameters(steps=2, seed=7))[0][0]
    assert len(set(open_image(images[0]).convert("L").tobytes())) > 1, "it isn't black"
    assert images[0] == images[1]
    assert pixels_differ_by(images[0], expected) < 30, "what float32 gives throughout, up to the denoiser's rounding"
    assert [record.message for record in caplog.records if "overflows" in record.message] == [
        "the autoencoder overflows in torch.float16: images are decoded in float32 from now on"
    ]


def test_what_no_precision_mends_fails_though_the_denoiser_is_well() -> None:
    engine = build_engine(dtype="float16", vae_factor=float("nan"))
    with pytest.raises(NonFiniteError, match="the autoencoder gave numbers that aren't finite in float16"):
        generate(engine, tiny_parameters(steps=2))


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_an_image_of_one_colour_is_an_image(dtype: str) -> None:
    import torch  # noqa: PLC0415

    engine = build_engine(dtype=dtype)
    vae = next(iter(engine._pipelines.values())).pipeline.vae  # type: ignore[attr-defined]
    with torch.no_grad():
        vae.decoder.conv_out.weight *= 0
        vae.decoder.conv_out.bias *= 0
        vae.decoder.conv_out.bias -= 1
    image = open_image(generate(engine, tiny_parameters(steps=2))[0][0])
    assert image.convert("L").getextrema() == (0, 0)


def test_previews_of_an_overflowing_autoencoder_are_mended_too() -> None:
    engine = build_engine(dtype="float16", vae_factor=OVERFLOW)
    previews: list[bytes] = []
    generate_together(engine, [tiny_parameters(steps=2)], {}, lambda step: previews.extend(_take(step)))
    assert all(len(set(open_image(one).convert("L").tobytes())) > 1 for one in previews)
    assert previews


def _take(step: Step) -> list[bytes]:
    return step.build_previews()
