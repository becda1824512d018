"""Checkpoints: how far a job's denoising is, as bytes from which another process goes on to the very same image.

A checkpoint is a safetensors file: the latents as the last step left them, and what the job's scheduler has noted since
its first step (the outputs of earlier steps, where it is). What else a pipeline's call keeps follows from the job, so
to go on the call is made anew and only its denoiser is left out for the steps that are done (``fast_forward``); random
numbers are taken all the same, so generators stand where they stood.

Sizes: the latents alone for Euler, three times that for DPM++ 2M, four for UniPC, five for PNDM.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from easel_server.engine.stepping.merging import DenoiserCall, map_tensors
from easel_server.engine.stepping.stepper import SteppedCall, Stepper
from easel_server.generation.models import EngineDescription
from easel_server.generation.parameters import GenerationParameters

MAX_CHECKPOINT_BYTES: Final = 8 << 20  # as many as are kept beside a job
FORMAT: Final = 1
HEADER: Final = "easel"  # the key of the file's metadata
LATENTS: Final = "latents"
LENGTH_BYTES: Final = 8  # of a safetensors file's header, before it

# Notes of schedulers that stay as the new call has made them: their content follows from the job.
REBUILT: Final = frozenset({"_internal_dict", "noise_sampler"})


class UnusableCheckpointError(Exception):
    """These bytes don't fit to this job here."""


@dataclass(frozen=True)
class Checkpoint:
    """How far a job is."""

    stage: int  # of the job's pipelines, which
    index: int  # of that one's last step
    latents: torch.Tensor
    notes: Mapping[str, Any]  # of the scheduler, by attribute: tensors, plain values, lists and dicts of them


def build_subject(parameters: GenerationParameters, description: EngineDescription, add_ons: Mapping[str, str]) -> str:
    """Equal where a checkpoint may go on: the same job, weights, number format and libraries.

    ``add_ons`` are digests of the content of those that the job uses, by key.
    """
    held = {
        "format": FORMAT,
        "parameters": parameters.to_wire(),
        "weights": description.resolved_revision,
        "add_ons": dict(add_ons),
        "files": description.files,
        "quantization": description.quantization,
        "step_cache": description.step_cache,
        "refiner": description.refiner,
        "vae": description.vae,
        "scheduler": description.scheduler,
        "pipeline": description.pipeline,
        "dtype": description.dtype,
        "versions": dict(description.versions),
    }
    return hashlib.sha256(json.dumps(held, sort_keys=True).encode()).hexdigest()


def copy_notes(scheduler: Any) -> dict[str, Any]:
    """What it has noted so far; lists are copied, as schedulers change them."""
    return {
        name: list(value) if isinstance(value, list) else value
        for name, value in vars(scheduler).items()
        if name not in REBUILT
    }


def find_changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, Any]:
    """Of a scheduler's notes those that aren't as they were."""
    return {name: value for name, value in now.items() if name not in before or not _is_unchanged(before[name], value)}


def _is_unchanged(before: Any, now: Any) -> bool:
    if isinstance(before, list) and isinstance(now, list):
        return len(before) == len(now) and all(map(_is_unchanged, before, now))
    return before is now or (type(before) is type(now) and isinstance(now, bool | int | float | str) and before == now)


def write_checkpoint(checkpoint: Checkpoint, subject: str) -> bytes | None:
    """The bytes; None if they'd be too many, or if a scheduler notes what can't be written down."""
    tensors: dict[str, torch.Tensor] = {}
    names: dict[int, str] = {}

    def pack(value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            if id(value) not in names:  # some are noted twice
                names[id(value)] = LATENTS if not names else str(len(names))
                in_order = value.detach().to("cpu", copy=True).permute(_find_order(value)).contiguous()
                tensors[names[id(value)]] = in_order
            return {
                "tensor": names[id(value)],
                "order": _find_order(value),
                "is_on_cpu": value.device.type == "cpu",
            }
        if isinstance(value, list | tuple):
            return {type(value).__name__: [pack(each) for each in value]}
        if value is None or isinstance(value, bool | int | float | str):
            return {"value": value}
        raise UnusableCheckpointError(f"{type(value).__name__} can't be written down")

    try:
        latents = pack(checkpoint.latents)
        notes = {name: pack(value) for name, value in checkpoint.notes.items()}
    except UnusableCheckpointError:
        return None
    header = {
        "subject": subject,
        "stage": checkpoint.stage,
        "index": checkpoint.index,
        LATENTS: latents,
        "notes": notes,
    }
    data = save(tensors, {HEADER: json.dumps(header)})
    return data if len(data) <= MAX_CHECKPOINT_BYTES else None


def read_checkpoint(data: bytes, subject: str, device: torch.device) -> Checkpoint:
    """What was written, its tensors on their device. Raises UnusableCheckpointError for another job's, or damage."""
    if len(data) > MAX_CHECKPOINT_BYTES:
        raise UnusableCheckpointError(f"{len(data)} bytes, allowed are {MAX_CHECKPOINT_BYTES}")
    try:
        tensors = load(data)
        length = int.from_bytes(data[:LENGTH_BYTES], "little")
        header = json.loads(json.loads(data[LENGTH_BYTES : LENGTH_BYTES + length])["__metadata__"][HEADER])
        if header["subject"] != subject:
            raise UnusableCheckpointError("of another job, model or version")

        def unpack(value: dict[str, Any]) -> Any:
            if "tensor" in value:
                tensor = tensors[value["tensor"]].to("cpu" if value["is_on_cpu"] else device)
                return tensor.permute(_invert(value["order"]))
            if "list" in value:
                return [unpack(each) for each in value["list"]]
            return tuple(unpack(each) for each in value["tuple"]) if "tuple" in value else value["value"]

        notes = {str(name): unpack(value) for name, value in header["notes"].items()}
        return Checkpoint(int(header["stage"]), int(header["index"]), unpack(header[LATENTS]), notes)
    except (SafetensorError, ValueError, LookupError, TypeError, AttributeError, RuntimeError) as error:
        raise UnusableCheckpointError(f"can't be read: {type(error).__name__}") from error


def _find_order(tensor: torch.Tensor) -> list[int]:
    """Its dimensions, the one with the longest stride first: convolutions round otherwise in another layout."""
    strides = tensor.stride()
    return sorted(range(tensor.ndim), key=lambda dimension: -strides[dimension])


def _invert(order: list[int]) -> list[int]:
    return sorted(range(len(order)), key=order.__getitem__)


def fast_forward(call: SteppedCall, stepper: Stepper, *, is_there: Callable[[], bool]) -> None:
    """Take a call through its steps without its denoiser until ``is_there``, or it ends.

    The denoiser gives zeros; only its first answer of each kind is a real one, so that nobody has to know its form.
    """
    zeros: dict[object, Any] = {}
    while not call.is_done and not is_there():
        pending: DenoiserCall | None = call.pending
        if pending is None:  # it lets others have a step
            call.advance()
            continue
        kind = (pending.shape, pending.rows)
        if kind not in zeros:
            [output] = stepper.evaluate([pending])
            if isinstance(output, Exception):
                call.throw(output)
                return
            zeros[kind] = output
        with torch.inference_mode():
            nothing = map_tensors(zeros[kind], torch.zeros_like)
        call.advance(nothing)
