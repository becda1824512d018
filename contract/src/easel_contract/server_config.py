"""The inference server's configuration file, rendered by the operator into a ConfigMap and read by easel-server.

A role's file holds only the sections it uses, so that a change to a gateway's limits doesn't roll GPU pods.
"""

from enum import StrEnum
from typing import Annotated, Final, Self

from pydantic import ConfigDict, Field, IPvAnyNetwork, PlainSerializer, WithJsonSchema, model_validator

from easel_contract.add_ons import AddOnsConfig
from easel_contract.schema import (
    NETWORK_SENTENCE,
    HostAndPort,
    HostName,
    HttpBase,
    HttpOrigin,
    HttpUrl,
    Model,
    NetworkText,
    SamplerName,
    WebOrigin,
    cel,
    validations,
)

DEFAULT_IMAGE_BYTES: Final = 256 << 20  # in Redis, which other services share
DEFAULT_INPUT_BYTES: Final = 64 << 20  # among those
DEFAULT_BUCKET_BYTES: Final = 64 << 30

MAX_NETWORKS: Final = 64
MAX_HOSTS: Final = 64
NETWORK_RULES: Final = validations(
    cel("self.all(each, isIP(each) || (isCIDR(each) && cidr(each) == cidr(each).masked()))", NETWORK_SENTENCE)
)
Network = Annotated[
    IPvAnyNetwork,
    NetworkText,
    PlainSerializer(str, return_type=str),
    WithJsonSchema({"type": "string", "maxLength": 49}),  # an IPv6 address with its prefix length at the longest
]


class Priority(StrEnum):
    """Which waiting jobs go first; within one priority, customers share by weight."""

    HIGH = "High"
    NORMAL = "Normal"
    LOW = "Low"


class DType(StrEnum):
    """Number format of the model's weights and activations."""

    AUTO = "Auto"  # bfloat16 on GPUs that have it, float16 on other GPUs, float32 on CPU
    FLOAT32 = "Float32"
    FLOAT16 = "Float16"
    BFLOAT16 = "BFloat16"


class Quantization(StrEnum):
    """Number format that weights are kept in, where that isn't the one they are computed in."""

    FLOAT8 = "Float8"  # e4m3, cast layer by layer to the dtype as it is needed


class StepCache(StrEnum):
    """Which work of a denoising step is taken from the step before: faster, and other images."""

    DEEP_CACHE = "DeepCache"  # UNets: the deep blocks run at every third step only
    FIRST_BLOCK_CACHE = "FirstBlockCache"  # transformers: where the first block gives nearly the same, no other runs


class Reproducibility(StrEnum):
    """How far an image depends on the jobs that were generated beside it."""

    CLOSE = "Close"  # the seed fixes it up to rounding, which differs with the size of a batch
    EXACT = "Exact"  # to the byte: the denoiser is called with as many rows each time


class SafetyPolicy(StrEnum):
    """What becomes of an image that the model's own safety checker flags."""

    FLAG = "Flag"  # it is given as it is, and the answer says so
    BLUR = "Blur"  # it is given blurred beyond recognition, and the answer says so
    REFUSE = "Refuse"  # its request fails
    OFF = "Off"  # nothing is checked


class EngineKind(StrEnum):
    """What generates the images."""

    DIFFUSERS = "Diffusers"
    SYNTHETIC = "Synthetic"  # takes the time that a GPU would, for a labelled image: for load and scaling tests


class Compilation(StrEnum):
    """Whether the denoiser's repeated blocks are compiled."""

    OFF = "Off"
    ON = "On"  # beside the work, which goes on uncompiled until it is done


class Offload(StrEnum):
    """Which weights wait in the host's memory, to be copied to the device when it is their turn."""

    NONE = "None"
    GROUP = "Group"  # all, block by block


class SyntheticConfig(Model):
    """How long the synthetic engine takes; by default about a Stable Diffusion 1.5 on a data-centre GPU."""

    milliseconds_per_step: int = Field(
        default=50, ge=0, le=60000, description="Of one image of a megapixel, one pass a step."
    )
    milliseconds_per_image: int = Field(default=100, ge=0, le=60000, description="Besides the steps: encode, decode.")
    load_seconds: int = Field(default=0, ge=0, le=3600, description="Time that loading the model takes.")


class EngineConfig(Model):
    """What a worker generates with."""

    kind: EngineKind = EngineKind.DIFFUSERS
    compile: Compilation = Field(
        default=Compilation.OFF,
        description="On compiles the denoiser's repeated blocks with torch.compile, in the background: a worker is "
        "ready at once, and faster once it is done. Requests with Exact reproducibility run uncompiled. On GPUs only.",
    )
    offload: Offload = Field(
        default=Offload.NONE,
        description="Group keeps the weights in the host's memory and copies them to the GPU block by block, for "
        "models that don't fit; it costs speed, and as much host memory as the weights have. On GPUs only.",
    )
    synthetic: SyntheticConfig = SyntheticConfig()


class SourceConfig(Model):
    """Where weights come from."""

    source: str = Field(min_length=1)  # a Hugging Face Hub id, or an absolute path of a directory or a file
    revision: str | None = None
    variant: str | None = None  # of the weight files: "fp16"
    file: str | None = None  # a single one of a repository on the Hub


class SafetyCheckerConfig(SourceConfig):
    """A safety checker in place of the model's own."""

    labels: tuple[str, ...] = ()  # of a classifier, those that count; empty: those whose names say so
    threshold: float = Field(default=0.5, ge=0.01, le=1)  # from which likelihood on an image is flagged


class PredictionType(StrEnum):
    """What a denoiser was trained to say of a step."""

    EPSILON = "Epsilon"  # the noise
    V_PREDICTION = "VPrediction"  # the velocity: https://arxiv.org/abs/2202.00512


class TimestepSpacing(StrEnum):
    """Which of the steps that a model was trained with are taken."""

    LEADING = "Leading"
    LINSPACE = "Linspace"
    TRAILING = "Trailing"  # ends where noise is most


SHIFT_ALONE: Final = (
    "shift is for models that match flows (Stable Diffusion 3, Flux), predictionType, "
    "rescaleBetasZeroSnr and timestepSpacing for those that don't: set the one or the others"
)
SETS_NOTHING: Final = (
    "an empty scheduler changes nothing: set sampler, shift, predictionType, "
    "rescaleBetasZeroSnr or timestepSpacing, or leave scheduler out"
)


class SchedulerConfig(Model):
    """How a model is denoised, where its files don't say it or say it otherwise."""

    model_config = ConfigDict(
        json_schema_extra=validations(
            cel(
                "!has(self.shift) || !(has(self.predictionType) || has(self.rescaleBetasZeroSnr) || "
                "has(self.timestepSpacing))",
                SHIFT_ALONE,
            ),
            cel(
                "has(self.sampler) || has(self.shift) || has(self.predictionType) || has(self.rescaleBetasZeroSnr) || "
                "has(self.timestepSpacing)",
                SETS_NOTHING,
            ),
        )
    )

    sampler: SamplerName | None = Field(
        default=None,
        description="What a request gets that names no sampler, by AUTOMATIC1111's names, such as `DPM++ 2M Karras`. "
        "One that the model can't use isn't loaded. Unset: the model's own scheduler.",
    )
    shift: float | None = Field(
        default=None,
        ge=0.01,
        le=100,
        description="Of models that match flows (Stable Diffusion 3, Flux): by how much noise levels are shifted, "
        "whatever an image's size. With all of their samplers.",
    )
    prediction_type: PredictionType | None = Field(
        default=None,
        description="What the model was trained to predict. Single files of models that predict velocity often don't "
        "say so, and give noise otherwise. With all samplers.",
    )
    rescale_betas_zero_snr: bool | None = Field(
        default=None,
        description="Whether the last step is pure noise (zero terminal SNR), as models such as NoobAI's v-pred were "
        "trained. Then only samplers that can do it are offered: Euler, Euler a, DPM++ 2M, DDIM, UniPC and the like.",
    )
    timestep_spacing: TimestepSpacing | None = Field(
        default=None,
        description="Which steps are taken, where a sampler's name doesn't say. With zero terminal SNR: Trailing.",
    )

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        is_of_others = (self.prediction_type, self.rescale_betas_zero_snr, self.timestep_spacing) != (None, None, None)
        if self.shift is not None and is_of_others:
            raise ValueError(SHIFT_ALONE)
        if not self.model_fields_set:
            raise ValueError(SETS_NOTHING)
        return self


class ModelConfig(SourceConfig):
    """Which pipeline to load."""

    name: str = Field(min_length=1)  # the id that clients see in /v1/models
    config_repository: str | None = None  # of a single file: the Hub repository with its configuration
    allow_pickles: bool = False
    dtype: DType = DType.AUTO
    quantization: Quantization | None = None
    step_cache: StepCache | None = None
    safety: SafetyPolicy | None = None  # None: Blur where the model comes with a checker
    safety_checker: SafetyCheckerConfig | None = None  # None: the model's own, where it has one
    refiner: SourceConfig | None = None  # takes over the last steps
    vae: SourceConfig | None = None  # in place of the model's own autoencoder
    scheduler: SchedulerConfig | None = None  # how it is denoised, where its files say otherwise


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


class BucketConfig(Model):
    """An S3-compatible bucket for images; Redis keeps the references only."""

    model_config = ConfigDict(
        json_schema_extra=validations(
            cel("has(self.endpoint) || has(self.region)", "a bucket needs a region (AWS), an endpoint, or both")
        )
    )

    name: str = Field(
        min_length=3, max_length=63, pattern=r"^[a-z0-9][a-z0-9.-]+[a-z0-9]$", description="The bucket's name."
    )
    endpoint: HttpOrigin | None = Field(
        default=None,
        description="Where the bucket is served, such as https://minio.example.com:9000; AWS' own if unset.",
    )
    region: str | None = Field(
        default=None,
        max_length=64,
        pattern=r"^[a-z0-9-]+$",
        description="The bucket's region; us-east-1 if only an endpoint is set.",
    )
    prefix: str = Field(
        default="",
        max_length=500,
        pattern=r"^([A-Za-z0-9_.-]+/)*$",
        description="In front of every key, as in `images/`; NAMESPACE/SERVICE/UID/ follows it.",
    )
    presign_seconds: int = Field(
        default=3600,
        ge=60,
        le=604800,
        description="How long a link to an image works; shorter where the credentials that signed it expire earlier.",
    )
    public_base_url: HttpBase | None = Field(
        default=None,
        description="Links are this address, a slash and the key, unsigned: a CDN in front of the bucket. Keys "
        "can't be guessed.",
    )

    @model_validator(mode="after")
    def _is_somewhere(self) -> Self:
        if self.endpoint is None and self.region is None:
            raise ValueError("a bucket needs a region (AWS), an endpoint, or both")
        return self


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
        "answers and webhooks. Unset: the host that a request called.",
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
    allowed_hosts: AllowedHosts = ()
    allowed_origins: AllowedOrigins = ()
    api_keys_directory: str | None = None  # one file a key, named for its owner; None: no key is asked for
    link_keys_directory: str | None = None  # what links are signed with where keys are asked for
    results: ResultsConfig = ResultsConfig()
    drain_seconds: int = Field(default=30, ge=0)  # on SIGTERM: time for open requests; their jobs go on without them


class WorkerConfig(Model):
    """What a worker needs besides Redis."""

    lease_seconds: int = Field(default=10, ge=2)  # a job whose worker is silent this long is released
    max_attempts: int = Field(default=3, ge=1)  # a job that ends its worker this often fails
    drain_seconds: int = Field(default=50, ge=0)  # on SIGTERM: time to finish; what is left goes back to the queue
    # Images of one size that share steps; None: as many as the engine does best.
    max_batch_images: int | None = Field(default=None, ge=1, le=64)
    # After which a step counts as one that never ends; None: far longer than any took so far, at least five minutes.
    step_timeout_seconds: int | None = Field(default=None, ge=1, le=86_400)


class TracingConfig(Model):
    """Traces by OpenTelemetry, from the gateway through the queue to the denoising steps."""

    endpoint: HttpUrl | None = Field(
        default=None,
        description="OTLP/HTTP collector, such as http://collector:4318; no traces if unset.",
    )
    sample_percent: int = Field(
        default=100, ge=0, le=100, description="Of traces that begin here; a caller's own decision is kept."
    )


class ServerConfig(Model):
    """The whole file."""

    namespace: str = "default"
    service: str = "easel"
    uid: str = ""  # of the resource, in the names of what is stored; empty outside Kubernetes
    model: ModelConfig
    add_ons: AddOnsConfig = AddOnsConfig()
    engine: EngineConfig = EngineConfig()
    gateway: GatewayConfig = GatewayConfig()
    worker: WorkerConfig = WorkerConfig()
    bucket: BucketConfig | None = None  # where images are; None: in Redis, or the memory of a lone process
    tracing: TracingConfig = TracingConfig()

    @property
    def max_input_bytes(self) -> int | None:
        """Bound of the input images of requests under way; None: that of all images."""
        return self.gateway.limits.max_input_bytes or (None if self.bucket else DEFAULT_INPUT_BYTES)

    @property
    def max_image_bytes(self) -> int:
        """Budget of the service's images."""
        default = DEFAULT_BUCKET_BYTES if self.bucket else DEFAULT_IMAGE_BYTES
        return self.gateway.results.max_bytes or default
