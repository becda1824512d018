"""Autoencoders tile by tile: which sizes, decided before memory runs out, and what it does to images and memory."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest
from easel_contract.gateway_config import Reproducibility
from easel_server.engine.interface import GenerationError
from easel_server.engine.model_files.memory import read_host_bytes
from easel_server.generation.tasks import Task

from tests.inference_server.engine.stepping.running import build_engine, go_on, images_of
from tests.support.images import build_image, digest, open_image
from tests.support.tiny_engine import tiny_parameters

pytestmark = pytest.mark.torch

SMALL, LARGE = 64, 192  # the tiny autoencoder's tiles are 64 pixels wide
BUDGET_BYTES = 4_000_000  # it takes 1.3 MB for a small image, 11.8 for a large one


def build_vae() -> Any:
    import torch  # noqa: PLC0415  # most tests don't need it

    from tests.support.tiny_models.parts import build_vae  # noqa: PLC0415  # loads torch

    torch.manual_seed(3)
    vae: Any = build_vae(0.18215)
    return vae.eval()


def latents_of(pixels: int) -> Any:
    import torch  # noqa: PLC0415  # most tests don't need it

    coarse = torch.randn(1, 4, 4, 4, generator=torch.Generator().manual_seed(1))
    return torch.nn.functional.interpolate(coarse, size=(pixels // 8, pixels // 8), mode="bilinear")


def run(vae: Any, direction: str, values: Any) -> tuple[Any, int]:
    """What it gives, and the most bytes that it took meanwhile."""
    import torch  # noqa: PLC0415  # most tests don't need it

    from tests.support.peak_bytes import PeakBytes  # noqa: PLC0415  # loads torch

    with torch.inference_mode(), PeakBytes() as peak:
        result = getattr(vae, direction)(values)
        given = result.sample if direction == "decode" else result.latent_dist.mean
    return given, peak.most


def values_for(direction: str, pixels: int) -> Any:
    import torch  # noqa: PLC0415  # most tests don't need it

    if direction == "decode":
        return latents_of(pixels)
    return torch.nn.functional.interpolate(latents_of(64)[:, :3], size=(pixels, pixels), mode="bilinear")


@pytest.mark.parametrize("channels", [(128, 256, 512, 512), (16, 16, 32, 32), (32, 64, 64, 64)])
@pytest.mark.parametrize("direction", ["decode", "encode"])
def test_what_an_autoencoder_takes_is_known_by_its_channels(direction: str, channels: tuple[int, ...]) -> None:
    """Counted operation by operation, without numbers: the first one is Stable Diffusion's."""
    import torch  # noqa: PLC0415  # most tests don't need it
    from diffusers import AutoencoderKL  # noqa: PLC0415  # loads torch
    from easel_server.engine.images.tiling import VaeSizes  # noqa: PLC0415  # loads torch

    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4}
    with torch.device("meta"):
        vae = AutoencoderKL(block_out_channels=channels, layers_per_block=2, norm_num_groups=8, **blocks)
        values = torch.empty(1, 4, 64, 64) if direction == "decode" else torch.empty(1, 3, 512, 512)
    sizes = VaeSizes.of(vae)
    assert sizes is not None
    _, taken = run(vae, direction, values)
    expected = 512 * 512 * 4 * (sizes.decoding if direction == "decode" else sizes.encoding)
    assert taken == pytest.approx(expected, rel=0.05)  # the image itself isn't among the results


@pytest.mark.parametrize(
    ("sides", "tile", "budget", "chosen"),
    [
        ((1024, 1024), 512, 4 << 30, None),  # it fits
        ((2048, 2048), 512, 4 << 30, 512),
        ((1024, 1024), 512, None, None),  # nothing is known
        ((2048, 2048), 1024, 2 << 30, 512),  # a tile of its own wouldn't fit either
        ((1024, 1024), 1024, 2 << 30, 512),  # no larger than its own tile
        ((4096, 256), 512, 2 << 30, 512),
        ((256, 256), 512, 1 << 20, None),  # a smaller tile than the least
        ((2048, 2048), 512, 0, 256),
    ],
)
def test_tiles_are_as_large_as_the_autoencoders_own_or_as_fit(
    sides: tuple[int, int], tile: int, budget: int | None, chosen: int | None
) -> None:
    from easel_server.engine.images.tiling import choose_tile  # noqa: PLC0415  # loads torch

    assert choose_tile(sides, 768, 4, tile, budget) == chosen


@pytest.mark.parametrize("direction", ["decode", "encode"])
def test_small_images_keep_their_bytes_and_large_ones_take_less_memory(direction: str) -> None:
    import torch  # noqa: PLC0415  # most tests don't need it
    from easel_server.engine.images.tiling import tile_by_size  # noqa: PLC0415  # loads torch

    plain, bounded = build_vae(), build_vae()
    tile_by_size(bounded, BUDGET_BYTES)
    small, large = values_for(direction, SMALL), values_for(direction, LARGE)
    assert torch.equal(run(bounded, direction, small)[0], run(plain, direction, small)[0])
    whole, taken_at_once = run(plain, direction, large)
    tiled, taken = run(bounded, direction, large)
    assert tiled.shape == whole.shape
    assert not torch.equal(tiled, whole)
    assert taken < taken_at_once / 2
    assert taken < BUDGET_BYTES
    assert (bounded.use_tiling, bounded.tile_sample_min_size) == (False, 64)
    assert torch.equal(run(bounded, direction, small)[0], run(plain, direction, small)[0])


def test_tiles_leave_no_seams() -> None:
    """Between neighbouring pixels nothing jumps more at a tile's edge than it does elsewhere at once."""
    from easel_server.engine.images.tiling import tile_by_size  # noqa: PLC0415  # loads torch

    plain, bounded = build_vae(), build_vae()
    tile_by_size(bounded, BUDGET_BYTES)
    whole, tiled = (run(vae, "decode", latents_of(LARGE))[0] for vae in (plain, bounded))
    for axis in (2, 3):
        jumps, usual = tiled.diff(dim=axis).abs().amax(), whole.diff(dim=axis).abs().amax()
        assert jumps <= 1.25 * usual
    assert (tiled - whole).abs().mean() <= 0.05 * (whole.amax() - whole.amin())


def build(monkeypatch: pytest.MonkeyPatch) -> Any:
    from easel_server.engine import diffusers_engine  # noqa: PLC0415  # loads torch

    from tests.support.tiny_models import build_sd15  # noqa: PLC0415  # loads torch

    monkeypatch.setattr(diffusers_engine, "find_budget", lambda *_: BUDGET_BYTES)
    return build_engine(build_sd15())


def finish(engine: Any, *jobs: Any, inputs: Any = None) -> list[Any]:
    generations = [engine.begin(job, inputs or {}) for job in jobs]
    go_on(engine, generations)
    return generations


def test_a_job_whose_image_is_tiled_says_so_and_its_neighbours_do_not(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    small, large = tiny_parameters(), tiny_parameters(width_pixels=LARGE, height_pixels=LARGE)
    engine = build(monkeypatch)
    [beside, tiled] = finish(engine, small, large)
    assert beside.warnings == ()
    assert "vaeTiles" not in json.loads(open_image(images_of(beside)[0]).info["easel"])["model"]
    [said] = tiled.warnings
    assert said.startswith("the autoencoder had to decode tile by tile (64 pixels), since so large a one doesn't fit")
    assert json.loads(open_image(images_of(tiled)[0]).info["easel"])["model"]["vaeTiles"] == {"decode": 64}
    assert "tile by tile for (4, 24, 24), in tiles of 64 pixels" in caplog.text


def test_an_input_image_that_is_too_large_is_encoded_tile_by_tile(monkeypatch: pytest.MonkeyPatch) -> None:
    image = build_image(LARGE, LARGE)
    job = tiny_parameters(
        task=Task.IMAGE_TO_IMAGE, image_digest=digest(image), strength=0.6, width_pixels=LARGE, height_pixels=LARGE
    )
    [generation] = finish(build(monkeypatch), job, inputs={digest(image): image})
    assert json.loads(open_image(images_of(generation)[0]).info["easel"])["model"]["vaeTiles"] == {
        "encode": 64,
        "decode": 64,
    }
    assert len(generation.warnings) == 2


def test_an_exact_image_is_tiled_by_its_size_alone_whatever_memory_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same bytes beside others and alone; and where memory runs out all the same, it fails rather than differ."""
    import torch  # noqa: PLC0415  # most tests don't need it

    exact = tiny_parameters(width_pixels=LARGE, height_pixels=LARGE, reproducibility=Reproducibility.EXACT)
    fits = exact.model_copy(update={"width_pixels": 72, "height_pixels": 72})
    close = fits.model_copy(update={"reproducibility": Reproducibility.CLOSE})
    engine = build(monkeypatch)
    [alone], [beside, _] = finish(engine, exact), finish(engine, exact, close)
    assert images_of(alone) == images_of(beside)
    expected = images_of(finish(engine, fits)[0])

    vae = engine._vae
    original, is_full = vae._decode, True

    def decode(z: Any, *arguments: Any, **options: Any) -> Any:
        if is_full and not vae.use_tiling:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return original(z, *arguments, **options)

    vae._decode = decode
    [failed, tiled] = finish(engine, fits, close)
    assert isinstance(failed.error, GenerationError)
    assert "or for Close reproducibility" in str(failed.error)
    assert "since memory ran out" in tiled.warnings[0]
    is_full = False
    assert images_of(finish(engine, fits)[0]) == expected, "what ran out of memory for others is no reason"


def test_the_budget_is_of_all_memory_less_the_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch  # noqa: PLC0415  # most tests don't need it
    from easel_server.engine.images import tiling  # noqa: PLC0415  # loads torch

    (tmp_path / "meminfo").write_text("MemTotal: 4096 kB\nMemAvailable: 1024 kB\n")
    (tmp_path / "memory.max").write_text("max\n")
    assert read_host_bytes(tmp_path, tmp_path / "meminfo") == 4096 << 10
    (tmp_path / "memory.max").write_text("1000000\n")
    assert read_host_bytes(tmp_path, tmp_path / "meminfo") == 1_000_000
    assert read_host_bytes(tmp_path / "none", tmp_path / "none") is None
    monkeypatch.setattr(tiling, "read_host_bytes", lambda: 1_000_000)
    assert tiling.find_budget(torch.device("cpu"), 400_000) == 420_000
    assert tiling.find_budget(torch.device("cpu"), 2_000_000) == 0
    assert tiling.find_budget(torch.device("meta"), 0) is None
