"""A job that only enlarges an image that is there: no step of the model is taken."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from io import BytesIO

from easel_contract.add_ons import AddOnConfig
from PIL import Image

from easel_server.engine.add_ons.upscalers import Upscalers, count_tiles
from easel_server.engine.device_errors import is_out_of_memory
from easel_server.engine.diffusers_generation import ImageFacts
from easel_server.engine.images.safety import Safety
from easel_server.engine.interface import GatheringError, GenerationError, StopGenerationError
from easel_server.engine.stepping.stepper import SteppedCall
from easel_server.generation.add_ons import UPSCALE_STEPS
from easel_server.generation.encoding import MAX_RECIPE_BYTES, encode
from easel_server.generation.parameters import GenerationParameters
from easel_server.generation.recipes.infotext import build_metadata
from easel_server.generation.recipes.recipe import write_recipe


@dataclass
class EnlargingRun:
    """What its call does. As StagesRun, it knows nothing of the greenlet that it runs in."""

    parameters: GenerationParameters
    inputs: Mapping[str, bytes]
    add_ons: Sequence[AddOnConfig]
    upscalers: Upscalers
    is_waiting: bool = True  # until it has its networks

    def __call__(self) -> list[Image.Image]:
        """The image."""
        upscale = self.parameters.upscale
        data = self.inputs.get(self.parameters.image_digest or "")
        if data is None or upscale is None:
            raise GenerationError("an image to enlarge didn't come with the request")
        with ExitStack() as holds:
            first, second = self.upscalers.take((upscale.key, upscale.second_key), self.add_ons, holds)
            self.is_waiting = False
            image = open_image(data)
            size = upscale.width_pixels, upscale.height_pixels
            larger = self.upscalers.enlarge(image, size, upscale.upscaler, first)
            if upscale.second is None:
                return [larger]
            other = self.upscalers.enlarge(image, size, upscale.second, second)
            return [Image.blend(larger, other, upscale.second_share)]


class EnlargingGeneration:
    """One such job. ``size`` is that of its result in pixels."""

    def __init__(
        self,
        parameters: GenerationParameters,
        inputs: Mapping[str, bytes],
        add_ons: Sequence[AddOnConfig],
        upscalers: Upscalers,
        facts: ImageFacts,
        safety: Safety,
    ) -> None:
        self._parameters = parameters
        self._facts = facts
        self.size = parameters.image_size
        self._run = EnlargingRun(parameters, inputs, add_ons, upscalers)
        self._watched = safety.watch(self._run)
        self._turns = 0
        networks = len(parameters.upscale.keys) if parameters.upscale is not None else 0
        self._all_turns = max(1, count_tiles((parameters.width_pixels, parameters.height_pixels)) * networks)
        self.call = SteppedCall(self._watched)

    def settle(self) -> None:
        """To be called when its call has paused, each time."""
        self._turns += not self._run.is_waiting

    @property
    def is_done(self) -> bool:
        """As Generation says."""
        return self.call.is_done

    @property
    def error(self) -> Exception | None:
        """As Generation says."""
        error = self.call.error
        if (
            error is None
            or isinstance(error, StopGenerationError | GenerationError | GatheringError)
            or not is_out_of_memory(error)
        ):
            return error
        width, height = self.size
        return GenerationError(f"{width}x{height} pixels don't fit into memory, not even in small tiles; ask for fewer")

    @property
    def steps_done(self) -> int:
        """As Generation says: by tiles, as many as the first pass of each network has."""
        return UPSCALE_STEPS if self.is_done else min(UPSCALE_STEPS - 1, UPSCALE_STEPS * self._turns // self._all_turns)

    @property
    def own_seconds(self) -> float:
        """As Generation says."""
        return self.call.own_seconds

    @property
    def warnings(self) -> tuple[str, ...]:
        """As Generation says."""
        return self._watched.warnings

    def build_preview(self) -> bytes | None:
        """There is none."""
        return None

    def checkpoint(self) -> bytes | None:
        """There is none: it takes seconds."""
        return None

    def stop(self) -> None:
        """As Generation says."""
        self.call.stop()

    def encode_images(self) -> list[bytes]:
        """As Generation says."""
        parameters = self._parameters
        most = MAX_RECIPE_BYTES.get(parameters.image_format)
        return [
            encode(
                image,
                parameters.image_format,
                build_metadata(parameters, self._facts.texts),
                write_recipe(parameters, index, maker=self._facts.maker, scheduler={}, max_bytes=most),
                quality_percent=parameters.quality_percent,
            )
            for index, image in enumerate(self.call.result)
        ]


def open_image(data: bytes) -> Image.Image:
    """In colour. Raises GenerationError."""
    try:
        return Image.open(BytesIO(data)).convert("RGB")
    except (OSError, SyntaxError, ValueError) as error:  # as Pillow's decoders raise them
        raise GenerationError(f"an input image can't be read: {error}") from error
