"""Images to bytes, with two texts inside that say how they were made, and those texts back.

                                     PNG                      JPEG, WebP
    AUTOMATIC1111's (infotext.py)    text chunk `parameters`  EXIF's UserComment
    the recipe as JSON (recipe.py)   text chunk `easel`       XMP's easel:recipe

The first are where AUTOMATIC1111's web UI writes and viewers look; the second are nobody else's: ComfyUI reads `prompt`
and `workflow` of a PNG, and EXIF's Make, Model and ImageDescription are captions elsewhere.
https://www.cipa.jp/std/documents/e/DC-008-2012_E.pdf (4.6.5, UserComment),
https://developer.adobe.com/xmp/docs/XMPSpecifications/ (part 3: which segment of a file)
"""

import re
from io import BytesIO
from typing import Final

from PIL import ExifTags
from PIL.Image import Exif, Image
from PIL.PngImagePlugin import PngInfo

from easel_server.generation.parameters import DEFAULT_QUALITY_PERCENT, ImageFormat

PNG_KEY = "parameters"
RECIPE_KEY = "easel"
UNICODE: Final = b"UNICODE\0"  # the comment's character code, in front of it
UTF_16: Final = "utf-16-be"
MAX_COMMENT_BYTES: Final = 60_000  # a JPEG's EXIF has room for 65,533 with all that is around it
MAX_RECIPE_BYTES: Final = {ImageFormat.JPEG: 64_000}  # a JPEG's segment of XMP has 65,502, others have no bound
# A recipe holds no sign that XML would have to spell otherwise (``recipes.recipe.write_json``).
_XMP: Final = (
    '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    '<rdf:Description rdf:about="" xmlns:easel="https://easel.dev/ns/recipe/1/"><easel:recipe>%s</easel:recipe>'
    "</rdf:Description></rdf:RDF></x:xmpmeta>"
)
_XMP_RECIPE: Final = re.compile(rb"<easel:recipe>([^<]*)</easel:recipe>")


def encode(
    image: Image,
    image_format: ImageFormat,
    description: str = "",
    recipe: str = "",
    *,
    quality_percent: int | None = None,
) -> bytes:
    """The image in a format, with its texts; ``quality_percent`` is of JPEG and WebP, None the default.

    A ``recipe`` of more than MAX_RECIPE_BYTES doesn't fit: ValueError.
    """
    buffer = BytesIO()
    quality = DEFAULT_QUALITY_PERCENT if quality_percent is None else quality_percent
    # Where there is none, none is taken over from an image that was opened.
    within = {"exif": _build_exif(description), "xmp": (_XMP % recipe).encode() if recipe else b""}
    match image_format:
        case ImageFormat.PNG:
            chunks = PngInfo()
            for key, text in ((PNG_KEY, description), (RECIPE_KEY, recipe)):
                if text:
                    chunks.add_itxt(key, text)
            # Level 1: noise-like pixels hardly shrink further, and level 6 takes several times as long.
            image.save(buffer, "PNG", pnginfo=chunks, compress_level=1)
        case ImageFormat.JPEG:
            image.convert("RGB").save(buffer, "JPEG", quality=quality, **within)
        case ImageFormat.WEBP:
            image.save(buffer, "WEBP", quality=quality, **within)
    return buffer.getvalue()


def _build_exif(description: str) -> bytes:
    if not description:
        return b""
    exif = Exif()
    comment = description.encode(UTF_16, errors="replace")[:MAX_COMMENT_BYTES]
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.UserComment] = UNICODE + comment
    return exif.tobytes()


def read_description(image: Image) -> str:
    """The text within an image as it was opened; empty if there is none."""
    if isinstance(text := image.info.get(PNG_KEY), str):
        return text
    comment = image.getexif().get_ifd(ExifTags.IFD.Exif).get(ExifTags.Base.UserComment)
    if not isinstance(comment, bytes) or not comment.startswith(UNICODE):
        return ""
    return comment.removeprefix(UNICODE).decode(UTF_16, errors="replace")


def read_recipe_text(image: Image) -> str:
    """The recipe within an image as it was opened, unread; empty if there is none."""
    if isinstance(text := image.info.get(RECIPE_KEY), str):
        return text
    packet = image.info.get("xmp")
    found = _XMP_RECIPE.search(packet) if isinstance(packet, bytes) else None
    return found[1].decode(errors="replace") if found else ""
