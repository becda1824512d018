"""A tiny network for depth, of the classes of Depth Anything, in transformers' layout with random weights."""

from pathlib import Path

import torch
from transformers import DepthAnythingConfig, DepthAnythingForDepthEstimation, Dinov2Config, DPTImageProcessor

from tests.support.tiny_models.parts import SEED

WIDTH = 16
PATCH_PIXELS = 14


def write_tiny_depth(directory: Path, *, is_metric: bool = False) -> Path:
    """The directory, with one that sees 56 pixels of the shorter side; ``is_metric``: far points are more."""
    torch.manual_seed(SEED + 40)
    backbone = Dinov2Config(
        hidden_size=WIDTH,
        num_hidden_layers=4,
        num_attention_heads=2,
        image_size=PATCH_PIXELS * 4,
        patch_size=PATCH_PIXELS,
        out_indices=[1, 2, 3, 4],  # type: ignore[call-arg]  # transformers' types don't know
        reshape_hidden_states=False,
    )
    config = DepthAnythingConfig(
        backbone_config=backbone,
        reassemble_hidden_size=WIDTH,
        patch_size=PATCH_PIXELS,
        neck_hidden_sizes=[8, 8, 8, 8],
        fusion_hidden_size=8,
        head_hidden_size=8,
        depth_estimation_type="metric" if is_metric else "relative",
        max_depth=20 if is_metric else 1,
    )
    model = DepthAnythingForDepthEstimation(config)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.2)  # as it begins, it gives nearly the same everywhere
    model.save_pretrained(directory)
    side = PATCH_PIXELS * 4
    DPTImageProcessor(
        size={"height": side, "width": side}, keep_aspect_ratio=True, ensure_multiple_of=PATCH_PIXELS, resample=3
    ).save_pretrained(directory)
    return directory
