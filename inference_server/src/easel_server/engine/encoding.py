"""Pictures to bytes. A PNG carries the parameters it was made with, in the text form that image tools read."""

from importlib.metadata import version
from io import BytesIO

from PIL.Image import Image
from PIL.PngImagePlugin import PngInfo

from easel_server.job import GenerationParameters, ImageFormat

LOSSY_QUALITY_PERCENT = 95
PNG_KEY = "parameters"  # the keyword that AUTOMATIC1111's web UI writes, and that viewers look for


def encode(image: Image, parameters: GenerationParameters, *, seed: int, model: str, scheduler: str) -> bytes:
    """The image in ``parameters.image_format``; ``seed`` is this image's own."""
    buffer = BytesIO()
    match parameters.image_format:
        case ImageFormat.PNG:
            text = build_description(parameters, seed=seed, model=model, scheduler=scheduler)
            chunks = PngInfo()
            chunks.add_itxt(PNG_KEY, text)
            # Level 1: noise-like pixels hardly shrink further, and level 6 takes several times as long.
            image.save(buffer, "PNG", pnginfo=chunks, compress_level=1)
        case ImageFormat.JPEG:
            image.convert("RGB").save(buffer, "JPEG", quality=LOSSY_QUALITY_PERCENT)
        case ImageFormat.WEBP:
            image.save(buffer, "WEBP", quality=LOSSY_QUALITY_PERCENT)
    return buffer.getvalue()


def build_description(parameters: GenerationParameters, *, seed: int, model: str, scheduler: str) -> str:
    """Prompt, negative prompt, and a last line of ``name: value`` pairs that is enough to draw the picture again."""
    facts = {
        "Steps": parameters.steps,
        "Sampler": scheduler,
        "CFG scale": parameters.guidance_scale,
        "Seed": seed,
        "Size": f"{parameters.width_pixels}x{parameters.height_pixels}",
        "Model": model,
        "Version": f"easel {version('easel')}",
        "Diffusers": version("diffusers"),
        "Torch": version("torch"),
    }
    lines = [parameters.prompt]
    if parameters.negative_prompt:
        lines.append(f"Negative prompt: {parameters.negative_prompt}")
    lines.append(", ".join(f"{name}: {value}" for name, value in facts.items()))
    return "\n".join(lines)
