"""What a client's Cache-Control allows. Pure. https://www.rfc-editor.org/rfc/rfc9111#section-5.2.1"""

import hashlib
import re
from dataclasses import dataclass
from functools import cached_property

AGE_PATTERN = re.compile(r'"?([0-9]{1,10})"?')


@dataclass(frozen=True)
class CachePolicy:
    """Whether a request may be answered from the result cache, and its images kept there."""

    read: bool = True  # also: whether it may share the images of an equal request that is under way
    write: bool = True
    max_age_seconds: int | None = None  # oldest answer that the client takes
    only_if_cached: bool = False  # rather no answer than a new one

    @classmethod
    def from_header(cls, cache_control: str) -> "CachePolicy":
        """``no-store`` keeps the result out of the cache too, ``no-cache`` only asks for a fresh one."""
        if not cache_control:
            return DEFAULT_POLICY
        directives = {}
        for directive in cache_control.split(","):
            name, _, value = directive.strip().partition("=")
            directives[name.strip().lower()] = value.strip()
        age = AGE_PATTERN.fullmatch(directives.get("max-age", ""))
        store = "no-store" not in directives
        return cls(
            read=store and "no-cache" not in directives,
            write=store,
            max_age_seconds=int(age[1]) if age else None,
            only_if_cached="only-if-cached" in directives,
        )

    def accepts(self, age_seconds: float) -> bool:
        """Whether an answer of this age may be given."""
        return self.read and (self.max_age_seconds is None or age_seconds <= self.max_age_seconds)


DEFAULT_POLICY = CachePolicy()


@dataclass(frozen=True)
class InputPictures:
    """Pictures as ``GenerationParameters`` wants them, both of the size of the picture that will be drawn."""

    width_pixels: int
    height_pixels: int
    image: bytes  # PNG, RGB
    mask: bytes | None = None  # PNG, L: 255 is redrawn

    @cached_property
    def image_digest(self) -> str:
        """SHA-256 of the picture to begin with."""
        return hashlib.sha256(self.image).hexdigest()

    @cached_property
    def mask_digest(self) -> str | None:
        """SHA-256 of the mask."""
        return hashlib.sha256(self.mask).hexdigest() if self.mask is not None else None

    def by_digest(self) -> dict[str, bytes]:
        """All of them, as they are handed to the broker."""
        pictures = {self.image_digest: self.image}
        if self.mask is not None and self.mask_digest is not None:
            pictures[self.mask_digest] = self.mask
        return pictures
