"""Upscalers of the published architecture at tiny width, in files as they are published."""

from pathlib import Path

import torch
from safetensors.torch import save_file


def write_tiny_upscaler(file: Path, *, scale: int = 4) -> Path:
    """An ESRGAN (RRDBNet) of four channels with random weights from a fixed seed, as safetensors."""
    # The class is nowhere else, and says nothing of its types.
    from spandrel.architectures.ESRGAN.__arch.RRDB import RRDBNet  # noqa: PLC0415

    torch.manual_seed(0)
    network = RRDBNet(num_filters=4, num_blocks=1, scale=scale)
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.contiguous() for name, tensor in network.state_dict().items()}, file)
    return file
