"""The safety checker: asked about finished images by what the service wants of those that it flags.

The model's own is taken out of the pipeline, where it makes a black image of what it flags, and nobody hears of it; a
service may name another (safety_models.py).
"""

from collections.abc import Callable, Sequence
from io import BytesIO
from typing import Any, Final, NamedTuple, Protocol

import numpy
import torch
from easel_contract.server_config import SafetyPolicy
from PIL import Image

from easel_server.engine.interface import ContentRefusedError, ModelLoadError
from easel_server.generation.encoding import encode
from easel_server.generation.messages import describe_flagged
from easel_server.generation.parameters import ImageFormat

DEFAULT_POLICY: Final = SafetyPolicy.BLUR  # of a model that is published with a checker
CHECKED_AT_ONCE: Final = 4  # images: memory doesn't grow with a job
# What is left of a blurred image along its longer side: blocks of colour. What was there can't be had back from them.
BLURRED_PIXELS: Final = 8


class SafetyChecker:
    """A checker of diffusers' kind, and what its input is made with."""

    def __init__(self, module: Any, feature_extractor: Any) -> None:
        self._module = module
        self._feature_extractor = feature_extractor

    def find_flagged(self, images: Sequence[Image.Image]) -> tuple[int, ...]:
        """The indices of those that it flags. In the engine's thread."""
        flagged: list[int] = []
        weights = next(self._module.parameters())
        for start in range(0, len(images), CHECKED_AT_ONCE):
            part = images[start : start + CHECKED_AT_ONCE]
            seen = self._feature_extractor(list(part), return_tensors="pt").pixel_values
            # It blackens what it is given beside its own input, so it is given something else than the images.
            blackened = [numpy.zeros(1) for _ in part]
            with torch.inference_mode():
                _, hits = self._module(clip_input=seen.to(weights.device, weights.dtype), images=blackened)
            flagged += (start + number for number, is_hit in enumerate(hits) if is_hit)
        return tuple(flagged)


class FindsFlagged(Protocol):
    """What judges images."""

    def find_flagged(self, images: Sequence[Image.Image]) -> tuple[int, ...]:
        """The indices of those that it flags. In the engine's thread."""
        ...


class NamedChecker(NamedTuple):
    """One that a service names, in place of the model's own."""

    checker: FindsFlagged
    identity: str  # of its weights, and of what counts as a hit


class Safety:
    """A checker and what becomes of an image that it flags. Neither: nothing is checked."""

    def __init__(
        self, checker: FindsFlagged | None, policy: SafetyPolicy = SafetyPolicy.OFF, identity: str = ""
    ) -> None:
        """``identity``: of a checker that isn't the model's own, whose weights are the model's."""
        self._checker = checker if policy is not SafetyPolicy.OFF else None
        self.policy = policy if self._checker is not None else SafetyPolicy.OFF
        self._identity = identity

    @property
    def description(self) -> str:
        """What becomes of which images, as a model's identity has it; empty: nothing is checked."""
        if self.policy is SafetyPolicy.OFF:
            return ""
        return f"{self.policy} by {self._identity}" if self._identity else str(self.policy)

    def watch(self, generate: Callable[[], Sequence[Image.Image]]) -> "WatchedCall":
        """What generates a job's images, with its images looked at before anybody has them."""
        return WatchedCall(generate, self._checker, self.policy)

    def hide(self, preview: bytes | None) -> bytes | None:
        """A preview (PNG) as it may be shown: it can't be judged before it is finished."""
        if preview is None or self.policy in {SafetyPolicy.OFF, SafetyPolicy.FLAG}:
            return preview
        with Image.open(BytesIO(preview)) as opened:
            return encode(blur(opened.convert("RGB")), ImageFormat.PNG)


class WatchedCall:
    """Generates a job's images."""

    def __init__(
        self, generate: Callable[[], Sequence[Image.Image]], checker: FindsFlagged | None, policy: SafetyPolicy
    ) -> None:
        self._generate = generate
        self._checker = checker
        self._policy = policy
        self.warnings: tuple[str, ...] = ()  # once it was called

    def __call__(self) -> list[Image.Image]:
        """The images as they may be given. Raises ContentRefusedError, and whatever generating raises."""
        images = list(self._generate())
        flagged = self._checker.find_flagged(images) if self._checker is not None else ()
        if not flagged:
            return images
        said = describe_flagged(flagged, len(images), self._policy)
        if self._policy is SafetyPolicy.REFUSE:
            raise ContentRefusedError(said)
        self.warnings = (said,)
        if self._policy is SafetyPolicy.BLUR:
            for index in flagged:
                images[index] = blur(images[index])
        return images


def blur(image: Image.Image) -> Image.Image:
    """Beyond recognition, in the same size."""
    shrink = BLURRED_PIXELS / max(image.size)
    small = (max(1, round(image.width * shrink)), max(1, round(image.height * shrink)))
    return image.resize(small, Image.Resampling.BOX).resize(image.size, Image.Resampling.BICUBIC)


def take_safety(pipeline: Any, policy: SafetyPolicy | None, *, model: str, named: NamedChecker | None = None) -> Safety:
    """Take the checker that came with a pipeline out of it; ``policy`` as configured, ``named`` goes before it.

    Raises ModelLoadError if something was asked of a checker that there isn't.
    """
    module = getattr(pipeline, "safety_checker", None)
    if module is None:
        if named is not None:
            return Safety(named.checker, policy or DEFAULT_POLICY, named.identity)
        if policy in (None, SafetyPolicy.OFF):
            return Safety(None)
        raise ModelLoadError(
            f"model {model}: safety is {policy}, and this {type(pipeline).__name__} comes without a safety checker; "
            "leave safety out or set it to Off, name a checker in model.safetyChecker, or serve a model that is "
            "published with one"
        )
    pipeline.register_modules(safety_checker=None)
    pipeline.register_to_config(requires_safety_checker=False)
    if named is not None:
        return Safety(named.checker, policy or DEFAULT_POLICY, named.identity)
    return Safety(SafetyChecker(module, pipeline.feature_extractor), policy or DEFAULT_POLICY)
