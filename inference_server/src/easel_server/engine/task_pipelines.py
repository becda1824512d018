"""One loaded model as a pipeline for each task that it can do. They share the weights: nothing is loaded twice."""

import inspect
from dataclasses import dataclass
from typing import Any

from diffusers import AutoPipelineForImage2Image, AutoPipelineForInpainting

from easel_server.generation.parameters import Task


@dataclass(frozen=True)
class TaskPipeline:
    """A pipeline of diffusers, and the names of the arguments that its call takes."""

    pipeline: Any
    accepted: frozenset[str]


def build_task_pipelines(pipeline: Any) -> dict[Task, TaskPipeline]:
    """Text to image by the pipeline itself, the others as far as diffusers has a pipeline of the same family."""
    pipelines = {Task.TEXT_TO_IMAGE: _describe(pipeline)}
    for task, family in {
        Task.IMAGE_TO_IMAGE: AutoPipelineForImage2Image,
        Task.INPAINT: AutoPipelineForInpainting,
    }.items():
        try:
            pipelines[task] = _describe(family.from_pipe(pipeline))
        except ValueError:  # how diffusers says that there is none
            continue
    return pipelines


def _describe(pipeline: Any) -> TaskPipeline:
    pipeline.set_progress_bar_config(disable=True)
    return TaskPipeline(pipeline, frozenset(inspect.signature(pipeline.__call__).parameters))
