"""Counts the memory that tensors take while something runs, as an allocator would, on any device: ``meta`` too."""

import weakref
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class PeakBytes(TorchDispatchMode):
    """The most bytes that results of operations took at once. A context manager."""

    def __init__(self) -> None:
        super().__init__()
        self.most = 0
        self._living: list[weakref.ref[torch.Tensor]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self._living += [weakref.ref(each) for each in tree_leaves(result) if isinstance(each, torch.Tensor)]
        self._living = [each for each in self._living if each() is not None]
        storages = {
            tensor.untyped_storage()._cdata: tensor.untyped_storage().nbytes()
            for each in self._living
            if (tensor := each()) is not None
        }
        self.most = max(self.most, sum(storages.values()))
        return result
