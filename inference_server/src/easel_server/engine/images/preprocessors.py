"""Networks that make control images: of an image how far each of its points is away, near ones white.

Whatever transformers loads for depth estimation, in its own layout; what it gives is brought to grey as transformers'
own pipeline does: https://huggingface.co/docs/transformers/tasks/monocular_depth_estimation
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Final

import torch
from easel_contract.add_ons import AddOnConfig
from PIL import Image

from easel_server.engine.add_ons.files import LocalAddOn
from easel_server.engine.add_ons.residency import AddOnKey, Residency
from easel_server.engine.interface import GenerationError
from easel_server.engine.stepping.memory import attempt

MAX_SEEN_PIXELS: Final = 1 << 22  # that a network is shown, however its files say that images are to be resized
SUFFIX: Final = "ForDepthEstimation"  # of transformers' classes
METRIC: Final = frozenset({"ZoeDepthForDepthEstimation", "DepthProForDepthEstimation"})  # far points are more


class DepthNetwork(torch.nn.Module):
    """A network of transformers, and what brings images to the form that it takes."""

    def __init__(self, model: Any, processor: Any) -> None:
        super().__init__()
        self.model = model
        self._processor = processor
        is_metric = getattr(model.config, "depth_estimation_type", "relative") == "metric"
        self._is_far_more = is_metric or type(model).__name__ in METRIC

    def make(self, image: Image.Image) -> Image.Image:
        """The control image, RGB, of the image's size. Raises GenerationError."""
        given = self._processor(images=image, return_tensors="pt")
        height, width = given["pixel_values"].shape[-2:]
        if height * width > MAX_SEEN_PIXELS:
            raise GenerationError(
                f"a preprocessor would be shown {width}x{height} pixels, at most {MAX_SEEN_PIXELS} are; ask for "
                "another size"
            )
        parameter = next(self.model.parameters())
        with torch.inference_mode():
            output = self.model(pixel_values=given["pixel_values"].to(parameter.device, parameter.dtype))
        [found] = self._processor.post_process_depth_estimation(output, target_sizes=[(image.height, image.width)])
        depth = found["predicted_depth"].float().cpu()
        least, most = depth.min(), depth.max()
        nearness = (depth - least) / (most - least).clamp_min(torch.finfo(depth.dtype).tiny)
        if self._is_far_more:
            nearness = 1 - nearness
        return Image.fromarray((nearness * 255).to(torch.uint8).numpy()).convert("RGB")


def load_depth_network(name: str, path: Path) -> DepthNetwork:
    """In the host's memory. Blocks. Raises GenerationError for what is no network for depth."""
    from transformers import (  # noqa: PLC0415  # it takes a while, and few services need it
        AutoConfig,
        AutoImageProcessor,
        AutoModelForDepthEstimation,
    )

    if not path.is_dir():
        raise GenerationError(f"preprocessor {name}: {path.name} is a file; name the folder of transformers' layout")

    def load() -> DepthNetwork:
        local: dict[str, Any] = {"local_files_only": True}
        kinds = AutoConfig.from_pretrained(path, **local).architectures or []
        if not any(kind.endswith(SUFFIX) for kind in kinds):
            raise GenerationError(f"is {', '.join(kinds) or 'of no known class'}; allowed is …{SUFFIX}")
        processor = AutoImageProcessor.from_pretrained(path, **local)  # type: ignore[no-untyped-call]
        model = AutoModelForDepthEstimation.from_pretrained(path, use_safetensors=True, dtype=torch.float32, **local)
        for each in (*model.parameters(), *model.buffers()):
            each.data = each.data.clone()  # else they are the file's own pages, and change or go with it
        return DepthNetwork(model.eval().requires_grad_(requires_grad=False), processor)

    network, error = attempt(load)
    if network is None:
        raise GenerationError(f"preprocessor {name} can't be read from {path.name}: {error}") from error
    return network


class Preprocessors:
    """Those of an engine."""

    def __init__(self, residency: Residency, locate: Callable[[AddOnConfig], LocalAddOn]) -> None:
        """``locate`` says where a gathered one's folder is, and what."""
        self._residency = residency
        self._locate = locate

    def prefetch(self, config: AddOnConfig) -> None:
        """Read one into the host's memory. In any thread. Raises GenerationError."""
        self._residency.prefetch(*self._find(config))

    def make(self, config: AddOnConfig, image: Image.Image) -> Image.Image:
        """The control image. Raises GenerationError, and AddOnsBusyError where there is no room now."""
        with self._residency.hold(*self._find(config)) as network:
            return network.make(image)

    def _find(self, config: AddOnConfig) -> tuple[AddOnKey, Callable[[], DepthNetwork]]:
        found = self._locate(config)
        return AddOnKey("preprocessor", config.name, found.digest), partial(load_depth_network, config.name, found.path)
