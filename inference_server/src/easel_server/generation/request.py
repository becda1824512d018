"""A client's request as all APIs agree on it: what was asked for, by whom, and how it is to be served. Pure values."""

import base64
import hashlib
import hmac
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cached_property
from typing import Any, Final

from easel_contract.gateway_config import RateLimitConfig
from easel_contract.schema import Model
from easel_contract.server_config import Priority

STANDARD_WEBHOOKS: Final = "whsec_"
AGE_PATTERN: Final = re.compile(r'"?([0-9]{1,10})"?')
ID_CHARACTERS: Final = 26  # of base32: 130 bits
ID_BYTES: Final = 20  # random ones, a whole number of base32's groups


@dataclass(frozen=True)
class Customer:
    """Who sends requests, and what they may do."""

    name: str
    weight: int = 1  # share of the workers beside other customers who wait
    max_priority: Priority = Priority.NORMAL  # the highest that may be asked for
    rate_limit: RateLimitConfig | None = None  # None: the service's for each key


ANONYMOUS: Final = Customer("anonymous")  # everybody, where no keys are asked for


class WebhookTarget(Model):
    """Where events are sent, and which (``start``, ``completed``: the names of Replicate's API)."""

    url: str
    events: tuple[str, ...] = ("completed",)


def derive_webhook_secret(secret: str, owner: str) -> str:
    """The customer's own secret for webhooks, of one of the service's: it verifies what is sent for this customer.

    So a customer can be given one that says nothing of the service's own or of anybody else's. In the form of
    https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
    """
    key = base64.b64decode(secret.removeprefix(STANDARD_WEBHOOKS))
    return STANDARD_WEBHOOKS + base64.b64encode(hmac.digest(key, f"webhooks of {owner}".encode(), "sha256")).decode()


@dataclass(frozen=True)
class InputImages:
    """What a task begins with, as ``GenerationParameters`` wants it, encoded, by the names of the inputs in ``tasks/``.

    All are of the size of the image that will be generated, and so are the control images, which no task is known by.
    """

    width_pixels: int
    height_pixels: int
    images: Mapping[str, bytes]
    controls: tuple[bytes, ...] = ()  # in the order of the ControlNets

    @cached_property
    def digests(self) -> Mapping[str, str]:
        """SHA-256 of each, by its name."""
        return {name: hashlib.sha256(image).hexdigest() for name, image in self.images.items()}

    @cached_property
    def control_digests(self) -> tuple[str, ...]:
        """SHA-256 of each control image."""
        return tuple(hashlib.sha256(image).hexdigest() for image in self.controls)

    def size(self) -> dict[str, int]:
        """Their size, by the names of ``GenerationParameters``."""
        return {"width_pixels": self.width_pixels, "height_pixels": self.height_pixels}

    def by_digest(self) -> dict[str, bytes]:
        """All of them, as they travel to the worker."""
        begun = {self.digests[name]: image for name, image in self.images.items()}
        return begun | dict(zip(self.control_digests, self.controls, strict=True))


@dataclass(frozen=True)
class CachePolicy:
    """Whether a request may be answered from the result cache, and its images kept there.

    By a client's Cache-Control: https://www.rfc-editor.org/rfc/rfc9111#section-5.2.1
    """

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


DEFAULT_POLICY: Final = CachePolicy()


@dataclass(frozen=True)
class Recipe:
    """What an image says of itself, as a client sends it back to have it again; ``recipes/`` reads and writes it."""

    given: Mapping[str, Any]  # by the names of GenerationParameters, as a client would give it
    digests: Mapping[str, str] = field(default_factory=dict)  # of its input images, by their names in ``tasks/``
    cut: tuple[str, ...] = ()  # parameters that it doesn't hold, since they were too long
    model: Mapping[str, Any] = field(default_factory=dict)
    unknown: tuple[str, ...] = ()  # what it says and nobody here knows


@dataclass(frozen=True)
class GenerationRequest:
    """A request for images by one client.

    ``given`` holds what the client said, by the names of ``GenerationParameters``; ``field_names`` what its API calls
    them, for messages that its users understand.
    """

    customer: Customer
    job_id: str
    given: Mapping[str, Any]
    field_names: Mapping[str, str]
    model: str | None = None  # None: the service's
    inputs: InputImages | None = None
    recipe: Recipe | None = None  # of an earlier image; what it says is in ``given`` already
    is_prompt_required: bool = True
    cache: CachePolicy = DEFAULT_POLICY
    webhook: WebhookTarget | None = None
    client_id: str | None = None  # what the client calls the job; None: by its id
    base_url: str | None = None  # what the client called: http://HOST, for links in webhooks
    deadline: timedelta | None = None
    priority: Priority | None = None  # None: normal, or the highest that the customer may have if that is lower
    previews: int = 0  # unfinished images on the way
    needs_job: bool = True  # False: nobody will ask for it by its id, so a cached answer needs none
    is_waited_for: bool = False  # its client keeps the request open until the images are there
    warnings: tuple[str, ...] = ()  # what won't be done as asked, in sentences; the answer and the job carry them


def new_job_id() -> str:
    """A random id."""
    return _to_id(secrets.token_bytes(ID_BYTES))


def job_id_for_key(owner: str, idempotency_key: str) -> str:
    """The id of all requests of this owner with this Idempotency-Key."""
    return _to_id(hashlib.sha256(f"{owner}\n{idempotency_key}".encode()).digest())


def job_id_for_client_id(owner: str, client_id: str) -> str:
    """The id of the job that this owner calls so. What others call theirs, or send as a key, is never the same."""
    return _to_id(hashlib.sha256(f"\0{owner}\0{client_id}".encode()).digest())


def _to_id(data: bytes) -> str:
    return base64.b32encode(data).decode("ascii").lower()[:ID_CHARACTERS]
