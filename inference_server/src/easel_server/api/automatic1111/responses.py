"""What clients of AUTOMATIC1111 get. Pure."""

import base64
import io
import json
from collections.abc import Sequence
from typing import Any, Final

from easel_contract.gateway_config import Reproducibility
from PIL import Image, UnidentifiedImageError

from easel_server.api.automatic1111.fields import GenerationBody, ImageToImageBody
from easel_server.api.automatic1111.harmless import SENDERS
from easel_server.gateway.queue_estimate import Progress
from easel_server.generation.encoding import read_description
from easel_server.generation.job import Job, JobState
from easel_server.generation.parameters import GenerationParameters
from easel_server.generation.prompts.networks import join_networks
from easel_server.generation.recipes.infotext import build_metadata
from easel_server.generation.samplers import split_sampler

SHORT_HASH_CHARACTERS: Final = 10
TIMESTAMP: Final = "%Y%m%d%H%M%S"
# What the last step is followed by takes time too; AUTOMATIC1111 counts it as a hundredth.
ALMOST_DONE: Final = 0.99


def build_result(
    body: GenerationBody, job: Job, images: Sequence[bytes], *, model: str, vae: str | None
) -> dict[str, Any]:
    """The answer of txt2img and img2img. A cancelled job has no images. ``vae`` is the name of the one that isn't the
    model's own."""
    is_sent = body.send_images is not False
    return {
        "images": [base64.b64encode(image).decode("ascii") for image in images] if is_sent else [],
        "parameters": _build_parameters(body),
        "info": json.dumps(_build_info(job, images, model, vae), ensure_ascii=False),
    }


def _build_parameters(body: GenerationBody) -> dict[str, Any]:
    """The request again, without its images unless it wants them, and without passwords."""
    hidden = set[str]()
    if isinstance(body, ImageToImageBody) and not body.include_init_images:
        hidden = {"init_images", "mask"}
    return body.model_dump(mode="json", exclude={*hidden, *SENDERS}) | dict.fromkeys(hidden)


def _build_info(job: Job, images: Sequence[bytes], model: str, vae: str | None) -> dict[str, Any]:
    parameters = job.parameters
    vae_digest = job.generated_by.vae if job.generated_by is not None else ""
    sampler = split_sampler(parameters.sampler)[0] if parameters.sampler else None
    seeds = [parameters.seed + index for index in range(parameters.images)]
    exact = parameters.reproducibility if parameters.reproducibility is Reproducibility.EXACT else None
    written = [_read_infotext(image) for image in images] or [""] * len(seeds)
    texts = [text or build_infotext(parameters, seed, model) for text, seed in zip(written, seeds, strict=False)]
    prompt = join_networks(parameters.prompt, parameters.adapters)
    return {
        "prompt": prompt,
        "all_prompts": [prompt] * parameters.images,
        "negative_prompt": parameters.negative_prompt,
        "all_negative_prompts": [parameters.negative_prompt] * parameters.images,
        "seed": parameters.seed,
        "all_seeds": seeds,
        "subseed": parameters.seed,
        "all_subseeds": seeds,
        "subseed_strength": 0,
        "width": parameters.width_pixels,
        "height": parameters.height_pixels,
        "sampler_name": sampler,
        "cfg_scale": parameters.guidance_scale,
        "steps": parameters.steps,
        "batch_size": parameters.images,
        "restore_faces": False,
        "face_restoration_model": None,
        "sd_model_name": model,
        "sd_model_hash": None,
        "sd_vae_name": vae if vae_digest else None,
        "sd_vae_hash": vae_digest.removeprefix("sha256:")[:SHORT_HASH_CHARACTERS] or None,
        "seed_resize_from_w": -1,
        "seed_resize_from_h": -1,
        "denoising_strength": parameters.strength,
        "extra_generation_params": {} if exact is None else {"Reproducibility": exact},
        "index_of_first_image": 0,
        "infotexts": texts,
        "styles": [],
        "job_timestamp": job.submitted_at.strftime(TIMESTAMP),
        "clip_skip": parameters.clip_skip or 1,
        "is_using_inpainting_conditioning": False,
        "interrupted": job.state is JobState.CANCELED,
        "warnings": job.warnings,  # ours
        "flagged": [index in job.flagged for index in range(parameters.images)],  # ours
    }


def _read_infotext(image: bytes) -> str:
    """What is written in an image; empty for one that says nothing. Only its header is read, by which it is found."""
    try:
        with Image.open(io.BytesIO(image)) as opened:
            return read_description(opened)
    except UnidentifiedImageError:
        return ""


def build_infotext(parameters: GenerationParameters, seed: int, model: str) -> str:
    """An image's parameters in a text, as tools for AUTOMATIC1111's images read it, of an image that doesn't say."""
    facts: dict[str, object] = {"Seed": seed, "Model": model}
    if parameters.sampler:
        facts["Sampler"], facts["Schedule type"] = split_sampler(parameters.sampler)
    return build_metadata(parameters, facts)


def build_progress_answer(job: Job | None, progress: Progress | None, preview: bytes | None) -> dict[str, Any]:
    """The answer of progress; without a job that is under way, all is zero."""
    is_busy = job is not None and progress is not None and not job.state.is_final
    state: dict[str, Any] = {
        "skipped": False,
        "interrupted": bool(job and job.cancel_requested),
        "stopping_generation": bool(is_busy and job and job.cancel_requested),
        "job": "",
        "job_count": 0,
        "job_timestamp": job.submitted_at.strftime(TIMESTAMP) if job else "0",
        "job_no": 0,
        "sampling_step": 0,
        "sampling_steps": 0,
    }
    if not is_busy or job is None or progress is None:
        return {"progress": 0.0, "eta_relative": 0.0, "state": state, "current_image": None, "textinfo": None}
    state |= {
        "job": job.id,
        "job_count": 1,
        "sampling_step": progress.steps_done,
        "sampling_steps": progress.steps,
    }
    waiting = f"{progress.jobs_ahead} jobs ahead" if progress.jobs_ahead is not None else None
    return {
        "progress": min(ALMOST_DONE, max(0.01, progress.share)),  # 0 means that nothing is under way
        "eta_relative": progress.eta_seconds or 0.0,
        "state": state,
        "current_image": base64.b64encode(preview).decode("ascii") if preview else None,
        "textinfo": waiting,
    }
