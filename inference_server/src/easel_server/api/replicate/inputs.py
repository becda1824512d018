"""Makes a prediction's ``input.image`` and ``input.mask`` into input pictures."""

from easel_contract.server_config import LimitsConfig
from PIL import Image

from easel_server.api.replicate.fields import NAMES, PredictionInput
from easel_server.gateway.input_images import (
    Fit,
    build_input_pictures,
    choose_size,
    decode_base64,
    decode_picture,
    flatten,
)
from easel_server.gateway.refusals import refuse_field
from easel_server.generation.models import GenerationDefaults
from easel_server.generation.request import InputPictures


def build_prediction_pictures(
    wanted: PredictionInput, defaults: GenerationDefaults, limits: LimitsConfig
) -> InputPictures | None:
    """The pictures, or None if there are none. Takes time: run it in ``Decoders``. Raises RefusalError."""
    if wanted.image is None:
        if wanted.mask is not None:
            raise refuse_field(NAMES.mask, f"means nothing without {NAMES.image}")
        return None

    def decode(field: str, text: str) -> Image.Image:
        data = decode_base64(field, text, is_prefix_needed=True)
        return decode_picture(field, data, max_pixels=limits.max_input_pixels)

    image = decode(NAMES.image, wanted.image)
    mask = flatten(decode(NAMES.mask, wanted.mask)) if wanted.mask is not None else None
    size = choose_size(image.size, (wanted.width, wanted.height), names=NAMES, defaults=defaults, limits=limits)
    return build_input_pictures(image, mask, size, Fit.CROP)
