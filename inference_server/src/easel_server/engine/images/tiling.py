"""Whether an autoencoder works tile by tile: decided by size before it begins, and where memory ran out all the same.

what is asked                         what is done
-------------                         ------------
it fits into the budget               at once, as ever
it doesn't                            tile by tile, the tiles as large as the autoencoder is used to, or as fit
it should have fitted, and memory     once more, in tiles, and so from then on for that size. But an Exact job fails:
ran out                               its image must not depend on what else was in memory

The budget follows from the device's memory, all of it, and the model's weights: not from what is free just then. So the
same worker always decides alike, and so does another one on a device of that kind. Tiles give another image, a little,
near their edges: who asked is told.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Final

import torch

from easel_server.engine.device_errors import is_out_of_memory
from easel_server.engine.model_files.memory import read_host_bytes
from easel_server.engine.stepping.memory import attempt, free_device_memory

# Of what the weights leave. The rest is for what libraries need beside the activations, and for add-ons.
BUDGET_SHARE: Final = 0.7
LEAST_TILE_PIXELS: Final = 256  # of its sides: smaller ones differ in colour as a whole
COLOURS: Final = 3

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class VaeSizes:
    """Of an autoencoder with convolutions, whose first and last blocks are as large as the image."""

    scale: int  # pixels of a side for a latent's
    decoding: int  # numbers that are alive at once, at the most, for each pixel
    encoding: int
    tile_pixels: int  # of a tile's sides, as the autoencoder has them

    @classmethod
    def of(cls, vae: Any) -> "VaeSizes | None":
        """None for one that can't work in tiles, or whose shape isn't known.

        Counted by its operations' results, as a test does: an upsampler holds what it enlarges to, what it makes of
        that and a copy of one; a residual block five of its maps.
        """
        channels = getattr(vae.config, "block_out_channels", None)
        tile = getattr(vae, "tile_latent_min_size", None)
        if not isinstance(channels, list | tuple) or not isinstance(tile, int) or not hasattr(vae, "use_tiling"):
            return None
        first, second = channels[0], channels[min(1, len(channels) - 1)]
        scale = 2 ** (len(channels) - 1)
        return cls(scale, max(3 * second, 5 * first), 5 * first + COLOURS, tile * scale)


@dataclass
class VaeUse:
    """How a job uses the autoencoder, and what became of it."""

    is_exact: bool = False
    tiles: dict[str, int] = field(default_factory=dict)  # "decode" or "encode", and the pixels of a tile's sides
    warnings: tuple[str, ...] = ()

    def note(self, direction: str, tile_pixels: int, reason: str) -> None:
        """That it went tile by tile."""
        self.tiles[direction] = tile_pixels
        said = (
            f"the autoencoder had to {direction} tile by tile ({tile_pixels} pixels), since {reason}; near the tiles' "
            "edges the image may differ a little from one that was made at once"
        )
        if said not in self.warnings:
            self.warnings = (*self.warnings, said)


# Of the job whose call runs: each call is a greenlet, which has a context of its own.
CURRENT_USE: Final[ContextVar[VaeUse | None]] = ContextVar("CURRENT_USE", default=None)


def choose_tile(
    sides_pixels: tuple[int, int], numbers_per_pixel: int, number_bytes: int, tile_pixels: int, budget_bytes: int | None
) -> int | None:
    """The sides of the tiles that an image is worked on by; None where it fits at once. Pure.

    ``tile_pixels`` are the autoencoder's own; the budget is None where it isn't known.
    """
    width, height = sides_pixels
    bytes_per_pixel = numbers_per_pixel * number_bytes
    if budget_bytes is None or width * height * bytes_per_pixel <= budget_bytes:
        return None
    chosen = tile_pixels
    while chosen > LEAST_TILE_PIXELS and (
        chosen * chosen * bytes_per_pixel > budget_bytes or chosen >= max(width, height)
    ):
        chosen //= 2
    return chosen if chosen < max(width, height) else None  # so small a one isn't cut any further


def find_budget(device: torch.device, weight_bytes: int) -> int | None:
    """Bytes that an autoencoder may take for one image; None where the device doesn't say how much it has."""
    total = _read_device_bytes(device)
    return None if total is None else max(0, int((total - weight_bytes) * BUDGET_SHARE))


def _read_device_bytes(device: torch.device) -> int | None:
    if device.type == "cpu":
        return read_host_bytes()
    read = getattr(getattr(torch, device.type, None), "get_device_properties", None)
    return None if read is None else int(read(device).total_memory)


def tile_by_size(vae: Any, budget_bytes: int | None) -> None:
    """Encode and decode tile by tile from now on what doesn't fit into the budget, or didn't into memory.

    Where that was memory's fault, only shapes that didn't fit once, so that all others keep their pixels.
    """
    if not hasattr(vae, "enable_tiling"):
        return
    ran_out: set[tuple[int, ...]] = set()
    for direction in ("encode", "decode"):
        setattr(vae, direction, _guard(vae, direction, budget_bytes, ran_out))


def _guard(vae: Any, direction: str, budget_bytes: int | None, ran_out: set[tuple[int, ...]]) -> Callable[..., Any]:
    call: Callable[..., Any] = getattr(vae, direction)
    sizes = VaeSizes.of(vae)

    def run(values: torch.Tensor, *arguments: Any, **options: Any) -> Any:
        use = CURRENT_USE.get() or VaeUse()
        tile, reason = _choose(values, direction, sizes, budget_bytes), "so large a one doesn't fit into memory at once"
        shape = tuple(values.shape[1:])
        if tile is None and (use.is_exact or shape not in ran_out):
            result, error = attempt(lambda: call(values, *arguments, **options))
            if error is None:
                return result
            if not is_out_of_memory(error):
                raise error
            free_device_memory()
            if use.is_exact:  # once more, on all that torch had kept
                return call(values, *arguments, **options)
            ran_out.add(shape)
            logger.warning("the autoencoder works tile by tile from now on for %s: memory ran out", shape)
        if tile is None:
            tile, reason = sizes.tile_pixels if sizes else 0, "memory ran out"
        logger.info("the autoencoder works tile by tile for %s, in tiles of %d pixels: %s", shape, tile, reason)
        use.note(direction, tile, reason)
        with _tiling(vae, tile, sizes):
            return call(values, *arguments, **options)

    return run


def _choose(values: torch.Tensor, direction: str, sizes: VaeSizes | None, budget_bytes: int | None) -> int | None:
    if sizes is None or values.ndim != 4:
        return None
    height, width = values.shape[-2:]
    scale, numbers = (sizes.scale, sizes.decoding) if direction == "decode" else (1, sizes.encoding)
    return choose_tile((width * scale, height * scale), numbers, values.element_size(), sizes.tile_pixels, budget_bytes)


@contextmanager
def _tiling(vae: Any, tile_pixels: int, sizes: VaeSizes | None) -> Iterator[None]:
    names = ("tile_sample_min_size", "tile_latent_min_size") if sizes else ()
    before = {name: getattr(vae, name) for name in names}
    was_tiling = getattr(vae, "use_tiling", False)
    vae.enable_tiling()
    if sizes is not None:
        vae.tile_sample_min_size, vae.tile_latent_min_size = tile_pixels, tile_pixels // sizes.scale
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(vae, name, value)
        if not was_tiling:
            vae.disable_tiling()
