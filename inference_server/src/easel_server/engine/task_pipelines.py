"""One loaded model as a pipeline for each task that it can do. They share the weights: nothing is loaded twice."""

import inspect
from dataclasses import dataclass
from typing import Any

import diffusers

from easel_server.generation.tasks import TASKS, Task


@dataclass(frozen=True)
class TaskPipeline:
    """A pipeline of diffusers, and the names of the arguments that its call takes."""

    pipeline: Any
    accepted: frozenset[str]


def build_task_pipelines(pipeline: Any) -> dict[Task, TaskPipeline]:
    """A pipeline for each task of which diffusers has one of the same family."""
    pipelines = {}
    for task, definition in TASKS.items():
        if definition.pipeline is None:
            pipelines[task] = _describe(pipeline)
            continue
        try:
            pipelines[task] = _describe(getattr(diffusers, definition.pipeline).from_pipe(pipeline))
        except ValueError:  # how diffusers says that there is none
            continue
    return pipelines


def _describe(pipeline: Any) -> TaskPipeline:
    pipeline.set_progress_bar_config(disable=True)
    return TaskPipeline(pipeline, frozenset(inspect.signature(pipeline.__call__).parameters))
