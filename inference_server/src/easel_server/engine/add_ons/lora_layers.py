"""What adapters add to a module's layers, and to which rows of its calls.

The module, its parameters and its state dict stay as they are: the ``forward`` of layers that an adapter changes is
another function within ``adapted``, and the layer's own again after it. A call without adapters runs with nothing
around anything. Compiled layers can't be given another ``forward``: they are told by number (``open_layers.py``).

call                            what a layer adds                                  how it rounds
----                            -----------------                                  -------------
of one job                      ``result + up(down(x)) * scale``, one adapter      as peft does, bit for bit
                                after another, in the order of their names
of jobs with the same           the same                                           up to rounding: scaled and added
                                                                                   within the multiplication
of jobs with different ones     the same for each run of rows with the same        likewise; where all runs are alike
                                adapters; other rows keep their result             but for the numbers, in one
                                                                                   multiplication of stacked weights

Jobs stay together for many steps, so what a call needs is laid out once (``Plans``).
"""

import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import torch
from torch.nn import functional

from easel_server.engine.add_ons.lora_formats import LoraLayer, LoraWeights
from easel_server.engine.speed.open_layers import Add, adding

FORWARD: Final = "forward"
MATRIX: Final = 2  # dimensions of a linear layer's weights
# Stacked weights of a call are kept until its jobs change, unless they take more than this: they are copies, beside
# what the budget for add-ons knows of.
MAX_KEPT_BYTES: Final = 256 << 20


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


Rows = Sequence[tuple[int, AdapterSet | None]]  # numbers of rows, in order, and what is added to these
Plan = Mapping[torch.nn.Module, Add]  # by layer


class _Run(NamedTuple):
    """Rows one after another to which the same is added."""

    start: int
    stop: int
    additions: Sequence[Addition]


class Plans:
    """The plan of each module's last call with adapters; it goes with the first of its jobs."""

    def __init__(self) -> None:
        self._last: dict[torch.nn.Module, tuple[tuple[object, ...], Plan]] = {}

    def find(self, module: torch.nn.Module, rows: Rows) -> Plan:
        """For calls of this module that have these rows."""
        key = tuple((count, None if each is None else weakref.ref(each)) for count, each in rows)
        known = self._last.get(module)
        if known is not None and known[0] == key:
            return known[1]

        def forget(_: object) -> None:
            if self._last.get(module, ((), {}))[1] is plan:
                del self._last[module]

        plan = plan_rows(rows)
        key = tuple((count, None if each is None else weakref.ref(each, forget)) for count, each in rows)
        self._last[module] = key, plan
        return plan


@contextmanager
def adapted(plan: Plan, numbers: Mapping[torch.nn.Module, int] = {}) -> Iterator[None]:
    """Within, calls of the module have exactly the plan's rows. ``numbers`` are of open layers. Not to be nested."""
    changed: list[tuple[dict[str, Any], Any]] = []
    try:
        for layer, add in plan.items():
            if layer not in numbers:
                attributes: dict[str, Any] = vars(layer)
                changed.append((attributes, attributes.get(FORWARD)))
                attributes[FORWARD] = _wrap(layer.forward, add)
        with adding({numbers[layer]: add for layer, add in plan.items() if layer in numbers} if numbers else {}):
            yield
    finally:
        for attributes, before in changed:
            if before is None:
                del attributes[FORWARD]
            else:  # a hook's, such as that which casts weights
                attributes[FORWARD] = before


def _wrap(forward: Callable[..., torch.Tensor], add: Add) -> Callable[..., torch.Tensor]:
    def run(inputs: torch.Tensor, *arguments: Any, **options: Any) -> torch.Tensor:
        result = forward(inputs, *arguments, **options)
        add(inputs, result)
        return result

    return run


def plan_rows(rows: Rows) -> Plan:
    """For calls that have these rows; where all have the same adapters, any number of them."""
    sets = [each for _, each in rows if each is not None]
    if not sets:
        return {}
    if len({None if each is None else each.key for _, each in rows}) == 1:
        is_one_job = len(rows) == 1
        return {layer: _add_to_all(layer, some, is_one_job=is_one_job) for layer, some in sets[0].additions.items()}
    total = sum(count for count, _ in rows)
    runs: dict[torch.nn.Module, list[_Run]] = {}
    for start, stop, additions in _join_runs(rows):
        for layer, some in additions.additions.items():
            runs.setdefault(layer, []).append(_Run(start, stop, some))
    stackable = {layer for layer, of_one in runs.items() if _is_stackable(of_one, total)}
    is_kept = sum(_count_bytes(runs[layer]) for layer in stackable) <= MAX_KEPT_BYTES
    return {
        layer: _add_stacked(layer, of_one, total, is_kept=is_kept)
        if layer in stackable
        else _add_to_runs(layer, of_one, total)
        for layer, of_one in runs.items()
    }


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
    """Whether the runs are all rows, each of as many, with as many adapters each that are alike but for the numbers."""
    rows, first = runs[0].stop - runs[0].start, [each.layer.down.shape for each in runs[0].additions]
    if len(runs) * rows != total or any(len(shape) != MATRIX for shape in first):
        return False
    return all(
        run.stop - run.start == rows
        and [each.layer.down.shape for each in run.additions] == first
        and all(each.layer.bias is None for each in run.additions)
        for run in runs
    )


def _count_bytes(runs: Sequence[_Run]) -> int:
    return sum(each.layer.size_bytes for run in runs for each in run.additions)


def _add_to_all(layer: torch.nn.Module, additions: Sequence[Addition], *, is_one_job: bool) -> Add:
    def add(inputs: torch.Tensor, result: torch.Tensor) -> None:
        for each in additions:
            if is_one_job:
                result += _compute(layer, each.layer, inputs) * each.scale
            else:
                _add(layer, each, inputs, result)

    return add


def _add_to_runs(layer: torch.nn.Module, runs: Sequence[_Run], total: int) -> Add:
    def add(inputs: torch.Tensor, result: torch.Tensor) -> None:
        _check_rows(inputs, total)
        for start, stop, some in runs:
            for each in some:
                _add(layer, each, inputs[start:stop], result[start:stop])

    return add


class _Stack(NamedTuple):
    """An adapter of each job, as one."""

    down: torch.Tensor  # [jobs, in, rank]
    up: torch.Tensor  # [jobs, rank, out]
    scale: float | torch.Tensor  # [jobs, 1, 1] where they differ


def _add_stacked(layer: torch.nn.Module, runs: Sequence[_Run], total: int, *, is_kept: bool) -> Add:
    """Two multiplications for all jobs, not two for each."""
    columns = list(zip(*(run.additions for run in runs), strict=True))
    one_by_one = _add_to_runs(layer, runs, total)
    kept: list[_Stack] = []

    def add(inputs: torch.Tensor, result: torch.Tensor) -> None:
        if not result.is_contiguous():
            one_by_one(inputs, result)
            return
        _check_rows(inputs, total)
        stacks = kept or [_stack(column) for column in columns]
        if is_kept and not kept:
            kept.extend(stacks)
        flat = inputs.to(stacks[0].down.dtype).reshape(len(runs), -1, inputs.shape[-1])
        results = result.view(len(runs), -1, result.shape[-1])
        for down, up, scale in stacks:
            inner = torch.bmm(flat, down)
            if isinstance(scale, torch.Tensor):
                results.baddbmm_(inner.mul_(scale), up)
            else:
                results.baddbmm_(inner, up, alpha=scale)

    return add


def _stack(additions: Sequence[Addition]) -> _Stack:
    scales = [scale for _, scale in additions]
    down = torch.stack([layer.down for layer, _ in additions])
    scale = down.new_tensor(scales).view(-1, 1, 1) if len(set(scales)) > 1 else scales[0]
    return _Stack(down.transpose(1, 2), torch.stack([layer.up.t() for layer, _ in additions]), scale)


def _check_rows(inputs: torch.Tensor, total: int) -> None:
    if inputs.shape[0] != total:
        raise RowsLostError(f"{tuple(inputs.shape)} at a layer, {total} rows in the call")


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
