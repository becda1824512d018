"""Calls of one denoiser, made by several jobs, as one call: what belongs to rows is joined, the rest must be equal.

A row is an entry of the batch dimension: an image, or its half of classifier-free guidance. Nothing here knows a model
family: arguments are told apart by their shapes.
"""

from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch

from easel_server.engine.add_ons.lora_layers import AdapterSet

TIMESTEP: Final = "timestep"  # of every denoiser: one for all rows, or one for each
UNBATCHED: Final = frozenset(
    {"txt_ids", "img_ids", "image_rotary_emb"}
)  # positions, the same for all rows: never joined, always compared
# What ControlNets add to a denoiser's own: a call without them is one that adds zeros, so that such jobs share steps
# with plain ones.
ADDITIONS: Final = frozenset(
    {
        "down_block_additional_residuals",
        "mid_block_additional_residual",
        "block_controlnet_hidden_states",
        "controlnet_block_samples",
        "controlnet_single_block_samples",
        "controlnet_blocks_repeat",
    }
)
Arguments = Mapping[str, Any]


@dataclass(frozen=True)
class DenoiserCall:
    """One call that a pipeline makes of a denoiser, or of a ControlNet. Arguments by name."""

    module: torch.nn.Module
    arguments: Arguments
    additions: AdapterSet | None = None  # what the job's adapters add to the module; calls with others may be joined

    @property
    def rows(self) -> int:
        """How many rows it has, by the first argument: latents, [rows, …]. 0 if that is none: it can't be joined."""
        first = next(iter(self.arguments.values()), None)
        return first.shape[0] if isinstance(first, torch.Tensor) and first.ndim > 0 else 0

    @property
    def row_shape(self) -> tuple[object, ...]:
        """What one row is, by the first argument."""
        first = next(iter(self.arguments.values()), None)
        return (id(self.module), tuple(first.shape[1:]) if isinstance(first, torch.Tensor) else None)

    @property
    def shape(self) -> tuple[object, ...]:
        """Equal for calls that may be joined, but for values that ``group`` compares."""
        return (*self.plain_shape, *self.added_shape)

    @property
    def plain_shape(self) -> tuple[object, ...]:
        """``shape`` without what ControlNets add."""
        if not self.rows:
            return (id(self.module), id(self))
        given = ((name, value) for name, value in self.arguments.items() if name not in ADDITIONS)
        return (id(self.module), *(_describe(name, value, self.rows) for name, value in given))

    @property
    def added_shape(self) -> tuple[object, ...]:
        """Of what ControlNets add; empty where there is none."""
        return tuple(_describe(name, value, self.rows) for name, value in self._list_added())

    def _list_added(self) -> list[tuple[str, Any]]:
        return [(name, value) for name, value in self.arguments.items() if name in ADDITIONS and value is not None]


def group(calls: Sequence[DenoiserCall], *, alike_only: Container[torch.nn.Module] = ()) -> list[list[int]]:
    """The calls' numbers, those together that can be one call; in the order in which they came.

    Of modules in ``alike_only``, calls whose adapters add different things can't be.
    """
    groups: list[tuple[object, dict[str, object], list[int]]] = []  # what is added is known with the first that does
    for number, call in enumerate(calls):
        shape = (*call.plain_shape, _key_additions(call) if call.module in alike_only else None)
        added = call.added_shape
        for known, additions, numbers in groups:
            fits = known == shape and (not added or additions.get("shape", added) == added)
            if fits and _shares_are_equal(calls[numbers[0]], call):
                numbers.append(number)
                if added:
                    additions["shape"] = added
                break
        else:
            groups.append((shape, {"shape": added} if added else {}, [number]))
    return [numbers for _, _, numbers in groups]


def _key_additions(call: DenoiserCall) -> object:
    return None if call.additions is None else call.additions.key


def merge(calls: Sequence[DenoiserCall]) -> Arguments:
    """The arguments of one call for all rows, in order. The calls must be of one group."""
    if len(calls) == 1:
        return calls[0].arguments
    rows = [call.rows for call in calls]
    filled = _fill_additions(calls)
    return {
        name: _merge_timesteps([arguments[name] for arguments in filled], rows)
        if name == TIMESTEP
        else _merge_values(name, [arguments[name] for arguments in filled], rows)
        for name in filled[0]
    }


def _fill_additions(calls: Sequence[DenoiserCall]) -> list[Arguments]:
    """The arguments of each, with zeros for what ControlNets add to others of them only."""
    adding = next((call for call in calls if call.added_shape), None)
    if adding is None:
        return [call.arguments for call in calls]
    added = {name: value for name, value in adding.arguments.items() if name in ADDITIONS and value is not None}
    return [
        call.arguments
        if call.added_shape
        else {**call.arguments, **{name: _build_zeros(value, call.rows) for name, value in added.items()}}
        for call in calls
    ]


def _build_zeros(value: Any, rows: int) -> Any:
    if isinstance(value, torch.Tensor):
        return value.new_zeros((rows, *value.shape[1:]))
    if isinstance(value, tuple | list):
        return type(value)(_build_zeros(each, rows) for each in value)
    return value


def take_rows(call: DenoiserCall, numbers: Sequence[int]) -> DenoiserCall:
    """A call with these of its rows, in this order; a row may be taken twice."""
    rows = call.rows
    if list(numbers) == list(range(rows)):
        return call
    taken = {
        name: _take_timesteps(value, numbers) if name == TIMESTEP else _take(name, value, rows, numbers)
        for name, value in call.arguments.items()
    }
    return DenoiserCall(call.module, taken, call.additions)


def split_images(call: DenoiserCall, images: int) -> list[DenoiserCall]:
    """A call for each image. Row number r belongs to image r modulo ``images``: pipelines put pass after pass."""
    if images <= 1 or call.rows % images or not call.rows:
        return [call]
    return [take_rows(call, range(image, call.rows, images)) for image in range(images)]


def join_images(outputs: Sequence[Any]) -> Any:
    """One output of those of images: what ``split_images`` undoes."""
    first = outputs[0]
    if len(outputs) == 1:
        return first
    if isinstance(first, torch.Tensor):
        return torch.stack(list(outputs), dim=1).flatten(0, 1)
    if isinstance(first, Mapping):
        return type(first)(**{name: join_images([output[name] for output in outputs]) for name in first})
    if isinstance(first, tuple | list):
        return type(first)(join_images(column) for column in zip(*outputs, strict=True))
    return first


def join(outputs: Sequence[Any]) -> Any:
    """One output of those of parts, row after row: what ``split`` undoes."""
    first = outputs[0]
    if len(outputs) == 1:
        return first
    if isinstance(first, torch.Tensor):
        return torch.cat(list(outputs)) if first.ndim > 0 else first
    if isinstance(first, Mapping):
        return type(first)(**{name: join([output[name] for output in outputs]) for name in first})
    if isinstance(first, tuple | list):
        return type(first)(join(column) for column in zip(*outputs, strict=True))
    return first


def map_tensors(output: Any, change: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    """The output with each of its tensors changed."""
    if isinstance(output, torch.Tensor):
        return change(output)
    if isinstance(output, Mapping):
        return type(output)(**{name: map_tensors(value, change) for name, value in output.items()})
    if isinstance(output, tuple | list):
        return type(output)(map_tensors(value, change) for value in output)
    return output


def split(output: Any, rows: Sequence[int]) -> list[Any]:
    """What each of the merged calls gets of the output: a tensor, or tuples and dataclasses of tensors."""
    if len(rows) == 1:
        return [output]
    if isinstance(output, torch.Tensor):
        return list(torch.split(output, list(rows)))
    if isinstance(output, Mapping):  # diffusers' outputs are dataclasses that are mappings too
        parts = {name: split(value, rows) for name, value in output.items()}
        return [type(output)(**{name: parts[name][index] for name in parts}) for index in range(len(rows))]
    if isinstance(output, tuple | list):
        columns = [split(value, rows) for value in output]
        return [type(output)(column[index] for column in columns) for index in range(len(rows))]
    return [output] * len(rows)


def _is_batched(name: str, value: Any, rows: int) -> bool:
    return isinstance(value, torch.Tensor) and name not in UNBATCHED and value.ndim > 0 and value.shape[0] == rows


def _describe(name: str, value: Any, rows: int) -> object:
    if name == TIMESTEP:
        return name
    if _is_batched(name, value, rows):
        return (name, tuple(value.shape[1:]), value.dtype)
    if isinstance(value, torch.Tensor):
        return (name, "shared", tuple(value.shape), value.dtype)
    if isinstance(value, Mapping):
        return (name, *((key, _describe(key, each, rows)) for key, each in value.items()))
    if isinstance(value, tuple | list):
        return (name, *(_describe(name, each, rows) for each in value))
    return (name, repr(value))


def _shares_are_equal(one: DenoiserCall, other: DenoiserCall) -> bool:
    return all(
        torch.equal(left, right)
        for left, right in zip(
            _list_shared(one.arguments, one.rows), _list_shared(other.arguments, other.rows), strict=True
        )
    )


def _list_shared(arguments: Arguments, rows: int) -> list[torch.Tensor]:
    """Tensors that all rows have in common."""
    found: list[torch.Tensor] = []
    for name, value in arguments.items():
        if name == TIMESTEP or name in ADDITIONS or _is_batched(name, value, rows):
            continue
        if isinstance(value, torch.Tensor):
            found.append(value)
        elif isinstance(value, Mapping):
            found += _list_shared(value, rows)
        elif isinstance(value, tuple | list):
            found += _list_shared({str(index): each for index, each in enumerate(value)}, rows)
    return found


def _take(name: str, value: Any, rows: int, numbers: Sequence[int]) -> Any:
    if _is_batched(name, value, rows):
        return value[list(numbers)]
    if isinstance(value, Mapping):
        return {key: _take(key, each, rows, numbers) for key, each in value.items()}
    if isinstance(value, tuple | list):
        return type(value)(_take(name, each, rows, numbers) for each in value)
    return value


def _take_timesteps(value: Any, numbers: Sequence[int]) -> Any:
    is_each = isinstance(value, torch.Tensor) and value.ndim > 0 and value.shape[0] > 1
    return value[list(numbers)] if is_each else value


def _merge_timesteps(values: Sequence[Any], rows: Sequence[int]) -> torch.Tensor:
    """[rows]: each row at its own. Whole and fractional ones meet as float32, which holds both exactly."""
    tensors = [torch.as_tensor(value) for value in values]
    device = next((tensor.device for tensor in tensors if tensor.device.type != "cpu"), tensors[0].device)
    dtype = tensors[0].dtype if len({tensor.dtype for tensor in tensors}) == 1 else torch.float32
    expanded = [tensor.to(device, dtype).expand(count) for tensor, count in zip(tensors, rows, strict=True)]
    return torch.cat(expanded)


def _merge_values(name: str, values: Sequence[Any], rows: Sequence[int]) -> Any:
    first = values[0]
    if _is_batched(name, first, rows[0]):
        return torch.cat(list(values))
    if isinstance(first, Mapping):
        return {key: _merge_values(key, [value[key] for value in values], rows) for key in first}
    if isinstance(first, tuple | list):
        return type(first)(_merge_values(name, column, rows) for column in zip(*values, strict=True))
    return first
