"""Makes a prediction's ``input.image`` and ``input.mask`` into input images."""

from easel_contract.server_config import LimitsConfig
from PIL import Image

from easel_server.api.replicate.fields import PredictionInput
from easel_server.gateway.input_images import Fit, build_input_images, choose_size, decode_base64, decode_image, flatten
from easel_server.gateway.refusals import refuse_field
from easel_server.generation.models import GenerationDefaults
from easel_server.generation.request import InputImages


def build_prediction_inputs(
    body: PredictionInput, defaults: GenerationDefaults, limits: LimitsConfig
) -> InputImages | None:
    """The images, or None if there are none. Takes time: run it in ``Decoders``. Raises RefusalError."""
    names = body.field_names()
    image_name, mask_name = names["image_digest"], names["mask_digest"]
    if body.image is None:
        if body.mask is not None:
            raise refuse_field(mask_name, f"means nothing without {image_name}")
        return None

    def decode(field: str, text: str) -> Image.Image:
        data = decode_base64(field, text, is_prefix_needed=True)
        return decode_image(field, data, max_pixels=limits.max_input_pixels)

    image = decode(image_name, body.image)
    mask = flatten(decode(mask_name, body.mask)) if body.mask is not None else None
    size = choose_size(image.size, (body.width, body.height), names=names, defaults=defaults, limits=limits)
    return build_input_images(image, mask, size, Fit.CROP)
