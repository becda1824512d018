"""What a gateway is configured with: what it allows, assumes, keeps and fetches."""

from enum import StrEnum
from typing import Annotated, Final, Self

from pydantic import ConfigDict, Field, IPvAnyNetwork, PlainSerializer, WithJsonSchema, model_validator

from easel_contract.schema import (
    NETWORK_SENTENCE,
    HostAndPort,
    HostName,
    HttpOrigin,
    Model,
    NetworkText,
    WebOrigin,
    cel,
    validations,
)

MAX_NETWORKS: Final = 64


MAX_HOSTS: Final = 64

ASSUMED_COLD_START_SECONDS: Final = 60  # until a start was seen
OVERTAKEN_TARGETS: Final = 2  # and a cold start: how long a late request is overtaken by those that are in time


NETWORK_RULES: Final = validations(
    cel("self.all(each, isIP(each) || (isCIDR(each) && cidr(each) == cidr(each).masked()))", NETWORK_SENTENCE)
)


Network = Annotated[
    IPvAnyNetwork,
    NetworkText,
    PlainSerializer(str, return_type=str),
    WithJsonSchema({"type": "string", "maxLength": 49}),  # an IPv6 address with its prefix length at the longest
]


class Reproducibility(StrEnum):
    """How far an image depends on the jobs that were generated beside it."""

    CLOSE = "Close"  # the seed fixes it up to rounding, which differs with the size of a batch
    EXACT = "Exact"  # to the byte: the denoiser is called with as many rows each time


class QueueOrder(StrEnum):
    """Which of the waiting requests a free worker takes."""

    FIRST_COME_FIRST_SERVED = "FirstComeFirstServed"
    TARGET_FIRST = "TargetFirst"  # the oldest that can still finish within the target, before those that can't


def derive_max_overtaken_seconds(cold_start_seconds: float, target_seconds: float) -> float:
    """How long a late request is overtaken by those that are in time, where nobody says."""
    return cold_start_seconds + OVERTAKEN_TARGETS * target_seconds


class LimitsConfig(Model):
    """Bounds of one request; beyond them a request is refused with the field, the value and the bound."""

    max_images: int = Field(default=4, ge=1, le=16, description="Images of one request.")
    max_width_pixels: int = Field(default=2048, ge=64, le=4096, description="Widest image.")
    max_height_pixels: int = Field(default=2048, ge=64, le=4096, description="Highest image.")
    max_adapters: int = Field(default=8, ge=0, le=32, description="Adapters (LoRA) of one request.")
    max_controls: int = Field(default=3, ge=0, le=8, description="ControlNets of one request.")
    max_hires_pixels: int = Field(
        default=1 << 22, ge=4096, le=1 << 24, description="Pixels of one image after a second pass."
    )
    max_upscaled_pixels: int = Field(
        default=1 << 24, ge=4096, le=1 << 26, description="Pixels of one image that was only enlarged."
    )
    max_steps: int = Field(default=100, ge=1, le=1000, description="Denoising steps of one image.")
    max_prompt_characters: int = Field(
        default=4000, ge=1, le=32000, description="Length of the prompt, and of the negative prompt."
    )
    max_body_bytes: int = Field(default=16 << 20, ge=1024, le=64 << 20, description="Size of a request's body.")
    max_input_pixels: int = Field(
        default=16 << 20, ge=4096, le=256 << 20, description="Pixels of one input image, known before it is decoded."
    )
    max_input_bytes: int | None = Field(
        default=None,
        ge=1 << 20,
        le=1 << 40,
        description="Bytes of input images of all requests that wait or run, together; beyond it 507. They count in "
        "results.maxBytes, too. Unset: 64 MiB, or no bound of their own in a bucket.",
    )
    max_streams: int = Field(
        default=1000, ge=1, le=100000, description="Event streams that one gateway holds open; beyond it 429."
    )
    max_queue_depth: int = Field(
        default=10000, ge=1, description="Requests waiting; beyond it clients get 429 with Retry-After."
    )
    max_wait_seconds: int | None = Field(
        default=None,
        ge=1,
        le=86400,
        description="A request whose predicted wait is longer is refused at once, with the wait; no bound if unset.",
    )


class DefaultsConfig(Model):
    """What a request gets that doesn't say; unset: what suits the model, as far as its files are known."""

    width_pixels: int | None = Field(default=None, ge=64, le=4096, multiple_of=8)
    height_pixels: int | None = Field(default=None, ge=64, le=4096, multiple_of=8)
    steps: int | None = Field(default=None, ge=1, le=1000)
    guidance_scale: float | None = Field(default=None, ge=0, le=100)
    clip_skip: int | None = Field(
        default=None,
        ge=1,
        le=12,
        description="Which layer of CLIP, counted from the last one, prompts are taken from, as AUTOMATIC1111 counts; "
        "1: the last, and of XL and Stable Diffusion 3 the last but one. Unset: 1.",
    )
    reproducibility: Reproducibility | None = Field(
        default=None,
        description="Close: a seed fixes the image up to rounding, which differs with the jobs beside it. Exact: to "
        "the byte, which costs throughput. Unset: Close.",
    )


class RateLimitConfig(Model):
    """Token buckets, exact across gateways; what is unset is not limited."""

    model_config = ConfigDict(
        json_schema_extra=validations(
            cel(
                "has(self.requestsPerMinute) || has(self.gpuSecondsPerMinute)",
                "a rate limit needs requestsPerMinute, gpuSecondsPerMinute or both",
            )
        )
    )

    requests_per_minute: int | None = Field(default=None, ge=1, description="Rate at which requests refill.")
    burst: int = Field(default=10, ge=1, description="Requests that may come at once after a pause.")
    gpu_seconds_per_minute: int | None = Field(
        default=None, ge=1, description="Rate at which predicted GPU-seconds refill."
    )
    gpu_seconds_burst: int = Field(
        default=60,
        ge=1,
        description="Predicted GPU-seconds that may come at once after a pause; a larger request waits for a full "
        "bucket.",
    )

    @model_validator(mode="after")
    def _limits_something(self) -> Self:
        if self.requests_per_minute is None and self.gpu_seconds_per_minute is None:
            raise ValueError("a rate limit needs requestsPerMinute, gpuSecondsPerMinute or both")
        return self


class CacheBackend(StrEnum):
    """Where cached images are."""

    REDIS = "Redis"  # the service's Redis, or the memory of a lone process
    MEMCACHED = "Memcached"


class CacheScope(StrEnum):
    """Whose images a request may be answered with."""

    CUSTOMER = "Customer"  # those of the same customer; without keys everybody is one
    SERVICE = "Service"  # anybody's: more hits, and one may learn that somebody asked for the very same before


class CacheConfig(Model):
    """The result cache: identical requests with a seed are answered from it."""

    model_config = ConfigDict(
        json_schema_extra=validations(
            cel(
                "(has(self.backend) && self.backend == 'Memcached') == has(self.memcachedAddress)",
                "memcachedAddress must be set with backend Memcached, and only then",
            )
        )
    )

    ttl_seconds: int = Field(
        default=3600, ge=0, le=2592000, description="How long an image is kept; 0 switches the cache off."
    )
    max_entry_bytes: int = Field(
        default=16 << 20, ge=1024, description="Requests whose images are larger together are not kept."
    )
    max_bytes: int = Field(
        default=128 << 20, ge=1 << 20, description="Budget of the service's cache in Redis; the least recently used go."
    )
    gateway_bytes: int = Field(
        default=32 << 20, ge=0, description="Budget of the copy that each gateway keeps in its own memory; 0 for none."
    )
    backend: CacheBackend = CacheBackend.REDIS
    memcached_address: HostAndPort | None = Field(
        default=None,
        description="HOST:PORT of the Memcached; only with backend Memcached.",
    )
    scope: CacheScope = Field(
        default=CacheScope.CUSTOMER,
        description="Whose images a request may get, from the cache or by sharing an equal one under way: its own "
        "customer's, or anybody's (Service), which tells one customer what others asked for.",
    )
    unseeded: bool = Field(
        default=False,
        description="Whether requests without a seed may get an image that an equal one got before.",
    )

    @model_validator(mode="after")
    def _has_its_address(self) -> Self:
        if (self.backend is CacheBackend.MEMCACHED) != (self.memcached_address is not None):
            raise ValueError("memcachedAddress must be set with backend Memcached, and only then")
        return self


class ResultsConfig(Model):
    """How long finished images are kept, and how much room they have; a request that finds none is refused (507)."""

    ttl_seconds: int = Field(
        default=3600, ge=60, le=2592000, description="How long a finished request and its images can be fetched."
    )
    max_bytes: int | None = Field(
        default=None,
        ge=1 << 20,
        le=1 << 50,
        description="Budget of the service's images, finished ones and what requests under way may become (3 bytes a "
        "pixel, 2 of JPEG and WebP). Unset: 256 MiB, or 64 GiB in a bucket.",
    )


class InputsConfig(Model):
    """Input images by their address: where gateways may fetch them. Unset: nowhere, images come in requests only."""

    allowed_hosts: tuple[HostName, ...] = Field(
        default=(),
        max_length=MAX_HOSTS,
        description="Hosts that input images are fetched from by http:// or https://, such as images.example.com, "
        "*.example.com, or * for any; redirects lead to these hosts only. Private, loopback and link-local addresses "
        "are refused unless listed in allowedNetworks.",
    )
    allowed_networks: tuple[Network, ...] = Field(
        default=(),
        max_length=MAX_NETWORKS,
        description="Networks in CIDR form that input images may be fetched from although they are private.",
        json_schema_extra=NETWORK_RULES,
    )
    max_seconds: int = Field(
        default=20, ge=1, le=300, description="Time that the images of one request may take to come, all together."
    )


class WebhookConfig(Model):
    """Where webhooks may go. Private, loopback and link-local addresses are refused unless listed here."""

    allowed_networks: tuple[Network, ...] = Field(
        default=(),
        max_length=MAX_NETWORKS,
        description="Networks in CIDR form that webhooks may go to although they are private.",
        json_schema_extra=NETWORK_RULES,
    )


PublicUrl = Annotated[
    HttpOrigin | None,
    Field(
        description="Where clients reach the service, such as https://images.example.com: the beginning of links in "
        "answers and webhooks. Unset: the first host of an Ingress with TLS, else the host that a request called.",
    ),
]


AllowedHosts = Annotated[
    tuple[HostName, ...],
    Field(
        max_length=64,
        description="Names that the service may be called by where no keys are asked for, such as images.example.com, "
        "*.example.com, or * for any; besides its own in the cluster, localhost, addresses, and the host of publicUrl. "
        "Other names are refused (403), since any page in a browser can give itself this service's address.",
    ),
]


AllowedOrigins = Annotated[
    tuple[WebOrigin, ...],
    Field(
        max_length=64,
        description="Other sites whose pages may use the service from a browser (CORS), such as "
        "https://app.example.com, or * for any.",
    ),
]


class GatewayConfig(Model):
    """What a gateway needs besides Redis."""

    limits: LimitsConfig = LimitsConfig()
    defaults: DefaultsConfig | None = None
    rate_limit: RateLimitConfig | None = None  # of each API key that has none of its own
    service_rate_limit: RateLimitConfig | None = None  # of all keys together
    max_workers: int | None = Field(default=None, ge=0)  # how far the service may scale; None: the workers that are
    cache: CacheConfig = CacheConfig()
    webhook: WebhookConfig = WebhookConfig()
    inputs: InputsConfig = InputsConfig()
    public_url: PublicUrl = None
    # A service's own names, those of its ways in from outside, and those that its users have listed.
    allowed_hosts: tuple[HostName, ...] = Field(default=(), max_length=128)
    allowed_origins: AllowedOrigins = ()
    api_keys_directory: str | None = None  # one file a key, named for its owner; None: no key is asked for
    link_keys_directory: str | None = None  # what links are signed with where keys are asked for
    results: ResultsConfig = ResultsConfig()
    drain_seconds: int = Field(default=30, ge=0)  # on SIGTERM: time for open requests; their jobs go on without them


class QueueConfig(Model):
    """What requests wait for, in which order, and what they cost: ``queue.json`` beside a gateway's configuration file.

    It changes with what the operator measures, and with prices, so a gateway takes it over while it runs. In a file of
    its own, and with what isn't known ignored, it never keeps a gateway from starting that is older than the operator:
    an image may be pinned.
    """

    model_config = ConfigDict(extra="ignore")

    target_seconds: float | None = Field(default=None, gt=0, le=86400)  # None: first come, first served
    order: QueueOrder = QueueOrder.TARGET_FIRST
    max_overtaken_seconds: float | None = Field(default=None, ge=0, le=86400)
    cold_start_seconds: float = Field(default=ASSUMED_COLD_START_SECONDS, ge=0, le=86400)  # about what was measured
    price_per_gpu_hour: float | None = Field(default=None, ge=0)  # None: the report of usage has no costs
    currency: str = "USD"

    @property
    def overtaken_seconds(self) -> float | None:
        """How long a late request is overtaken by those that are in time; None: first come first served."""
        if self.target_seconds is None or self.order is QueueOrder.FIRST_COME_FIRST_SERVED:
            return None
        if self.max_overtaken_seconds is not None:
            return self.max_overtaken_seconds
        return derive_max_overtaken_seconds(self.cold_start_seconds, self.target_seconds)

    def bound_gpu_seconds(self, gpu_seconds: float) -> float:
        """Of a job's work, what one pod can do within the target at most."""
        return gpu_seconds if self.target_seconds is None else min(gpu_seconds, self.target_seconds)
