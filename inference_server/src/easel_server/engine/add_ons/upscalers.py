"""Upscalers: networks that enlarge images, whatever spandrel reads, tile by tile; and enlarging without weights.

A tile is given with OVERLAP_PIXELS of its surroundings, which are cut off again, so that no seam is seen; how large
tiles are follows from nothing but the image's size, so that an image comes out the same each time. Only where memory
ends are tiles halved. Others have a step after each tile.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy
import torch
from easel_contract.add_ons import AddOnConfig
from PIL import Image

from easel_server.engine.add_ons.files import LocalAddOn
from easel_server.engine.add_ons.residency import AddOnKey, Residency
from easel_server.engine.device_errors import is_out_of_memory
from easel_server.engine.interface import GenerationError, NonFiniteError
from easel_server.engine.stepping.memory import attempt, free_device_memory
from easel_server.engine.stepping.stepper import take_turns
from easel_server.generation.add_ons import LATENT_MODES, NEAREST, find_cover

TILE_PIXELS: Final = 192  # a side of what a call gives, before it is enlarged; AUTOMATIC1111's default
OVERLAP_PIXELS: Final = 32  # of surroundings on each side
LEAST_TILE_PIXELS: Final = 24
MAX_PASSES: Final = 3  # of a network over its own result, until it is large enough: AUTOMATIC1111's bound
MAX_NETWORK_PIXELS: Final = 1 << 27  # that one may give before its image is made smaller again: 384 MiB
SAFETENSORS: Final = ".safetensors"
SHOWN_CHARACTERS: Final = 200  # of what a library says

logger = logging.getLogger(__name__)
Size = tuple[int, int]  # width and height in pixels


class Network(torch.nn.Module):
    """A network of spandrel's. float32[1, 3, height, width] from 0 to 1 in, the same times ``scale`` out."""

    def __init__(self, descriptor: Any, name: str) -> None:
        super().__init__()
        self.name = name
        self.model = descriptor.model
        self.scale: int = descriptor.scale
        self._descriptor = descriptor  # which pads what it needs multiples of

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """The image, enlarged; bounded to 0 to 1."""
        enlarged: torch.Tensor = self._descriptor(pixels)
        return enlarged


def load_network(file: Path, name: str) -> Network:
    """Of a file in safetensors. Blocks. Raises GenerationError for what is no upscaler, naming it."""
    # It takes a second, and few services need it; it says nothing of its types.
    from spandrel import ImageModelDescriptor, ModelLoader  # type: ignore[import-untyped]  # noqa: PLC0415

    if file.suffix.lower() != SAFETENSORS:
        raise GenerationError(
            f"upscaler {name}: {file.name} is no safetensors file, and others may run whatever they hold; whoever runs "
            "this service converts it"
        )
    descriptor, error = attempt(lambda: ModelLoader(device="cpu").load_from_file(file))
    if descriptor is None:
        reason = str(error).strip().partition("\n")[0] or "no architecture of an upscaler has such tensors"
        raise GenerationError(f"upscaler {name}: {file.name} can't be read as one: {reason[:SHOWN_CHARACTERS]}")
    # Some change an image without enlarging it, others take a mask beside it.
    if not isinstance(descriptor, ImageModelDescriptor) or (descriptor.input_channels, descriptor.output_channels) != (
        3,
        3,
    ):
        raise GenerationError(f"upscaler {name}: {file.name} is a network for something else than images in colour")
    return Network(descriptor.eval(), name).requires_grad_(requires_grad=False)


class Upscalers:
    """Those of an engine."""

    def __init__(self, device: torch.device, residency: Residency, locate: Callable[[AddOnConfig], LocalAddOn]) -> None:
        """``locate`` says where a gathered one's file is, and what."""
        self._device = device
        self._residency = residency
        self._locate = locate

    def prefetch(self, config: AddOnConfig) -> None:
        """Read one into the host's memory. In any thread. Raises GenerationError."""
        self._residency.prefetch(*self._find(config))

    def _find(self, config: AddOnConfig) -> tuple[AddOnKey, Callable[[], Network]]:
        """What it is, and what loads it."""
        found = self._locate(config)
        return AddOnKey("upscaler", config.name, found.digest), partial(load_network, found.path, config.name)

    def hold(self, key: str, add_ons: Sequence[AddOnConfig], stack: ExitStack) -> Network | None:
        """The network of this key on the device, as long as ``stack`` is open; None for an empty key.

        Raises GenerationError where there is none, and AddOnsBusyError where there is no room now.
        """
        if not key:
            return None
        config = next((each for each in add_ons if each.key == key), None)
        if config is None:
            raise GenerationError("the upscaler that this job uses didn't come with it; submit it again")
        return stack.enter_context(self._residency.hold(*self._find(config)))

    def take(self, keys: Sequence[str], add_ons: Sequence[AddOnConfig], holds: ExitStack) -> tuple[Network | None, ...]:
        """As ``hold``, all of them; a job's call waits within until there is room for them."""
        return self._residency.take(lambda stack: tuple(self.hold(key, add_ons, stack) for key in keys), holds)

    def enlarge(self, image: Image.Image, size: Size, mode: str, network: Network | None) -> Image.Image:
        """The image in exactly this size: enlarged until it covers that, and cut at both ends.

        ``mode`` is one of PIXEL_MODES where there is no ``network``. Within a SteppedCall, others have their turns.
        """
        return cut(self.cover(image, size, mode, network), size)

    def cover(self, image: Image.Image, size: Size, mode: str, network: Network | None) -> Image.Image:
        """In its own proportions, as large as covers the size."""
        wanted = find_cover(image.size, size)
        for _ in range(MAX_PASSES if network is not None else 0):
            if network is None or (image.width >= wanted[0] and image.height >= wanted[1]):
                break
            larger = enlarge_by_tiles(image, network, self._device)
            if larger.size == image.size:
                break
            image = larger
        if image.size == wanted:
            return image
        return image.resize(wanted, Image.Resampling.NEAREST if mode == NEAREST else Image.Resampling.LANCZOS)


def cut(image: Image.Image, size: Size) -> Image.Image:
    """The middle of it."""
    left, top = (image.width - size[0]) // 2, (image.height - size[1]) // 2
    return image if image.size == size else image.crop((left, top, left + size[0], top + size[1]))


def enlarge_latents(latents: torch.Tensor, size: Size, mode: str) -> torch.Tensor:
    """Latents for ``size``, columns and rows, as AUTOMATIC1111 enlarges them: [images, channels, rows, columns]."""
    torch_mode, is_smoothed = LATENT_MODES[mode]
    columns, rows = find_cover((latents.shape[-1], latents.shape[-2]), size)
    larger = torch.nn.functional.interpolate(latents, size=(rows, columns), mode=torch_mode, antialias=is_smoothed)
    left, top = (columns - size[0]) // 2, (rows - size[1]) // 2
    return larger[..., top : top + size[1], left : left + size[0]]


def enlarge_by_tiles(
    image: Image.Image,
    network: Network,
    device: torch.device,
    *,
    tile_pixels: int = TILE_PIXELS,
) -> Image.Image:
    """The image times the network's scale. Raises GenerationError where it gets too large, or memory ends."""
    scale = network.scale
    width, height = image.width * scale, image.height * scale
    if width * height > MAX_NETWORK_PIXELS:
        raise GenerationError(
            f"an upscaler that enlarges {scale} times would make {width}x{height} pixels of {image.width}x"
            f"{image.height}, at most {MAX_NETWORK_PIXELS} are made; ask for one that enlarges less"
        )
    pixels = numpy.asarray(image.convert("RGB"))
    result = numpy.empty((height, width, 3), numpy.uint8)
    for box in _list_tiles((0, 0, image.width, image.height), tile_pixels):
        _fill(result, pixels, box, network, device)
        take_turns()
    return Image.fromarray(result)


Box = tuple[int, int, int, int]  # left, top, right, bottom


def _list_tiles(area: Box, side: int) -> Iterator[Box]:
    left, top, right, bottom = area
    for y in range(top, bottom, side):
        for x in range(left, right, side):
            yield x, y, min(x + side, right), min(y + side, bottom)


def _fill(result: Any, pixels: Any, box: Box, network: Network, device: torch.device) -> None:
    tile, error = attempt(lambda: _enlarge_tile(pixels, box, network, device))
    scale, (left, top, right, bottom) = network.scale, box
    if error is None:
        result[top * scale : bottom * scale, left * scale : right * scale] = tile
        return
    side = max(right - left, bottom - top)
    if not is_out_of_memory(error) or side // 2 < LEAST_TILE_PIXELS:
        raise error
    free_device_memory()
    logger.warning("an upscaler's tiles are halved from %d pixels a side: memory ran out", side)
    for part in _list_tiles(box, -(-side // 2)):
        _fill(result, pixels, part, network, device)


def _enlarge_tile(pixels: Any, box: Box, network: Network, device: torch.device) -> Any:
    """uint8[height, width, 3] of a part of the image."""
    left, top, right, bottom = box
    first_row, first_column = max(0, top - OVERLAP_PIXELS), max(0, left - OVERLAP_PIXELS)
    seen = pixels[first_row : bottom + OVERLAP_PIXELS, first_column : right + OVERLAP_PIXELS]
    given = torch.from_numpy(seen.copy()).to(device).permute(2, 0, 1).unsqueeze(0).to(torch.float32).div(255)
    with torch.inference_mode():
        result = network(given)[0]
        if not torch.isfinite(result).all():
            raise NonFiniteError(
                f"upscaler {network.name} gave numbers that aren't finite, which are no image: its file may be "
                "damaged; ask for another one"
            )
        enlarged = result.mul(255).round().to(torch.uint8).permute(1, 2, 0).cpu().numpy()
    row, column, scale = (top - first_row) * network.scale, (left - first_column) * network.scale, network.scale
    return enlarged[row : row + (bottom - top) * scale, column : column + (right - left) * scale]


def count_tiles(size: Size) -> int:
    """Of an image that a network enlarges."""
    return -(-size[0] // TILE_PIXELS) * -(-size[1] // TILE_PIXELS)
