"""One loaded pipeline as those of all tasks, what its files say of it, and whether it can keep an engine's promises."""

import copy
import inspect
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import diffusers
from easel_contract.server_config import SchedulerConfig

from easel_server.engine.interface import ModelLoadError
from easel_server.engine.schedulers.schedulers import Schedulers
from easel_server.generation.families import Family, ModelFiles
from easel_server.generation.tasks import TASKS, Task

# Without one of these, a promise of Engine can't be kept: what to generate, in how many steps, the same for a seed.
NEEDED: Final = {"prompt": "prompts", "num_inference_steps": "a number of steps", "generator": "seeds"}
# Of calls that begin with more than a prompt: images that guide them, which no task has.
CONDITIONS: Final = frozenset({"control_image", "controlnet_conditioning_scale", "adapter_conditioning_scale"})


class TaskPipeline(NamedTuple):
    """A pipeline of diffusers, and the names of the arguments that its call takes."""

    pipeline: Any
    accepted: frozenset[str]
    schedulers: Schedulers


def build_task_pipelines(
    pipeline: Any, family: Family, scheduler: SchedulerConfig | None = None
) -> dict[Task, TaskPipeline]:
    """One loaded model as a pipeline for each task of which diffusers has one of the same family.

    They share the weights: nothing is loaded twice. Each has a scheduler of its own, since a pipeline that is made
    changes its scheduler's configuration where it thinks that outdated, each in its own way. ``scheduler`` is how the
    service has it; raises ModelLoadError where the model can't be denoised so.
    """
    pipelines = {}
    own = copy.deepcopy(pipeline.scheduler)
    for task, definition in TASKS.items():
        if not definition.is_denoised:
            continue
        try:
            maker = getattr(diffusers, definition.pipeline) if definition.pipeline else None
            chosen = maker.from_pipe(pipeline, scheduler=copy.deepcopy(own)) if maker else pipeline
        except ValueError:  # how diffusers says that there is none
            continue
        chosen.set_progress_bar_config(disable=True)
        pipelines[task] = TaskPipeline(chosen, find_arguments(chosen), Schedulers(chosen.scheduler, family, scheduler))
    return pipelines


def describe_files(pipeline: Any, names: str = "") -> ModelFiles:
    """What a loaded pipeline says of its files, wherever they are; ``names`` is where they came from."""
    denoiser = getattr(pipeline, "unet", None) or getattr(pipeline, "transformer", None)
    return ModelFiles(
        pipeline=type(pipeline).__name__,
        denoiser=_read_config(denoiser),
        scheduler=_read_config(getattr(pipeline, "scheduler", None)),
        autoencoder=_read_config(getattr(pipeline, "vae", None)),
        names=names.lower(),
    )


def check_pipeline(pipeline: Any, model: str) -> None:
    """Raises ModelLoadError, naming the model, for a pipeline that can't generate from a prompt and a seed alone."""
    kind = type(pipeline).__name__
    reason = _find_lack(_find_parameters(pipeline))
    if reason is not None:
        raise ModelLoadError(f"model {model}: {kind} can't be served: {reason}")


def _find_lack(parameters: Mapping[str, inspect.Parameter]) -> str | None:
    generic = parameters.keys() - NEEDED.keys()
    if conditions := sorted(CONDITIONS & generic):
        return f"it needs an image to be guided by ({', '.join(conditions)}); name the model without its ControlNet"
    for name, meaning in NEEDED.items():
        if name not in parameters:
            return f"its call takes no {meaning} ({name}); name another model"
    required = [
        name
        for name in sorted(generic)
        if parameters[name].default is inspect.Parameter.empty
        and parameters[name].kind not in (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    ]
    return f"its call needs {', '.join(required)}, which no request has; name another model" if required else None


def find_arguments(pipeline: Any) -> frozenset[str]:
    """Names of the arguments that a pipeline's call takes."""
    return frozenset(_find_parameters(pipeline))


def _find_parameters(pipeline: Any) -> Mapping[str, inspect.Parameter]:
    return inspect.signature(pipeline.__call__).parameters


def _read_config(part: Any) -> Mapping[str, Any]:
    config = dict(getattr(part, "config", None) or {})
    # As a file has it, where lists are lists.
    return {name: list(value) if isinstance(value, tuple) else value for name, value in config.items()}
