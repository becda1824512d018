"""The inference server's configuration file, rendered by the operator into a ConfigMap and read by easel-server.

A role's file holds only the sections it uses, so that a change to a gateway's limits doesn't roll GPU pods.
"""

from enum import StrEnum
from typing import Final, Self

from pydantic import ConfigDict, Field, model_validator

from easel_contract.add_ons import DEFAULT_ADD_ON_FILE_BYTES, AddOnsConfig
from easel_contract.gateway_config import GatewayConfig
from easel_contract.schema import (
    HttpBase,
    HttpOrigin,
    HttpUrl,
    Model,
    SamplerName,
    cel,
    validations,
)

DEFAULT_IMAGE_BYTES: Final = 256 << 20  # in Redis, which other services share
DEFAULT_INPUT_BYTES: Final = 64 << 20  # among those
DEFAULT_BUCKET_BYTES: Final = 64 << 30


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


class AddOnMemory(Model):
    """How much memory adapters, ControlNets and upscalers may take that are loaded beside the model."""

    device_percent: int = Field(
        default=15,
        ge=1,
        le=90,
        description="Of all the GPU's memory. What isn't in use goes, the least recently used first, where another "
        "needs its room; requests for more than that at once wait for each other.",
    )
    host_percent: int = Field(
        default=25,
        ge=1,
        le=90,
        description="Of the host's memory that is free once the model is loaded: keeps those that left the GPU, and "
        "what is read ahead. On CPU it is the only place.",
    )


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
    add_on_memory: AddOnMemory = AddOnMemory()
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
        if self.shift is None and self.sampler is None and not is_of_others:  # null is as good as left out
            raise ValueError(SETS_NOTHING)
        return self


class BucketCopyConfig(Model):
    """Objects of a bucket that a cache holds a copy of."""

    uri: str = Field(pattern=r"^s3://[^/]+/.+$")  # all below it
    endpoint: str | None = None  # where it isn't AWS
    region: str | None = None
    credentials_directory: str | None = None  # of the Job's; None: its own identity
    name: str = Field(pattern=r"^[0-9a-f]{8,64}$")  # of the directory below s3/


class ModelCacheConfig(Model):
    """A volume that workers read repositories of the Hub from, and download nothing of the model beside it."""

    directory: str = Field(min_length=1)  # holds the Hub client's own layout under hub/, and records of what was filled
    # Of the record that says which commits stand for the revisions; None: filled by others, whose refs say it.
    record: str | None = Field(default=None, pattern=r"^[0-9a-f]{8,64}$")
    copies: tuple[BucketCopyConfig, ...] = ()
    is_on_gpu: bool = True  # which number formats may be loaded, as whoever fills it sees no GPU


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
    cache: ModelCacheConfig | None = None  # None: each worker downloads for itself


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


class WorkerConfig(Model):
    """What a worker needs besides Redis."""

    lease_seconds: int = Field(default=10, ge=2)  # a job whose worker is silent this long is released
    max_attempts: int = Field(default=3, ge=1)  # a job that ends its worker this often fails
    drain_seconds: int = Field(default=50, ge=0)  # on SIGTERM: time to finish; what is left goes back to the queue
    # Images of one size that share steps; None: as many as the engine does best.
    max_batch_images: int | None = Field(default=None, ge=1, le=64)
    # After which a step counts as one that never ends; None: far longer than any took so far, at least five minutes.
    step_timeout_seconds: int | None = Field(default=None, ge=1, le=86_400)
    # Of what is downloaded of one add-on: larger ones are refused
    max_add_on_file_bytes: int = Field(default=DEFAULT_ADD_ON_FILE_BYTES, ge=1)


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
