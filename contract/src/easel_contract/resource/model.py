"""The model that a service serves, and where it comes from."""

from enum import StrEnum
from itertools import combinations
from typing import Annotated, Final, Literal, Self

from pydantic import ConfigDict, Field, model_validator

from easel_contract.schema import BucketPrefix, HttpOrigin, Model, ObjectName, Quantity, Word, cel, validations
from easel_contract.server_config import DType, Quantization, SafetyPolicy, SchedulerConfig, StepCache

REPOSITORY_PATTERN = r"^[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?$"
# Of a file or a directory below a root: users' files have blanks and brackets in their names; nothing is hidden, and
# nothing leads out.
PATH_PATTERN = r"[^/.\s][^/\n\r]*(/[^/.\s][^/\n\r]*)*"


CLAIM_SENTENCE: Final = "a cache is on a claim that exists (claimName) or on one of the service's own (size): set one"
FILL_SENTENCE: Final = "fill: Never needs claimName, since a claim of the service's own begins empty"
CLASS_SENTENCE: Final = "storageClassName is of a claim that is made, and claimName names one that exists"
CACHES_NOTHING: Final = "a cache keeps what is on the Hub or in a bucket, and of this model nothing is: leave cache out"
AccessMode = Literal["ReadWriteMany", "ReadWriteOnce", "ReadOnlyMany"]


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


class ImageSource(Model):
    """A pipeline in diffusers' layout, or a single file, in an OCI image or artifact of a registry, which nodes pull
    and keep as they do with images of containers; mounted read-only (core/v1 ImageVolumeSource)."""

    reference: Word = Field(
        description="As of a container's image, best by its digest: registry.example/models/sdxl@sha256:…; pulled with "
        "the pod's imagePullSecrets."
    )
    pull_policy: Literal["Always", "IfNotPresent", "Never"] | None = Field(
        default=None, description="Unset: Always for the tag latest, else IfNotPresent."
    )
    path: str = Field(
        default="",
        max_length=1024,
        pattern=f"^({PATH_PATTERN})?$",
        description="Inside the image, as of a persistentVolumeClaim; the image's root if empty.",
    )


class BucketSource(Model):
    """A pipeline in diffusers' layout, or a single file, in an S3-compatible bucket; model.cache's Job copies it."""

    uri: BucketPrefix = Field(
        description="s3://BUCKET/PREFIX: all objects below PREFIX/. What is copied once isn't looked for again: "
        "another version is another prefix."
    )
    endpoint: HttpOrigin | None = Field(default=None, description="Of the bucket's server; AWS if unset.")
    region: Word | None = Field(default=None, description="Of the bucket; us-east-1 if unset.")
    credentials_secret_name: ObjectName | None = Field(
        default=None,
        description="Secret with `access-key-id` and `secret-access-key`, for the Job alone. Unset: the identity of "
        "the Job's ServiceAccount, which is the workers'.",
    )


ONE_SOURCE: Final = "exactly one of huggingFace, persistentVolumeClaim, image and s3 must be set"
NEEDS_A_JOB: Final = "what lies in a bucket is copied by the Job of model.cache: set cache, with fill: Job"


class ModelSource(Model):
    """Where the model comes from: exactly one member."""

    model_config = ConfigDict(
        json_schema_extra=validations(
            cel(
                "[has(self.huggingFace), has(self.persistentVolumeClaim), has(self.image), has(self.s3)]"
                ".filter(each, each).size() == 1",
                ONE_SOURCE,
            )
        )
    )

    hugging_face: HuggingFaceSource | None = None
    persistent_volume_claim: VolumeSource | None = None
    image: ImageSource | None = Field(
        default=None,
        description="Needs image volumes in the cluster: on from Kubernetes 1.35 where the container runtime has them.",
    )

    s3: BucketSource | None = None

    @property
    def path(self) -> str:
        """Where it is inside its volume; empty for its root, and for what has none."""
        volume = self.persistent_volume_claim or self.image
        return volume.path if volume is not None else ""

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        if [self.hugging_face, self.persistent_volume_claim, self.image, self.s3].count(None) != 3:
            raise ValueError(ONE_SOURCE)
        return self


class RefinerSpec(Model):
    """A second model that takes over an image's last steps."""

    source: ModelSource


class VaeSpec(Model):
    """An autoencoder in place of the model's own."""

    source: ModelSource = Field(
        description="A folder or repository with an autoencoder in diffusers' layout (of a whole pipeline, its `vae`), "
        "or a single file such as vae-ft-mse-840000-ema-pruned.safetensors."
    )


class SafetyCheckerSpec(Model):
    """What judges finished images, in place of the model's own checker."""

    source: ModelSource
    labels: tuple[Annotated[str, Field(min_length=1, max_length=100)], ...] = Field(
        default=(),
        max_length=50,
        description="Of an image classifier, the labels that count. Unset: those that are called nsfw, unsafe, porn, "
        "hentai, explicit, nude and the like; with none of those the model isn't loaded, and its labels are listed.",
    )
    threshold: float = Field(
        default=0.5, ge=0.01, le=1, description="From which likelihood on a classifier's labels count."
    )


class CacheFill(StrEnum):
    """Who fills a cache of models."""

    JOB = "Job"  # Easel's own, once for each model
    NEVER = "Never"  # somebody else, beforehand: nothing is downloaded by anybody


class ModelCacheSpec(Model):
    """A claim with repositories of the Hub, filled once and read by all workers."""

    model_config = ConfigDict(
        json_schema_extra=validations(
            cel(
                "has(self.claimName) != has(self.size)",
                CLAIM_SENTENCE,
            ),
            cel(
                "has(self.claimName) || self.fill == 'Job'",
                FILL_SENTENCE,
            ),
            cel(
                "!has(self.claimName) || !has(self.storageClassName)",
                CLASS_SENTENCE,
            ),
        )
    )

    claim_name: ObjectName | None = Field(
        default=None,
        description="A PersistentVolumeClaim of the namespace, which services may share: what one has fetched, another "
        "with the same repository doesn't. Writable for the image's user, or for podTemplate's fsGroup.",
    )
    size: Quantity | None = Field(
        default=None,
        description="A claim of the service's own, of this size, which goes with the service. It may grow where the "
        "storage class lets it.",
    )
    storage_class_name: ObjectName | None = Field(
        default=None, description="Of the service's own claim; the cluster's default if unset."
    )
    access_modes: tuple[AccessMode, ...] = Field(
        default=("ReadWriteMany",),
        min_length=1,
        max_length=3,
        description="Of the service's own claim. ReadWriteOnce keeps all workers on one node; with ReadOnlyMany "
        "beside it, storage that can be read on many nodes is written on one first.",
    )
    fill: CacheFill = Field(
        default=CacheFill.JOB,
        description="Job: before workers of a new model start, a Job fetches it and compares it with the Hub's "
        "hashes, holding no GPU; until then those of the old one go on. Never: claimName has it already, in the Hub "
        "client's layout under hub/, as `hf download --cache-dir` writes it.",
    )

    @model_validator(mode="after")
    def _is_one_claim(self) -> Self:
        if (self.claim_name is None) == (self.size is None):
            raise ValueError(CLAIM_SENTENCE)
        if self.claim_name is None and self.fill is CacheFill.NEVER:
            raise ValueError(FILL_SENTENCE)
        if self.claim_name is not None and self.storage_class_name is not None:
            raise ValueError(CLASS_SENTENCE)
        return self


MODEL: Final = "model"
# What a model consists of, by the field that names it, and where its source is in rules of the model's.
PARTS: Final = {MODEL: "self.source"} | {part: f"self.{part}.source" for part in ("refiner", "vae", "safetyChecker")}


class ModelSpec(Model):
    """The model that a service serves."""

    model_config = ConfigDict(
        json_schema_extra=validations(
            *(
                cel(
                    "".join(f"!has(self.{part}) || " for part in (one, other) if part != MODEL)
                    + "".join(
                        f"!has({source}.huggingFace) || !has({source}.huggingFace.tokenSecretName) || "
                        for source in (PARTS[one], PARTS[other])
                    )
                    + f"{PARTS[one]}.huggingFace.tokenSecretName == {PARTS[other]}.huggingFace.tokenSecretName",
                    f"{one} and {other} are fetched with one token: tokenSecretName must be the same in both",
                )
                for one, other in combinations(PARTS, 2)
            ),
            cel(
                "!has(self.cache) || "
                + " || ".join(
                    ("" if part == MODEL else f"has(self.{part}) && ")
                    + f"(has({source}.huggingFace) || has({source}.s3))"
                    for part, source in PARTS.items()
                ),
                CACHES_NOTHING,
            ),
            cel(
                "(has(self.cache) && self.cache.fill == 'Job') || ("
                + " && ".join(
                    f"!has({source}.s3)" if part == MODEL else f"(!has(self.{part}) || !has({source}.s3))"
                    for part, source in PARTS.items()
                )
                + ")",
                NEEDS_A_JOB,
            ),
        )
    )

    source: ModelSource
    refiner: RefinerSpec | None = Field(
        default=None,
        description="Stable Diffusion XL's refiner, which shares the model's second text encoder and autoencoder.",
    )
    vae: VaeSpec | None = Field(
        default=None,
        description="An autoencoder of the same family in place of the model's own, which isn't downloaded then. One "
        "with other channels or another scaling of latents isn't loaded. A refiner uses it, too.",
    )
    scheduler: SchedulerConfig | None = Field(
        default=None,
        description="How the model is denoised where a request names no sampler, and what its file doesn't say of how "
        "it was trained. Unset: as the model's files say.",
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
        description="What becomes of an image that the safety checker flags. Flag: it is given, and the "
        "answer says so. Blur: it is given blurred. Refuse: its request fails. Off: nothing is checked. Unset: Blur "
        "where the model comes with a checker, as Stable Diffusion 1.x does, or safetyChecker names one; else nothing "
        "but Off can be set.",
    )
    safety_checker: SafetyCheckerSpec | None = Field(
        default=None,
        description="A checker in place of the model's own, for models of any family: diffusers' "
        "StableDiffusionSafetyChecker, or an image classifier of transformers, in safetensors.",
    )

    cache: ModelCacheSpec | None = Field(
        default=None,
        description="Keeps what is fetched of the Hub for this model, its refiner, VAE and checker, so that a second "
        "pod downloads nothing. Unset: each worker fetches for itself, or into worker.cacheClaimName.",
    )

    @property
    def sources(self) -> dict[str, ModelSource]:
        """Of all that the model consists of, by the field of the model that names it; the model's own is ``source``."""
        others = {"refiner": self.refiner, "vae": self.vae, "safetyChecker": self.safety_checker}
        named = {f"{name}.source": each.source for name, each in others.items() if each is not None}
        return {"source": self.source, **named}

    @model_validator(mode="after")
    def _one_token(self) -> Self:
        hubs = [each.hugging_face for each in self.sources.values()]
        secrets = {hub.token_secret_name for hub in hubs if hub is not None} - {None}
        if len(secrets) > 1:
            raise ValueError(
                "all of a model is fetched with one token: tokenSecretName must be the same in all sources"
            )
        return self

    @model_validator(mode="after")
    def _has_something_to_cache(self) -> Self:
        sources = self.sources.values()
        if self.cache is not None and all(each.hugging_face is None and each.s3 is None for each in sources):
            raise ValueError(CACHES_NOTHING)
        if any(each.s3 is not None for each in sources) and (self.cache is None or self.cache.fill is CacheFill.NEVER):
            raise ValueError(NEEDS_A_JOB)
        return self
