"""What adapters add to a module's layers, for the time of a call; to which rows, where jobs share the call.

The module, its parameters and its state dict stay as they are: the ``forward`` of layers that an adapter changes is
another function within ``adapted``, and the layer's own again after it. A call without adapters runs with nothing
around anything.

call                            what a layer adds                                  how it rounds
----                            -----------------                                  -------------
of one job                      ``result + up(down(x)) * scale``, one adapter      as peft does, bit for bit
                                after another, in the order of their names
of jobs with the same           the same                                           up to rounding: scaled and added
                                                                                   within the multiplication
of jobs with different ones     the same for each run of rows with the same        likewise; where all runs are alike
                                adapters; other rows keep their result             but for the numbers, in one
                                                                                   multiplication of stacked weights
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import torch
from torch.nn import functional

from easel_server.engine.add_ons.lora_formats import LoraLayer, LoraWeights

FORWARD: Final = "forward"
MATRIX: Final = 2  # dimensions of a linear layer's weights


class RowsLostError(Exception):
    """A layer's input isn't one entry a row, so what belongs to some rows can't be added to them alone."""


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


def combine(adapters: Sequence[Adapter], part: str, module: torch.nn.Module) -> AdapterSet | None:
    """What they add to this module, which is a part of the pipeline; None if that is nothing."""
    additions: dict[torch.nn.Module, list[Addition]] = {}
    key = []
    for adapter in sorted(adapters, key=lambda each: each.name):
        layers = adapter.weights.parts.get(part, {})
        if layers and adapter.weight:
            key.append(adapter.key)
        for name, layer in layers.items():
            if adapter.weight:
                additions.setdefault(module.get_submodule(name), []).append(
                    Addition(layer, layer.scale(adapter.weight))
                )
    return AdapterSet(tuple(key), additions) if additions else None


Rows = Sequence[tuple[int, AdapterSet | None]]  # numbers of rows, in order, and what is added to these


class _Run(NamedTuple):
    """Rows one after another to which the same is added."""

    start: int
    stop: int
    additions: Sequence[Addition]


@contextmanager
def adapted(rows: Rows) -> Iterator[None]:
    """Within, calls of the module have exactly these rows, with what is added to each. Not to be nested."""
    sets = [each for _, each in rows if each is not None]
    if not sets:
        yield
        return
    changed: list[tuple[dict[str, Any], Any]] = []
    wrappers = _wrap_all(sets[0], is_one_job=len(rows) == 1) if _is_same(rows) else _wrap_runs(rows)
    try:
        for layer, wrap in wrappers.items():
            attributes = vars(layer)
            changed.append((attributes, attributes.get(FORWARD)))
            attributes[FORWARD] = wrap(layer)
        yield
    finally:
        for attributes, before in changed:
            if before is None:
                del attributes[FORWARD]
            else:  # a hook's, such as that which casts weights
                attributes[FORWARD] = before


Wrap = Callable[[Any], Callable[..., torch.Tensor]]  # the function to be a layer's ``forward``


def _is_same(rows: Rows) -> bool:
    return len({None if each is None else each.key for _, each in rows}) == 1


def _wrap_all(additions: AdapterSet, *, is_one_job: bool) -> dict[torch.nn.Module, Wrap]:
    def wrap(some: Sequence[Addition]) -> Wrap:
        def of_layer(layer: Any) -> Callable[..., torch.Tensor]:
            forward = layer.forward

            def run(inputs: torch.Tensor, *arguments: Any, **options: Any) -> torch.Tensor:
                result: torch.Tensor = forward(inputs, *arguments, **options)
                dtype = result.dtype
                for each in some:
                    if is_one_job:
                        result = result + _compute(layer, each.layer, inputs) * each.scale
                    else:
                        _add(layer, each, inputs, result)
                return result.to(dtype)

            return run

        return of_layer

    return {layer: wrap(some) for layer, some in additions.additions.items()}


def _wrap_runs(rows: Rows) -> dict[torch.nn.Module, Wrap]:
    total = sum(count for count, _ in rows)
    runs: dict[torch.nn.Module, list[_Run]] = {}
    for start, stop, additions in _join_runs(rows):
        for layer, some in additions.additions.items():
            runs.setdefault(layer, []).append(_Run(start, stop, some))

    def wrap(of_one: Sequence[_Run]) -> Wrap:
        def of_layer(layer: Any) -> Callable[..., torch.Tensor]:
            forward = layer.forward
            is_stackable = _is_stackable(of_one, total)

            def run(inputs: torch.Tensor, *arguments: Any, **options: Any) -> torch.Tensor:
                if inputs.shape[0] != total:
                    raise RowsLostError(f"{tuple(inputs.shape)} at a layer, {total} rows in the call")
                result: torch.Tensor = forward(inputs, *arguments, **options)
                if is_stackable and result.is_contiguous():
                    _add_stacked([some[0] for _, _, some in of_one], inputs, result)
                    return result
                for start, stop, some in of_one:
                    for each in some:
                        _add(layer, each, inputs[start:stop], result[start:stop])
                return result

            return run

        return of_layer

    return {layer: wrap(of_one) for layer, of_one in runs.items()}


def _join_runs(rows: Rows) -> Iterator[tuple[int, int, AdapterSet]]:
    start = stop = 0
    last: AdapterSet | None = None
    for count, each in (*rows, (0, None)):
        if last is not None and (each is None or each.key != last.key):
            yield start, stop, last
        if each is None or last is None or each.key != last.key:
            start = stop
        last = each
        stop += count


def _is_stackable(runs: Sequence[_Run], total: int) -> bool:
    """Whether the runs are all rows, each of as many, with one adapter each of one rank."""
    if len(runs) * (runs[0].stop - runs[0].start) != total:
        return False
    shape, rows = runs[0].additions[0].layer.down.shape, runs[0].stop
    return len(shape) == MATRIX and all(
        stop - start == rows and len(some) == 1 and some[0].layer.down.shape == shape and some[0].layer.bias is None
        for start, stop, some in runs
    )


def _add_stacked(additions: Sequence[Addition], inputs: torch.Tensor, result: torch.Tensor) -> None:
    """Add each to the result of its share of the rows, in place: two multiplications for all, not two for each."""
    down = torch.stack([layer.down for layer, _ in additions])  # [jobs, rank, in]
    up = torch.stack([layer.up for layer, _ in additions])  # [jobs, out, rank]
    inner = torch.bmm(inputs.to(down.dtype).reshape(len(additions), -1, inputs.shape[-1]), down.transpose(1, 2))
    scale = additions[0].scale
    if any(each.scale != scale for each in additions):
        for each, part in zip(additions, inner, strict=True):
            part.mul_(each.scale)
        scale = 1.0
    result.view(len(additions), -1, result.shape[-1]).baddbmm_(inner, up.transpose(1, 2), alpha=scale)


def _compute(target: Any, layer: LoraLayer, inputs: torch.Tensor) -> torch.Tensor:
    """What the layer adds, unscaled."""
    inputs = inputs.to(layer.down.dtype)
    if isinstance(target, torch.nn.Conv2d):
        inner = functional.conv2d(inputs, layer.down, None, target.stride, target.padding)
        return functional.conv2d(inner, layer.up, layer.bias)
    return functional.linear(functional.linear(inputs, layer.down), layer.up, layer.bias)


def _add(target: Any, addition: Addition, inputs: torch.Tensor, result: torch.Tensor) -> None:
    """Add it to the result of these rows, in place."""
    layer, scale = addition
    if isinstance(target, torch.nn.Conv2d) or layer.bias is not None or not result.is_contiguous():
        result += _compute(target, layer, inputs) * scale
        return
    inner = functional.linear(inputs.to(layer.down.dtype), layer.down)
    flat = result.view(-1, result.shape[-1])
    flat.addmm_(inner.view(-1, inner.shape[-1]), layer.up.t(), alpha=scale)
