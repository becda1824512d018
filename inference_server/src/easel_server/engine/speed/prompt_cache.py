"""Prompts that were encoded already: the text encoders run once for the same prompts, whatever the seed.

Every family of diffusers encodes its prompts in ``encode_prompt``, so that is what is kept: its results by all of its
arguments. Bit for bit what it would give again. What it can't do by itself, long prompts and weights, is done below the
cache (``engine/prompts/``), and follows from the same arguments: the prompts with their signs, and clip skip.
"""

import inspect
import weakref
from collections.abc import Callable, Hashable
from contextlib import AbstractContextManager, nullcontext, suppress
from functools import partial
from typing import Any, Final

import torch
from cachetools import LRUCache

from easel_server.engine.prompts.encoding import encode_prompt, find_encoding

MAX_ENTRIES: Final = 256
MAX_BYTES: Final = 256 << 20  # Stable Diffusion XL's take 1.3 MiB in half precision, Flux's 4 MiB
ENCODE: Final = "encode_prompt"
PLAIN: Final = (str, int, float, bool, type(None), torch.device, torch.dtype)


class PromptCache:
    """The least recently used goes first. Everything in the engine's thread."""

    def __init__(self, *, max_entries: int = MAX_ENTRIES, max_bytes: int = MAX_BYTES) -> None:
        # Whatever it takes, an entry takes the room of one of max_entries: so one bound is both.
        self._kept: LRUCache[Hashable, Any] = LRUCache(
            max_bytes, getsizeof=lambda encoded: max(_count_bytes(encoded), max_bytes // max_entries)
        )

    def attach(
        self,
        pipeline: Any,
        *,
        changes: Hashable = (),
        changing: Callable[[], AbstractContextManager[object]] = nullcontext,
    ) -> None:
        """Let this pipeline, a job's own, ask here first. Its kind and its weights must be those of all others.

        But for ``changes``, which are equal where weights are changed alike; they are within ``changing``.
        """
        kind = type(pipeline)
        encode_as_kind = getattr(kind, ENCODE, None)
        if encode_as_kind is None:
            return
        signature = inspect.signature(encode_as_kind)
        owner = weakref.ref(pipeline)  # a pipeline that held itself would stay until garbage is collected
        encoding = find_encoding(pipeline)

        def encode_or_recall(*arguments: Any, **options: Any) -> Any:
            own = partial(encode_as_kind, owner())
            bound = signature.bind(None, *arguments, **options)
            bound.apply_defaults()
            encode = partial(own, *arguments, **options)
            if encoding is not None:
                named = {name: value for name, value in bound.arguments.items() if name != "self"}
                encode = partial(encode_prompt, encoding, owner(), own, named)
            key = _build_key(bound.arguments)
            if key is None:
                with changing():
                    return encode()
            key = (kind, key, changes)
            if (kept := self._kept.get(key)) is not None:
                return _copy(kept)
            with changing():
                encoded = encode()
            with suppress(ValueError):  # how the cache says that it is too large
                self._kept[key] = _copy(encoded)  # whoever asked may write into its own
            return encoded

        pipeline.encode_prompt = encode_or_recall


def _build_key(arguments: Any) -> Hashable | None:
    """Equal for calls that give the same; None where an argument can't be compared, such as a given embedding.

    Neither is a LoRA's scale: it is set on the text encoder by the call itself.
    """
    if arguments.get("lora_scale") is not None:
        return None
    try:
        return tuple((name, _freeze(value)) for name, value in arguments.items())
    except TypeError:
        return None


def _freeze(value: Any) -> Hashable:
    if isinstance(value, list | tuple):
        return (type(value), *(_freeze(each) for each in value))
    if isinstance(value, dict):
        return (dict, *((name, _freeze(each)) for name, each in sorted(value.items())))
    if isinstance(value, PLAIN):
        return (type(value), value)
    raise TypeError(type(value))


def _copy(encoded: Any) -> Any:
    if isinstance(encoded, torch.Tensor):
        return encoded.clone()
    if isinstance(encoded, list | tuple):
        return type(encoded)(_copy(each) for each in encoded)
    return encoded


def _count_bytes(encoded: Any) -> int:
    """Of the tensors within tuples and lists."""
    if isinstance(encoded, torch.Tensor):
        return encoded.numel() * encoded.element_size()
    if isinstance(encoded, list | tuple):
        return sum(_count_bytes(each) for each in encoded)
    return 0
