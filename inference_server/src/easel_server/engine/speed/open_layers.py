"""Blocks with a place behind each layer where adapters add to its result, so that compiled ones needn't know them.

What is compiled calls ``add_adapters`` with the layer's number, which no compiler looks into; what that does is said
for each call (``adding``), and is nothing otherwise. So one compilation serves every adapter, rank, weight and
combination of them, and a switch compiles nothing.

An open block is another block of the same layers: the block itself stays as it is, for calls without adapters.
"""

import copy
import itertools
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

import torch

OPENABLE: Final = (torch.nn.Linear, torch.nn.Conv2d)
Add = Callable[[torch.Tensor, torch.Tensor], None]  # to a layer's result, its second argument, in place

_numbers = itertools.count()
_said = threading.local()  # a thread that compiles runs blocks, too, and adds nothing
_operators = torch.library.Library("easel", "DEF")  # type: ignore[no-untyped-call]
_operators.define(  # type: ignore[no-untyped-call]
    "add_adapters(Tensor(a!) result, Tensor inputs, Tensor number) -> ()"
)


@torch.library.impl(_operators, "add_adapters", "CompositeExplicitAutograd")
def _add_adapters(result: torch.Tensor, inputs: torch.Tensor, number: torch.Tensor) -> None:
    adds: Mapping[int, Add] = getattr(_said, "adds", {})
    if adds and (add := adds.get(int(number))) is not None:
        add(inputs, result)


@torch.library.register_fake("easel::add_adapters", lib=_operators)  # type: ignore[untyped-decorator]
def _add_nothing(result: torch.Tensor, inputs: torch.Tensor, number: torch.Tensor) -> None:
    """It returns nothing, whatever the shapes are."""


class _OpenLayer(torch.nn.Module):
    def __init__(self, layer: torch.nn.Module, number: int) -> None:
        super().__init__()
        self.layer = layer
        self.register_buffer("number", torch.tensor(number, device="cpu"))  # a number itself would be compiled in

    def forward(self, inputs: torch.Tensor, *arguments: Any, **options: Any) -> torch.Tensor:
        result: torch.Tensor = self.layer(inputs, *arguments, **options)
        torch.ops.easel.add_adapters(result, inputs, self.number)
        return result


@contextmanager
def adding(adds: Mapping[int, Add]) -> Iterator[None]:
    """Within, open layers of these numbers add this to their results, in this thread."""
    _said.adds = adds
    try:
        yield
    finally:
        _said.adds = {}


def open_block(block: torch.nn.Module) -> tuple[torch.nn.Module, dict[torch.nn.Module, int]]:
    """The open block of the same layers, parameters and hooks, and the numbers of its layers."""
    numbers: dict[torch.nn.Module, int] = {
        layer: next(_numbers) for layer in block.modules() if isinstance(layer, OPENABLE)
    }
    shared = [*block.parameters(), *block.buffers(), *(each for each in block.modules() if not [*each.children()])]
    memo: dict[int, Any] = {id(each): each for each in shared}
    memo |= {id(layer): _OpenLayer(layer, number) for layer, number in numbers.items()}
    return copy.deepcopy(block, memo), numbers
