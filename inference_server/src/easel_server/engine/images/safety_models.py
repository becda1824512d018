"""A safety checker that a service names, for any family: diffusers' own kind, or an image classifier of transformers.

Both in safetensors, in a repository's or a directory's root, as transformers saves them. Which weights they are and
what counts as a hit is in the checker's identity, which images are cached under.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import torch
from easel_contract.server_config import SafetyCheckerConfig
from PIL import Image

from easel_server.engine.images.safety import CHECKED_AT_ONCE, NamedChecker, SafetyChecker
from easel_server.engine.interface import ModelLoadError
from easel_server.engine.model_files.gathering import gather_checker
from easel_server.engine.model_files.hub import Hub
from easel_server.engine.model_files.selection import ModelFileError

DIFFUSERS_CHECKER: Final = "StableDiffusionSafetyChecker"
CONFIG, PREPROCESSOR = "config.json", "preprocessor_config.json"
# What classifiers call what isn't for everybody; of the others there are too many names to list.
UNSAFE_LABELS: Final = frozenset(
    {"nsfw", "unsafe", "porn", "pornography", "hentai", "explicit", "nude", "nudity", "sexual"}
)
MULTI_LABEL: Final = "multi_label_classification"  # labels don't exclude each other
MAX_NAMED: Final = 50  # labels in a message


class ImageClassifier:
    """Flags an image that is as likely as the threshold, or likelier, what the labels say."""

    def __init__(self, module: Any, processor: Any, labels: Sequence[int], threshold: float) -> None:
        self._module = module
        self._processor = processor
        self._labels = list(labels)
        self._threshold = threshold

    def find_flagged(self, images: Sequence[Image.Image]) -> tuple[int, ...]:
        """The indices of those that it flags. In the engine's thread."""
        flagged: list[int] = []
        weights = next(self._module.parameters())
        for start in range(0, len(images), CHECKED_AT_ONCE):
            seen = self._processor(list(images[start : start + CHECKED_AT_ONCE]), return_tensors="pt").pixel_values
            with torch.inference_mode():
                logits = self._module(seen.to(weights.device, weights.dtype)).logits.float()
            if self._module.config.problem_type == MULTI_LABEL:
                scores = logits.sigmoid()[:, self._labels].amax(dim=1)
            else:
                scores = logits.softmax(dim=1)[:, self._labels].sum(dim=1)
            flagged += (start + number for number, score in enumerate(scores.tolist()) if score >= self._threshold)
        return tuple(flagged)


def load_safety_checker(config: SafetyCheckerConfig, hub: Hub, device: torch.device) -> NamedChecker:
    """The checker that a service names, on a device. Blocks for a download. Raises ModelLoadError."""
    try:
        return _load(config, hub, device)
    except (ModelFileError, OSError, ValueError, KeyError) as error:
        raise ModelLoadError(
            f"safety checker {config.source}: {error}; model.safetyChecker takes a {DIFFUSERS_CHECKER}, or an image "
            f"classifier of transformers, in safetensors with its {CONFIG} and {PREPROCESSOR}"
        ) from error


def _load(config: SafetyCheckerConfig, hub: Hub, device: torch.device) -> NamedChecker:
    directory = gather_checker(config, hub)
    described = _read(directory / CONFIG)
    options: dict[str, Any] = {"local_files_only": True, "use_safetensors": True}
    if DIFFUSERS_CHECKER in described.get("architectures", ()):
        from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker  # noqa: PLC0415
        from transformers import CLIPImageProcessor  # noqa: PLC0415

        module: Any = StableDiffusionSafetyChecker.from_pretrained(directory, **options)
        processor = CLIPImageProcessor.from_pretrained(directory, local_files_only=True)
        module = module.eval().to(device)
        return NamedChecker(SafetyChecker(module, processor), _identify(module, directory, config))
    from transformers import AutoImageProcessor, AutoModelForImageClassification  # noqa: PLC0415

    labels = choose_labels(described.get("id2label", {}), config.labels)
    module = AutoModelForImageClassification.from_pretrained(directory, **options)
    load_processor: Any = AutoImageProcessor.from_pretrained
    processor = load_processor(directory, local_files_only=True)
    module = module.eval().to(device)
    classifier = ImageClassifier(module, processor, labels, config.threshold)
    return NamedChecker(classifier, _identify(module, directory, config))


def choose_labels(names: Mapping[Any, str], wanted: Sequence[str]) -> list[int]:
    """Indices of the labels that count: those that are wanted, else those whose name says so. Raises ValueError."""
    indices = {str(name).lower(): int(index) for index, name in names.items()}
    shown = ", ".join(list(map(str, names.values()))[:MAX_NAMED]) or "none"
    unknown = next((label for label in wanted if label.lower() not in indices), None)
    if unknown is not None:
        raise ValueError(f"it has no label {unknown!r}, its labels are {shown}; correct model.safetyChecker.labels")
    chosen = [indices[label.lower()] for label in wanted]
    chosen = chosen or [index for name, index in indices.items() if name in UNSAFE_LABELS]
    if not chosen:
        raise ValueError(f"none of its labels is known to say unsafe: {shown}; list some in model.safetyChecker.labels")
    return chosen


def _read(file: Path) -> dict[str, Any]:
    content = json.loads(file.read_text(encoding="utf-8"))
    if not isinstance(content, dict):
        raise ModelFileError(f"{file} is no JSON object")
    return content


def _identify(module: Any, directory: Path, config: SafetyCheckerConfig) -> str:
    """Of the weights as they are in memory, of what they are fed with, and of what counts as a hit."""
    digest = hashlib.sha256(f"{sorted(config.labels)} {config.threshold}".encode())
    for name in (CONFIG, PREPROCESSOR):
        digest.update((directory / name).read_bytes())
    for name, tensor in module.state_dict().items():
        data = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode() + hashlib.sha256(data).digest())
    return f"sha256:{digest.hexdigest()}"
