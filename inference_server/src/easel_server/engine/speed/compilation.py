"""Compiling the denoiser's repeated blocks beside the work, which goes on uncompiled until all of them are done.

state        how blocks run                    what comes next
-----        --------------                    ---------------
watching     eagerly; one call of each kind    ``start``
             of block is kept as an example
compiling    eagerly; a thread runs the        all are done: compiled; one fails: eager
             compiled blocks on the examples
compiled     compiled; eagerly where a shape   the end of the process
             comes that would be compiled anew
eager        eagerly                           the end of the process

A kind is a class of blocks with parameters of the same shapes; torch compiles each once, for any number of rows above
one and any size of image (``dynamic``), and once more for one row, since torch takes 1 for a constant. What it compiles
is kept where TORCHINDUCTOR_CACHE_DIR says, so that a later start of the same model reads it instead.

Rounding differs between compiled and eager blocks: what must not differ runs ``eagerly``.

Calls with adapters run other compiled blocks, with a place behind each layer where any adapter may add to its result
(``open_layers.py``): twice as much is compiled, before the first job, and nothing at a switch. Plain calls never run
them. Until all are compiled, and for a denoiser whose blocks can't be opened, adapters run eagerly.
"""

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from functools import partial
from typing import Any, Final, NamedTuple

import torch
from torch._dynamo import config as trace_config
from torch.fx.experimental import _config as shape_config

from easel_server.engine.speed.open_layers import open_block

logger = logging.getLogger(__name__)

ROWS: Final = (1, 2)  # of the examples: torch specializes on 0 and 1, and 2 stands for all others
MAX_ROUNDS: Final = 4  # of compiling, where jobs with adapters come in between
MAX_VARIANTS: Final = 64  # of one function: kinds of a base model's and its refiner's blocks, for each of ROWS
NO_RECOMPILE: Final = "eager_on_recompile"


class CompileState(StrEnum):
    """How far it is."""

    WATCHING = "watching"
    COMPILING = "compiling"
    COMPILED = "compiled"
    EAGER = "eager"


class _Example(NamedTuple):
    """A call of a kind of block."""

    compiled: Callable[..., Any]
    opened: Any
    arguments: tuple[Any, ...]
    options: dict[str, Any]


class BlockCompilation:
    """The repeated blocks of one denoiser. ``start`` once, anything else in the engine's thread."""

    def __init__(self, denoiser: Any, *, backend: str | Callable[..., Any] = "inductor") -> None:
        """The blocks' calls come here from now on. Does nothing for a denoiser that names no repeated blocks."""
        self.state = CompileState.WATCHING
        self._backend = backend
        self._is_eager_wanted = False
        self._is_open_wanted = False
        self._call_open = torch.compile(_call_open, dynamic=True, backend=backend)
        self._is_openable = True
        self._open_layers: dict[torch.nn.Module, int] = {}  # their numbers
        self._was_disturbed = False  # while compiling: what has been compiled may have a job's adapters in it
        self._examples: dict[object, _Example] = {}
        names = getattr(denoiser, "_repeated_blocks", None) or ()
        self._blocks = [block for block in denoiser.modules() if type(block).__name__ in names]
        for block in self._blocks:
            self._attach(block)
        if not self._is_openable:
            self._open_layers = {}

    @contextmanager
    def eagerly(self) -> Iterator[None]:
        """Within, blocks run uncompiled. Layers may have another ``forward``, which no compiled block is to keep."""
        before, self._is_eager_wanted = self._is_eager_wanted, True
        self._was_disturbed = True
        try:
            yield
        finally:
            self._is_eager_wanted = before

    @contextmanager
    def opened(self) -> Iterator[dict[torch.nn.Module, int]]:
        """Within, blocks are open, and these are their layers' numbers; where there are none, all runs eagerly."""
        if self.state is not CompileState.COMPILED or self._is_eager_wanted or not self._open_layers:
            with self.eagerly():
                yield {}
            return
        self._is_open_wanted = True
        try:
            yield self._open_layers
        finally:
            self._is_open_wanted = False

    def start(self) -> threading.Thread | None:
        """Compile what has been called until now, in a thread of its own; None where there is nothing."""
        if not self._examples or self.state is not CompileState.WATCHING:
            self.state = CompileState.EAGER
            return None
        self.state = CompileState.COMPILING
        # A daemon: a process that ends doesn't wait for a compiler.
        thread = threading.Thread(target=self._compile, name="compile-blocks", daemon=True)
        thread.start()
        return thread

    def _attach(self, block: Any) -> None:
        eager = block.forward
        compiled: Callable[..., Any] = torch.compile(eager, dynamic=True, backend=self._backend)
        opened = self._open(block)
        kind = (type(block), tuple(tuple(each.shape) for each in block.parameters()))

        def run(*arguments: Any, **options: Any) -> Any:
            if self.state is CompileState.COMPILED and not self._is_eager_wanted:
                if self._is_open_wanted:
                    return self._call_open(opened, *_lay_out(arguments), **_lay_out(options))
                return compiled(*_lay_out(arguments), **_lay_out(options))
            if self.state is CompileState.WATCHING and kind not in self._examples:
                self._examples[kind] = _Example(compiled, opened, _lay_out(arguments), _lay_out(options))
            return eager(*arguments, **options)

        block.forward = run

    def _open(self, block: torch.nn.Module) -> Any:
        try:
            opened, numbers = open_block(block)
        except Exception as error:  # whatever a part that can't be copied raises
            logger.warning("%s runs uncompiled with adapters: %s", type(block).__name__, _first_line(error))
            self._is_openable = False
            return None
        self._open_layers |= numbers
        return opened

    def _compile(self) -> None:
        try:
            # Inference as in the engine's thread, since it is a thread's own. Else torch takes sizes that are equal in
            # the examples (tokens and channels, say) for equal ever after.
            duck_shapes = shape_config.patch(use_duck_shape=False)  # type: ignore[attr-defined]
            variants = trace_config.patch(recompile_limit=MAX_VARIANTS)
            with torch.inference_mode(), duck_shapes, variants:
                for _ in range(MAX_ROUNDS):
                    self._was_disturbed = False
                    self._run_examples()  # what is compiled already, and rightly, isn't compiled again
                    if not self._was_disturbed:
                        break
                self._run_open_examples()
        except Exception as error:  # whatever a compiler, or its absence, raises
            logger.warning("the denoiser runs uncompiled: %s: %s", type(error).__name__, _first_line(error))
            self.state = CompileState.EAGER
        else:
            # What still isn't covered must not hold up the jobs of a worker for a compilation.
            torch.compiler.set_stance(NO_RECOMPILE)
            self.state = CompileState.COMPILED
            logger.info("the denoiser's blocks are compiled", extra={"blocks": len(self._blocks)})
        self._examples.clear()

    def _run_examples(self) -> None:
        for example in self._examples.values():
            for arguments, options in _resize_example(example):
                example.compiled(*arguments, **options)

    def _run_open_examples(self) -> None:
        """Blocks that fail here run with adapters as they did before, and without as if nothing had failed."""
        examples = self._examples.values() if self._open_layers else ()
        try:
            for example in examples:
                for arguments, options in _resize_example(example):
                    self._call_open(example.opened, *arguments, **options)
        except Exception as error:  # whatever a compiler raises
            logger.warning("with adapters blocks run uncompiled: %s: %s", type(error).__name__, _first_line(error))
            self._open_layers = {}


def _call_open(opened: Any, *arguments: Any, **options: Any) -> Any:
    """What is compiled of open blocks: torch keeps that by function, so plain calls look through none of it.

    The block is an argument, so that blocks of a kind share what is compiled.
    """
    return opened(*arguments, **options)


def _resize_example(example: _Example) -> Iterator[tuple[tuple[Any, ...], dict[str, Any]]]:
    own_rows = _find_rows(example.arguments, example.options)
    for rows in ROWS:
        arguments, options = (_lay_out(_resize(each, own_rows, rows)) for each in (example.arguments, example.options))
        yield arguments, options


def _lay_out(value: Any) -> Any:
    """The same in the plain order in memory: compiled code is made for one, and UNets hand on transposed images too.

    It is a copy where the order is another; blocks write into none of what they are given.
    """
    if isinstance(value, torch.Tensor):
        return value.flatten().view(value.shape)
    return _map(_lay_out, value)


def _map(change: Callable[[Any], Any], value: Any) -> Any:
    """Changes what is within dicts, tuples and lists."""
    if isinstance(value, dict):
        return {name: change(each) for name, each in value.items()}
    if isinstance(value, tuple | list):
        return type(value)(change(each) for each in value)
    return value


def _find_rows(arguments: tuple[Any, ...], options: dict[str, Any]) -> int:
    first: torch.Tensor = next(each for each in (*arguments, *options.values()) if isinstance(each, torch.Tensor))
    return first.shape[0]


def _resize(value: Any, own_rows: int, rows: int) -> Any:
    """The same with another number of rows, where it has rows."""
    if isinstance(value, torch.Tensor):
        if value.ndim == 0 or value.shape[0] != own_rows:
            return value
        return torch.cat([value[:1]] * rows)
    return _map(partial(_resize, own_rows=own_rows, rows=rows), value)


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else "no detail"
