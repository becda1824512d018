"""What adapters add to the layers of a module. To which rows of a call, and how, is in ``lora_rows.py``."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch

from easel_server.engine.add_ons.lora_formats import LoraLayer, LoraWeights


@dataclass(frozen=True)
class Adapter:
    """A LoRA with the weight that a job gives it. ``digest`` is of its content."""

    name: str
    weight: float
    weights: LoraWeights = field(repr=False)

    @property
    def key(self) -> tuple[str, float]:
        """Equal where it adds the same."""
        return self.weights.digest, self.weight


class Addition(NamedTuple):
    """What one adapter adds to one layer."""

    layer: LoraLayer
    scale: float


@dataclass(frozen=True, eq=False)
class AdapterSet:
    """All that a job adds to one module: to each of its layers, in the order of the adapters' names."""

    key: tuple[object, ...]
    additions: Mapping[torch.nn.Module, Sequence[Addition]]


def combine(adapters: Sequence[Adapter], part: str, layers_of_part: Mapping[str, torch.nn.Module]) -> AdapterSet | None:
    """What they add to this part of the pipeline, whose layers these are by name; None if that is nothing."""
    additions: dict[torch.nn.Module, list[Addition]] = {}
    key = []
    for adapter in sorted(adapters, key=lambda each: each.name):
        layers = adapter.weights.parts.get(part, {})
        if layers and adapter.weight:
            key.append(adapter.key)
        for name, layer in layers.items():
            if adapter.weight:
                additions.setdefault(layers_of_part[name], []).append(Addition(layer, layer.scale(adapter.weight)))
    return AdapterSet(tuple(key), additions) if additions else None
