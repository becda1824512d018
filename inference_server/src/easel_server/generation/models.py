"""Which model a request asks for, what a worker really holds, and what suits it: defaults read without torch."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

from easel_contract.gateway_config import DefaultsConfig, Reproducibility
from easel_contract.schema import Model
from easel_contract.server_config import EngineKind, ModelConfig, SchedulerConfig
from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from easel_server.generation.add_ons import Feature
from easel_server.generation.families import DEFAULT_STEPS, Family, ModelFiles, find_family, get_family
from easel_server.generation.samplers import SAMPLERS
from easel_server.generation.tasks import Task

MODEL_INDEX: Final = "model_index.json"  # of a pipeline in diffusers' layout
LATER_FIELDS: Final = (
    "files",
    "refiner",
    "vae",
    "scheduler",
    "quantization",
    "step_cache",
    "safety",
)  # of ModelIdentity
LATER_PREFIX: Final = "easel."
MODEL_KEY_CHARACTERS: Final = 16  # 64 bits tell apart the few models of a service


class RequestedModel(Model):
    """What a gateway knows of the model that a job asks for: how it is configured."""

    name: str  # as clients see it
    key: str  # of ``model_key``: only workers that are configured alike are given the job


class ModelIdentity(Model):
    """What a worker really holds. Equal parameters give equal images with equal ones, but for ``name`` and ``key``.

    As JSON, LATER_FIELDS are entries of ``versions``: gateways of the version before refuse a document with fields that
    they don't know, and whoever asked them would be refused a finished job.
    """

    name: str  # as clients see it
    key: str  # of the worker's configuration, as ``RequestedModel`` has it
    source: str  # a Hugging Face Hub id or a directory, as configured
    revision: str | None = None  # as configured: a branch may have moved since
    engine: str  # "diffusers", or "synthetic"
    dtype: str  # that was chosen: "bfloat16"
    weights: str = ""  # commit or content hash of what was loaded; empty for an engine without weights
    files: str = ""  # which of the commit's: a variant, or a single file; empty where all were meant
    refiner: str = ""  # its weights, likewise; empty without one
    vae: str = ""  # the digest of the autoencoder in place of the model's own; empty without one
    scheduler: str = ""  # how it is denoised otherwise than its files say: "prediction_type=v_prediction"
    quantization: str = ""  # of the weights: "Float8"; empty without
    step_cache: str = ""  # "DeepCache"; empty without
    adapters: tuple[str, ...] = ()
    safety: str = ""  # as EngineDescription has it: a blurred image is another one
    versions: Mapping[str, str] = Field(default_factory=dict)  # of the libraries that may change pixels

    def with_add_ons(self, digests: Mapping[str, str]) -> "ModelIdentity":
        """The same, as it is used with add-ons of these contents, by name."""
        named = tuple(sorted(f"{name}@{digest}" for name, digest in digests.items()))
        return self.model_copy(update={"adapters": named}) if named else self

    @model_serializer(mode="wrap")
    def _write(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        document: dict[str, Any] = write(self)
        later = {name: getattr(self, name) for name in LATER_FIELDS}
        for name in later:
            document.pop(name, None)
            document.pop(str(type(self).model_fields[name].alias), None)
        document["versions"] = {**self.versions, **{LATER_PREFIX + name: text for name, text in later.items() if text}}
        return document

    @model_validator(mode="before")
    @classmethod
    def _read(cls, values: Any) -> Any:
        versions = values.get("versions") if isinstance(values, Mapping) else None
        if not isinstance(versions, Mapping):
            return values
        kept = {name: text for name, text in versions.items() if not str(name).startswith(LATER_PREFIX)}
        later = {name: versions[LATER_PREFIX + name] for name in LATER_FIELDS if LATER_PREFIX + name in versions}
        return {**values, **later, "versions": kept}


def model_key(model: ModelConfig, engine: EngineKind) -> str:
    """Equal for gateways and workers that are configured for the same model.

    Its name makes no difference, and neither does what a model may be loaded from, nor where its files are kept, of
    which gateways hear nothing.
    """
    parts = {"source": model.source, "revision": model.revision, "dtype": model.dtype, "engine": engine}
    # What is unset isn't in the key, so that a field that is added changes the key of nobody who doesn't use it.
    added = model.model_dump(mode="json", exclude={*parts, "name", "allow_pickles", "cache"}, exclude_none=True)
    return _digest(parts | added)[:MODEL_KEY_CHARACTERS]


def name_vae(model: ModelConfig) -> str | None:
    """What clients see of the autoencoder in place of the model's own: its file's name, as AUTOMATIC1111 lists them,
    else its repository or folder. None without one."""
    vae = model.vae
    if vae is None:
        return None
    if vae.file is not None or vae.source.startswith("/"):
        return (vae.file or vae.source).rstrip("/").rpartition("/")[2]
    return vae.source


def find_requested_model(model: ModelConfig, engine: EngineKind) -> RequestedModel:
    """What jobs of a gateway with this configuration ask for."""
    return RequestedModel(name=model.name, key=model_key(model, engine))


@dataclass(frozen=True)
class GenerationDefaults:
    """What suits one model, and how its service has it."""

    width_pixels: int = 512
    height_pixels: int = 512
    steps: int = DEFAULT_STEPS
    guidance_scale: float = 7.5
    reproducibility: Reproducibility = Reproducibility.CLOSE
    family: str = ""  # a name in ``families/``
    clip_skip: int | None = None  # as a request has it
    sampler: str | None = None  # likewise; None: the model's own scheduler

    @property
    def traits(self) -> Family:
        """What is so for the model's family."""
        return get_family(self.family)


def override_defaults(
    defaults: GenerationDefaults, config: DefaultsConfig | None, scheduler: SchedulerConfig | None = None
) -> GenerationDefaults:
    """What is configured, of requests and of the model's scheduler, wins over what suits the model."""
    defaults = replace(defaults, sampler=scheduler.sampler if scheduler else None)
    return replace(defaults, **config.model_dump(exclude_none=True)) if config else defaults


def describe_scheduler_config(config: SchedulerConfig | None) -> str:
    """What it changes of how a model is denoised with any sampler, in a line; empty for nothing. Which sampler a
    request gets is the request's."""
    said = config.model_dump(mode="json", exclude_none=True, exclude={"sampler"}) if config else {}
    return " ".join(f"{name}={value}" for name, value in sorted(said.items()))


def read_defaults(directory: Path) -> GenerationDefaults:
    """Defaults of the pipeline in a directory of diffusers' layout; Stable Diffusion 1.5's for what it doesn't say."""
    return choose_defaults(read_model_files(directory))


def read_model_files(directory: Path) -> ModelFiles:
    """What a directory of diffusers' layout says of its model. Quick; empty for files that can't be read."""
    index = _read_json(directory / MODEL_INDEX)
    denoiser = _read_json(directory / "unet" / "config.json") or _read_json(directory / "transformer" / "config.json")
    # The Hub's cache keeps a commit's files in models--OWNER--NAME/snapshots/COMMIT.
    names = (str(index.get("_name_or_path", "")), str(denoiser.get("_name_or_path", "")), *directory.parts[-3:])
    return ModelFiles(
        pipeline=str(index.get("_class_name", "")),
        denoiser=denoiser,
        scheduler=_read_json(directory / "scheduler" / "scheduler_config.json"),
        autoencoder=_read_json(directory / "vae" / "config.json"),
        names="\n".join(names).lower(),
    )


def choose_defaults(files: ModelFiles) -> GenerationDefaults:
    """What suits a model with these files. Pure."""
    family = find_family(files.pipeline, files)
    side_pixels = family.find_side_pixels(files)
    return GenerationDefaults(
        width_pixels=side_pixels,
        height_pixels=side_pixels,
        steps=family.steps,
        guidance_scale=family.guidance_scale,
        family=family.name,
    )


def _read_json(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


ASSUMED_LOAD_SECONDS: Final = 60.0


@dataclass(frozen=True)
class ModelFacts:
    """One model, as workers have it. Until one has loaded it, nothing is known to be impossible."""

    defaults: GenerationDefaults = field(default_factory=GenerationDefaults)
    engine: str | None = None  # "diffusers", or "synthetic"; None: not loaded yet
    identity: ModelIdentity | None = None  # of the worker that reported last
    tasks: tuple[Task, ...] = tuple(Task)
    samplers: tuple[str, ...] = tuple(SAMPLERS)
    features: tuple[Feature, ...] = tuple(Feature)
    load_seconds: float = ASSUMED_LOAD_SECONDS  # from a worker's start to its first job, as the last one measured it

    def identity_of(self, model: RequestedModel) -> ModelIdentity | None:
        """What workers hold of the model; None if none has reported, or one that was configured otherwise."""
        return self.identity if self.identity is not None and self.identity.key == model.key else None


@dataclass(frozen=True)
class EngineDescription:
    """What an engine holds and runs on, for metrics, logs, gateways and the identity of what it generates."""

    engine: str  # "diffusers", or "synthetic"
    pipeline: str  # class name, such as StableDiffusionXLPipeline
    device: str  # "cpu", "cuda:0"
    dtype: str  # "float32"
    model: str
    load_seconds: float
    tasks: tuple[Task, ...] = (Task.TEXT_TO_IMAGE,)
    samplers: tuple[str, ...] = ()  # names of samplers.py that this model can use
    features: tuple[Feature, ...] = ()
    defaults: GenerationDefaults = field(default_factory=GenerationDefaults)  # what suits the model
    is_instant: bool = False  # takes next to no time: a worker may claim many jobs at once and hold up nobody
    # Which weights these are, whatever the configuration calls them: the Hub's commit hash, or for a directory
    # "sha256:" and the digest of what was loaded from it; empty for an engine without weights.
    resolved_revision: str = ""
    files: str = ""  # of a commit: the variant or the single file that was loaded; empty for the files without variant
    refiner: str = ""  # which weights the refiner has; empty without one
    vae: str = ""  # as ModelIdentity has these two
    scheduler: str = ""
    vae_name: str = ""  # as ``name_vae`` has it
    safety: str = ""  # what becomes of images that the model's safety checker flags; empty: nothing is checked
    quantization: str = ""  # as ModelIdentity has these two
    step_cache: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)  # of the libraries that may change pixels


def identify_model(description: EngineDescription, model: ModelConfig, engine: EngineKind) -> ModelIdentity:
    """What a worker with this configuration really holds."""
    return ModelIdentity(
        name=model.name,
        key=model_key(model, engine),
        source=model.source,
        revision=model.revision,
        engine=description.engine,
        dtype=description.dtype,
        weights=description.resolved_revision,
        files=description.files,
        refiner=description.refiner,
        vae=description.vae,
        scheduler=description.scheduler,
        quantization=model.quantization or "",
        step_cache=model.step_cache or "",
        safety=description.safety,
        versions=description.versions,
    )


def describe_model(description: EngineDescription, identity: ModelIdentity | None = None) -> ModelFacts:
    """What gateways must know of a loaded model."""
    return ModelFacts(
        defaults=description.defaults,
        engine=description.engine,
        identity=identity,
        tasks=description.tasks,
        samplers=description.samplers,
        features=description.features,
        load_seconds=description.load_seconds,
    )


def digest_parameters(parameters: Mapping[str, Any], customer: str | None = None) -> str:
    """Equal for requests of the same images, whichever model; ``parameters`` are theirs as they are stored.

    With a customer, equal for that one's requests only: everything that is shared is found by it.
    """
    return _digest(dict(parameters) if customer is None else {"customer": customer, "parameters": dict(parameters)})


def build_flight_key(parameters_digest: str, model: RequestedModel) -> str:
    """Equal for requests that may share a run: the same images of the same model, whatever its worker holds."""
    return f"{parameters_digest}/{model.key}"


def build_cache_key(parameters_digest: str, identity: ModelIdentity) -> str:
    """Under which images are cached: equal only for those that come out equal.

    To look up, ``identity`` is what workers are believed to hold; to keep, what the worker that generated the images
    reported (``Job.generated_by``). So images are found only by who would get the same, whatever was configured while
    their job waited.
    """
    held = _digest_identity(identity.model_dump_json(exclude={"name", "key"}))
    return hashlib.sha256(f"{parameters_digest}/{held}".encode()).hexdigest()


@lru_cache(maxsize=64)  # of a service's workers there are few kinds
def _digest_identity(document: str) -> str:
    return _digest(json.loads(document))


def _digest(value: dict[str, Any]) -> str:
    canonical = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()
