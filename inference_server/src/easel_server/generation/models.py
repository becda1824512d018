"""What a request gets when it doesn't say: size and guidance that suit the model, read from its files without torch."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from easel_contract.server_config import DefaultsConfig, ModelConfig

from easel_server.generation.samplers import SAMPLERS
from easel_server.generation.tasks import Task

MODEL_INDEX: Final = "model_index.json"  # of a pipeline in diffusers' layout
DEFAULT_STEPS = 30  # pipelines' own 50 takes 1.7 times as long for a difference that few see

# diffusers' own defaults, by the pipeline's class; 7.5 elsewhere.
GUIDANCE_SCALES = {
    "StableDiffusionXLPipeline": 5.0,
    "StableDiffusion3Pipeline": 7.0,
    "FluxPipeline": 3.5,
}


@dataclass(frozen=True)
class GenerationDefaults:
    """Defaults of one model."""

    width_pixels: int = 512
    height_pixels: int = 512
    steps: int = DEFAULT_STEPS
    guidance_scale: float = 7.5


def override_defaults(defaults: GenerationDefaults, config: DefaultsConfig | None) -> GenerationDefaults:
    """What is configured wins over what suits the model."""
    return replace(defaults, **config.model_dump(exclude_none=True)) if config else defaults


def read_defaults(directory: Path) -> GenerationDefaults:
    """Defaults of the pipeline in a directory of diffusers' layout; Stable Diffusion 1.5's for what it doesn't say."""
    pipeline = _read_json(directory / MODEL_INDEX).get("_class_name")
    denoiser = _read_json(directory / "unet" / "config.json") or _read_json(directory / "transformer" / "config.json")
    blocks = _read_json(directory / "vae" / "config.json").get("block_out_channels")
    latent_side = denoiser.get("sample_size")
    if not isinstance(latent_side, int) or not isinstance(blocks, list):
        return GenerationDefaults()
    side_pixels = latent_side * 2 ** (len(blocks) - 1)  # each block of the autoencoder but the last halves the image
    return GenerationDefaults(
        width_pixels=side_pixels,
        height_pixels=side_pixels,
        guidance_scale=GUIDANCE_SCALES.get(str(pipeline), GenerationDefaults.guidance_scale),
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
    tasks: tuple[Task, ...] = tuple(Task)
    samplers: tuple[str, ...] = tuple(SAMPLERS)
    load_seconds: float = ASSUMED_LOAD_SECONDS  # from a worker's start to its first job, as the last one measured it


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
    defaults: GenerationDefaults = field(default_factory=GenerationDefaults)  # what suits the model
    is_instant: bool = False  # takes next to no time: a worker may claim many jobs at once and hold up nobody
    # Which weights these are, whatever the configuration calls them: the Hub's commit hash, or for a directory
    # "sha256:" and the digest of what was loaded from it; empty for an engine without weights.
    resolved_revision: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)  # of the libraries that may change pixels


def describe_model(description: EngineDescription) -> ModelFacts:
    """What gateways must know of a loaded model."""
    return ModelFacts(
        defaults=description.defaults,
        engine=description.engine,
        tasks=description.tasks,
        samplers=description.samplers,
        load_seconds=description.load_seconds,
    )


def result_cache_key(parameters: Mapping[str, Any], model: ModelConfig, versions: Mapping[str, str]) -> str:
    """Equal for requests that give the same images; ``parameters`` are ``GenerationParameters.cache_values``.

    ``versions`` maps library names to versions: an upgrade may change pixels, so it empties the cache.
    """
    return _digest({"parameters": dict(parameters), "model": model.to_wire(), "versions": dict(versions)})


def _digest(value: dict[str, Any]) -> str:
    canonical = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()
