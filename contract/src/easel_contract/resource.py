"""The StableDiffusionService resource: the one source of the CRD, the reference docs and the operator's view of it.

Defaults are written into the CRD, so that the API server shows users what they get. Rules that span fields are CEL
(``x-kubernetes-validations``), so that ``kubectl apply`` refuses a bad resource with a sentence; the pydantic
validators say the same for resources that reach the operator some other way.
"""

from enum import StrEnum
from typing import Annotated, Literal, Self

from pydantic import AwareDatetime, ConfigDict, Field, field_validator, model_validator

from easel_contract.conditions import Condition
from easel_contract.cron import check_cron
from easel_contract.schema import Model, ObjectName, Quantity, TimeZone, Word, cel, validations
from easel_contract.server_config import (
    AllowedHosts,
    AllowedOrigins,
    BucketConfig,
    CacheConfig,
    DefaultsConfig,
    DType,
    EngineConfig,
    LimitsConfig,
    PublicUrl,
    Quantization,
    RateLimitConfig,
    ResultsConfig,
    SafetyPolicy,
    StepCache,
    TracingConfig,
    WebhookConfig,
)

IMAGE_DESCRIPTION = "Container image; the operator's own release if unset."


REPOSITORY_PATTERN = r"^[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?$"
# Of a file or a directory below a root: users' files have blanks and brackets in their names; nothing is hidden, and
# nothing leads out.
PATH_PATTERN = r"[^/.\s][^/\n\r]*(/[^/.\s][^/\n\r]*)*"


class HuggingFaceSource(Model):
    """A model on the Hugging Face Hub: a pipeline in diffusers' layout, or one file of the repository."""

    model_config = ConfigDict(
        json_schema_extra=validations(
            cel(
                "!has(self.variant) || !has(self.file)",
                "variant names files of diffusers' layout, and file names a single one: set one of them",
            )
        )
    )

    repository: str = Field(
        min_length=1,
        max_length=200,
        pattern=REPOSITORY_PATTERN,
        description="Repository id, such as stabilityai/stable-diffusion-xl-base-1.0.",
    )
    variant: str | None = Field(
        default=None,
        min_length=1,
        max_length=63,
        pattern=r"^[A-Za-z0-9_-]+$",
        description="Which of the repository's files to load, such as fp16 for `….fp16.safetensors`. Unset: fp16 where "
        "the weights become 16 bits wide and the repository has it, half the download; else the files without one.",
    )
    file: str | None = Field(
        default=None,
        min_length=1,
        max_length=1024,
        pattern=f"^{PATH_PATTERN}$",
        description="A single file of the repository with the whole model or its denoiser, such as "
        "sd_xl_base_1.0.safetensors; a pipeline in diffusers' layout if unset.",
    )
    revision: Word | None = Field(
        default=None,
        description="Branch, tag or commit; the repository's default if unset.",
    )
    token_secret_name: ObjectName | None = Field(
        default=None, description="Secret with a Hub token under the key `token`, for gated or private repositories."
    )

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        if self.variant is not None and self.file is not None:
            raise ValueError("variant names files of diffusers' layout, and file names a single one: set one of them")
        return self


class VolumeSource(Model):
    """A pipeline in diffusers' layout, or a single file, on a PersistentVolumeClaim of the same namespace; mounted
    read-only."""

    claim_name: ObjectName = Field(description="Name of the PersistentVolumeClaim.")
    path: str = Field(
        default="",
        max_length=1024,
        pattern=f"^({PATH_PATTERN})?$",
        description="Directory inside the volume that holds model_index.json or a single file of weights, or the file "
        "itself; the volume's root if empty.",
    )


class ModelSource(Model):
    """Where the model comes from: exactly one member."""

    model_config = ConfigDict(
        json_schema_extra=validations(
            cel(
                "has(self.huggingFace) != has(self.persistentVolumeClaim)",
                "exactly one of huggingFace and persistentVolumeClaim must be set",
            )
        )
    )

    hugging_face: HuggingFaceSource | None = None
    persistent_volume_claim: VolumeSource | None = None

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        if (self.hugging_face is None) == (self.persistent_volume_claim is None):
            raise ValueError("exactly one of huggingFace and persistentVolumeClaim must be set")
        return self


class RefinerSpec(Model):
    """A second model that takes over an image's last steps."""

    source: ModelSource


class ModelSpec(Model):
    """The model that a service serves."""

    model_config = ConfigDict(
        json_schema_extra=validations(
            cel(
                "!has(self.refiner) || !has(self.source.huggingFace) || !has(self.refiner.source.huggingFace) "
                "|| !has(self.source.huggingFace.tokenSecretName) "
                "|| !has(self.refiner.source.huggingFace.tokenSecretName) "
                "|| self.source.huggingFace.tokenSecretName == self.refiner.source.huggingFace.tokenSecretName",
                "model and refiner are fetched with one token: tokenSecretName must be the same in both",
            )
        )
    )

    source: ModelSource
    refiner: RefinerSpec | None = Field(
        default=None,
        description="Stable Diffusion XL's refiner, which shares the model's second text encoder and autoencoder.",
    )
    config_repository: str | None = Field(
        default=None,
        min_length=1,
        max_length=200,
        pattern=REPOSITORY_PATTERN,
        description="Hub repository in diffusers' layout with the configuration and tokenizers of a single file; only "
        "those are fetched. Unset: what lies beside the file, else the repository of the file's family.",
    )
    allow_pickles: bool = Field(
        default=False,
        description="Also load pickles (.ckpt, .pt, .bin) where there are no safetensors: tensors alone are read from "
        "them, and nothing in them is called. Convert them instead where you can.",
    )
    dtype: DType = Field(
        default=DType.AUTO,
        description="Number format of the weights. Auto: bfloat16 where the GPU has it, else float16; float32 on CPU, "
        "which can do BFloat16 if its processor does.",
    )
    quantization: Quantization | None = Field(
        default=None,
        description="Float8 keeps the weights of denoiser and text encoders in 8 bits, half of BFloat16, and computes "
        "in dtype as before: other images, slightly. Unset: as dtype says.",
    )
    step_cache: StepCache | None = Field(
        default=None,
        description="Reuse work of earlier steps: faster, and other images. DeepCache for models with a UNet (Stable "
        "Diffusion 1.x, 2.x, XL), FirstBlockCache for Flux. Requests then share no steps: each runs alone.",
    )
    safety: SafetyPolicy | None = Field(
        default=None,
        description="What becomes of an image that the model's own safety checker flags. Flag: it is given, and the "
        "answer says so. Blur: it is given blurred. Refuse: its request fails. Off: nothing is checked. Unset: Blur "
        "where the model comes with a checker, as Stable Diffusion 1.x does; else nothing but Off can be set.",
    )

    @model_validator(mode="after")
    def _one_token(self) -> Self:
        sources = [self.source.hugging_face, self.refiner.source.hugging_face if self.refiner else None]
        secrets = {hub.token_secret_name for hub in sources if hub is not None} - {None}
        if len(secrets) > 1:
            raise ValueError("model and refiner are fetched with one token: tokenSecretName must be the same in both")
        return self


class Toleration(Model):
    """core/v1 Toleration."""

    model_config = ConfigDict(
        json_schema_extra=validations(
            cel(
                "self.operator == 'Exists' ? !has(self.value) : has(self.key)",
                "operator Exists takes no value, and operator Equal needs a key",
            ),
            cel(
                "!has(self.tolerationSeconds) || (has(self.effect) && self.effect == 'NoExecute')",
                "tolerationSeconds needs effect NoExecute",
            ),
        )
    )

    key: str | None = Field(default=None, max_length=317)
    operator: Literal["Exists", "Equal"] = "Equal"
    value: str | None = Field(default=None, max_length=63)
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None
    toleration_seconds: int | None = Field(default=None, ge=0)

    @model_validator(mode="after")
    def _admitted(self) -> Self:
        if (self.operator == "Exists" and self.value is not None) or (self.operator == "Equal" and self.key is None):
            raise ValueError("operator Exists takes no value, and operator Equal needs a key")
        if self.toleration_seconds is not None and self.effect != "NoExecute":
            raise ValueError("tolerationSeconds needs effect NoExecute")
        return self


class ResourceRequirements(Model):
    """core/v1 ResourceRequirements, without claims. GPUs belong in worker.gpu."""

    requests: dict[str, Quantity] = Field(default_factory=dict, description="What the scheduler sets aside.")
    limits: dict[str, Quantity] = Field(default_factory=dict, description="What the pod can't exceed.")


class GpuSpec(Model):
    """The GPUs that one worker pod asks for."""

    resource_name: str = Field(
        default="nvidia.com/gpu",
        max_length=317,
        pattern=r"^[a-z0-9.-]+/[A-Za-z0-9._-]+$",
        description="Extended resource, such as nvidia.com/gpu or nvidia.com/mig-1g.10gb. Its taint is tolerated.",
    )
    count: int = Field(default=1, ge=0, le=16, description="GPUs a pod; 0 runs on CPU.")


class WorkerSpec(Model):
    """The pods that run the denoising loop."""

    model_config = ConfigDict(
        json_schema_extra=validations(
            cel(
                # Also asked of the default, an empty worker, whose members have none yet.
                "!has(self.resources) || !has(self.gpu) "
                "|| [has(self.resources.requests) ? self.resources.requests : {}, "
                "has(self.resources.limits) ? self.resources.limits : {}]"
                ".all(each, !(self.gpu.resourceName in each))",
                "resources must not have the GPU's resource: gpu.count says how many",
            )
        )
    )

    image: Word | None = Field(default=None, description=IMAGE_DESCRIPTION)
    gpu: GpuSpec = GpuSpec()
    engine: EngineConfig = EngineConfig()
    cache_claim_name: ObjectName | None = Field(
        default=None,
        description="PersistentVolumeClaim that keeps what a worker downloads or makes once (models from the Hub, "
        "compiled code, measured batch sizes) for the workers after it; ReadWriteMany where they are on several nodes, "
        "and writable for the image's user. Unset: each pod has its own, which goes with it.",
    )
    resources: ResourceRequirements = ResourceRequirements()
    node_selector: dict[str, str] = Field(default_factory=dict, description="Labels of the nodes to run on.")
    tolerations: tuple[Toleration, ...] = Field(
        default=(), max_length=32, description="Besides the one for the GPU resource's own taint."
    )
    termination_grace_period_seconds: int | None = Field(
        default=None,
        ge=5,
        le=3600,
        description="Time for a stopping pod to finish its images; what doesn't fit goes back to the queue. Unset: 60, "
        "and from the longest job seen 120, 240, 480, 960 or 1800, changed only where that alone replaces no worker.",
    )

    @model_validator(mode="after")
    def _counts_gpus_once(self) -> Self:
        if self.gpu.resource_name in {*self.resources.requests, *self.resources.limits}:
            raise ValueError(f"resources must not have {self.gpu.resource_name}: gpu.count says how many")
        return self


class BatchingSpec(Model):
    """How many images a worker generates at once."""

    max_images: int | None = Field(
        default=None,
        ge=1,
        le=64,
        description="Images of requests of one size that share denoising steps; whatever else the requests ask for, "
        "each begins and ends by itself. Unset: what gives the best rate, as each worker measures it for each size.",
    )
    step_timeout_seconds: int | None = Field(
        default=None,
        ge=1,
        le=86_400,
        description="After which a denoising step counts as one that never ends: the worker's pod is restarted, and "
        "others repeat its requests. Unset: 20 times the longest so far, at least 300.",
    )


class WebhookSpec(WebhookConfig):
    """How clients are notified that an image is ready (Standard Webhooks)."""

    signing_secret_name: ObjectName | None = Field(
        default=None,
        description="Secret with one `whsec_…` key under `signing-secret`, or two, separated by white space, while "
        "receivers change from one to the other. Unset: webhooks are refused.",
    )


class BucketSpec(BucketConfig):
    """An S3-compatible bucket for images; Redis keeps the references only."""

    credentials_secret_name: ObjectName | None = Field(
        default=None,
        description="Secret with `access-key-id` and `secret-access-key`. Unset: the pods' own identity, such as a "
        "role that the service's ServiceAccount is annotated with (IRSA).",
    )


class ResultsSpec(ResultsConfig):
    """How long finished images are kept, where, and how much room they have."""

    bucket: BucketSpec | None = Field(
        default=None, description="Keeps images in a bucket; links then lead there. Unset: Redis keeps them."
    )


class GatewaySpec(Model):
    """The pods that speak HTTP with clients."""

    image: Word | None = Field(default=None, description=IMAGE_DESCRIPTION)
    replicas: int = Field(default=2, ge=1, le=100, description="Gateway pods; two survive the loss of a node.")
    resources: ResourceRequirements = ResourceRequirements()
    termination_grace_period_seconds: int = Field(
        default=620,
        ge=20,
        le=3600,
        description="Most time that a stopping gateway takes to answer open requests, which may wait for 600 s; 15 s "
        "of it are for the stop itself. What waits for longer gets 503 and its job's id, and the job goes on.",
    )
    api_keys_secret_name: ObjectName | None = Field(
        default=None,
        description="Secret with a value per customer, under the customer's name: API keys, one a line, as they are or "
        "as `sha256:` digests; or JSON with keys, weight, maxPriority and rateLimit. Unset: no check.",
    )
    public_url: PublicUrl = None
    allowed_hosts: AllowedHosts = ()
    allowed_origins: AllowedOrigins = ()
    rate_limit: RateLimitConfig | None = Field(
        default=None, description="Of each customer that has none of its own; unlimited if unset."
    )
    service_rate_limit: RateLimitConfig | None = Field(
        default=None, description="Of all customers together; unlimited if unset."
    )
    limits: LimitsConfig = LimitsConfig()
    defaults: DefaultsConfig | None = Field(
        default=None, description="What a request gets that doesn't say; unset: what suits the model."
    )
    results: ResultsSpec = ResultsSpec()
    cache: CacheConfig = CacheConfig()
    webhook: WebhookSpec = WebhookSpec()


class ExecutionMode(StrEnum):
    """What happens with a decision on the number of workers."""

    AUTOMATIC = "Automatic"  # it is carried out
    RECOMMEND = "Recommend"  # it is reported, in status.scaling, events and metrics; the workers stay as they are


class ScheduleSpec(Model):
    """A floor under the number of workers, now and then: for load that is known in advance."""

    name: ObjectName = Field(description="Names the schedule in decisions.")
    cron: str = Field(
        min_length=9,
        max_length=200,
        pattern=r"^\s*\S+(\s+\S+){4}\s*$",
        description="When it begins: minute, hour, day of the month, month, day of the week, as in crontab(5). Workers "
        "are ordered a cold start earlier, so that they are ready by then.",
    )
    duration_minutes: int = Field(ge=1, le=10080, description="How long it lasts.")
    min_replicas: int = Field(ge=1, le=1000, description="Workers at least, meanwhile.")
    time_zone: TimeZone = Field(default="UTC", description="The clock that cron reads, such as Europe/Berlin.")

    @field_validator("cron")
    @classmethod
    def _parsable(cls, value: str) -> str:
        check_cron(value)
        return value


class ScalingSpec(Model):
    """How the number of workers follows the work."""

    model_config = ConfigDict(
        json_schema_extra=validations(
            cel("self.minReplicas <= self.maxReplicas", "minReplicas must not be greater than maxReplicas"),
            cel(
                "!has(self.schedules) || self.schedules.all(each, each.minReplicas <= self.maxReplicas)",
                "minReplicas of a schedule must not be greater than maxReplicas: no more workers are started",
            ),
        )
    )

    mode: ExecutionMode = Field(
        default=ExecutionMode.AUTOMATIC,
        description="Recommend: decisions are reported and not carried out; the number of workers is yours to set.",
    )
    min_replicas: int = Field(default=1, ge=0, le=1000, description="0 lets an idle service release its last GPU.")
    max_replicas: int = Field(ge=1, le=1000, description="Most workers; the bound on what the service can cost.")
    target_latency_seconds: int = Field(
        default=30,
        ge=1,
        le=86400,
        description="From submitted to finished; as few workers as let 95 % of all requests meet it.",
    )
    target_queue_depth: int | None = Field(
        default=None,
        ge=1,
        le=10000,
        description="Requests, waiting and running, per worker: no fewer workers than this asks for. Unset: the "
        "target latency alone decides.",
    )
    scale_down_after_seconds: int | None = Field(
        default=None,
        ge=0,
        le=86400,
        description="A worker is scaled down after this long without need of it. Unset: a part of a cold start, longer "
        "while too many requests are late.",
    )
    scale_to_zero_after_seconds: int | None = Field(
        default=None,
        ge=0,
        le=86400,
        description="With minReplicas 0: the last worker is scaled down after this long without any request. Unset: as "
        "the measured cold start and lateness ask for.",
    )
    schedules: Annotated[
        tuple[ScheduleSpec, ...],
        Field(
            default=(),
            max_length=32,
            description="Floors under the number of workers at known times.",
            json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]},
        ),
    ]

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.min_replicas > self.max_replicas:
            raise ValueError(
                f"minReplicas ({self.min_replicas}) must not be greater than maxReplicas ({self.max_replicas})"
            )
        for schedule in self.schedules:
            if schedule.min_replicas > self.max_replicas:
                raise ValueError(
                    f"minReplicas ({schedule.min_replicas}) of schedule {schedule.name} must not be greater than "
                    f"maxReplicas ({self.max_replicas}): no more workers are started"
                )
        names = [schedule.name for schedule in self.schedules]
        if len(set(names)) < len(names):
            raise ValueError(f"the names of schedules must differ, got {', '.join(names)}")
        return self


class StableDiffusionServiceSpec(Model):
    """What a team asks for."""

    model_config = ConfigDict(
        json_schema_extra=validations(
            cel(
                "has(self.replicas) != has(self.scaling)",
                "exactly one of replicas (a fixed number) and scaling must be set",
            )
        )
    )

    model: ModelSpec
    worker: WorkerSpec = WorkerSpec()
    batching: BatchingSpec = BatchingSpec()
    gateway: GatewaySpec = GatewaySpec()
    tracing: TracingConfig = TracingConfig()
    replicas: int | None = Field(
        default=None, ge=0, le=1000, description="A fixed number of workers; `kubectl scale` writes it."
    )
    scaling: ScalingSpec | None = None

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        if (self.replicas is None) == (self.scaling is None):
            raise ValueError("exactly one of replicas (a fixed number) and scaling must be set")
        return self


class ScalingStatus(Model):
    """The last scaling decision that changed the number of workers."""

    desired_replicas: int = Field(ge=0)
    reason: str = Field(description="The decision in one sentence, with its figures.")
    decided_at: AwareDatetime
    cold_starts_seconds: tuple[int, ...] = Field(
        default=(),
        max_length=20,
        description="From creation to Ready, of the workers that were started last; what a restarted operator knows.",
    )
    lateness_margin_percent: int = Field(
        default=0,
        ge=0,
        le=1000,
        description="Headroom that the share of late requests has asked for so far, in percent of a worker where one "
        "is busy.",
    )


class ColdStartStatus(Model):
    """What the start of the worker that became ready last was made of, in whole seconds."""

    pod_name: str
    ready_at: AwareDatetime
    scheduled_seconds: int | None = Field(
        default=None,
        ge=0,
        description="From the pod's creation to its node. Unset: it started again on it.",
    )
    pulled_seconds: int | None = Field(
        default=None, ge=0, description="From there to its container's start: volumes, and the image."
    )
    imported_seconds: int | None = Field(default=None, ge=0, description="From there to its libraries' import.")
    weights_seconds: int | None = Field(default=None, ge=0, description="Until the weights were on their device.")
    compiled_seconds: int | None = Field(default=None, ge=0, description="Until the model was prepared for speed.")
    warm_seconds: int | None = Field(default=None, ge=0, description="Until a first image was generated.")


class TerminationStatus(Model):
    """How long a stopping worker may take, and how long jobs take."""

    grace_period_seconds: int = Field(ge=0, description="What workers that start now have.")
    longest_job_seconds: int = Field(
        ge=0, description="The longest job so far, from claimed to finished; what a restarted operator knows."
    )
    advice: str = Field(default="", description="What to do where the longest job doesn't fit; empty where it does.")


class StableDiffusionServiceStatus(Model):
    """What the operator last saw."""

    observed_generation: int = Field(default=0, ge=0)
    replicas: int = Field(default=0, ge=0, description="Worker pods that exist.")
    ready_replicas: int = Field(default=0, ge=0, description="Worker pods that hold the model and take work.")
    selector: str = Field(default="", description="Label selector of the worker pods, for the scale subresource.")
    url: str | None = Field(default=None, description="Where clients inside the cluster reach the service.")
    scaling: ScalingStatus | None = None
    termination: TerminationStatus | None = None
    cold_start: ColdStartStatus | None = None
    conditions: Annotated[
        tuple[Condition, ...],
        Field(default=(), json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]}),
    ]
