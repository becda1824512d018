"""Step-level batching: each job runs its pipeline's own call, and the calls meet wherever one needs the denoiser.

A job's call runs in a greenlet of the engine's thread. Where the pipeline calls its denoiser (or a ControlNet), the
greenlet pauses with the arguments in hand. A step takes what all jobs have in hand, joins what can be one call of the
denoiser, each row at its own timestep, and lets every job go on with its part: to its next call, or to its images. So
jobs begin and leave at any step, and what a job is given is what its pipeline does alone, whatever family it is of:
schedulers, guidance, masks, ControlNets and refiners stay diffusers' own.

https://greenlet.readthedocs.io: a greenlet runs until it switches, so nothing here runs at the same time.
"""

import inspect
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from greenlet import getcurrent, greenlet

from easel_server.engine.interface import StopGenerationError
from easel_server.engine.stepping.merging import DenoiserCall, group, merge, split


class SteppedCall:
    """A pipeline's call that pauses at each call of a denoiser."""

    def __init__(self, call: Callable[[], Any]) -> None:
        """``call`` is made with the first ``advance``."""
        self.pending: DenoiserCall | None = None  # what it waits for
        self.result: Any = None
        self.error: Exception | None = None
        self.is_done = False
        self.own_seconds = 0.0  # that it took between the denoiser's calls
        self._greenlet = _Greenlet(call)

    def advance(self, output: Any = None) -> None:
        """Let it go on with the denoiser's output, to its next call of one or to its end. Raises nothing of its own."""
        self._switch(lambda: self._greenlet.switch(output) if self.pending is not None else self._greenlet.switch())

    def throw(self, error: Exception) -> None:
        """Let the call that it waits for raise this; does nothing if it is done."""
        if not self.is_done:
            self._switch(lambda: self._greenlet.throw(error))

    def stop(self) -> None:
        """End it at once: what it holds is free."""
        self.throw(StopGenerationError())

    def _switch(self, switch: Callable[[], Any]) -> None:
        began_at = time.monotonic()
        try:
            reached = switch()
        except Exception as error:
            self.error = error
        else:
            if not self._greenlet.dead:
                self.pending = reached
                return
            self.result = reached
        finally:
            self.own_seconds += time.monotonic() - began_at
        self.pending, self.is_done = None, True


class _Greenlet(greenlet):
    """Known by its class: other libraries use greenlets, too."""


class Stepper:
    """The denoisers that jobs share. Everything in one thread."""

    def __init__(self, modules: Iterable[torch.nn.Module]) -> None:
        """Within a SteppedCall the modules' calls pause from now on; elsewhere they run as before."""
        self._forwards: dict[torch.nn.Module, Callable[..., Any]] = {}
        for module in modules:
            self._attach(module)

    def _attach(self, module: torch.nn.Module) -> None:
        forward = module.forward
        signature = inspect.signature(forward)
        self._forwards[module] = forward

        def pause_or_run(*arguments: Any, **options: Any) -> Any:
            current = getcurrent()
            if not isinstance(current, _Greenlet) or current.parent is None:
                return forward(*arguments, **options)
            bound = signature.bind(*arguments, **options).arguments
            return current.parent.switch(DenoiserCall(module, bound))

        module.forward = pause_or_run

    def step(self, calls: Sequence[SteppedCall]) -> None:
        """Take each call that isn't done one denoiser call further."""
        waiting = [(call, call.pending) for call in calls if call.pending is not None]
        outputs: dict[SteppedCall, Any] = {}
        for numbers in group([pending for _, pending in waiting]):
            self._run([waiting[number] for number in numbers], outputs)
        for call, output in outputs.items():
            call.advance(output)

    def _run(self, waiting: Sequence[tuple[SteppedCall, DenoiserCall]], outputs: dict[SteppedCall, Any]) -> None:
        pending = [each for _, each in waiting]
        try:
            output = self._forwards[pending[0].module](**merge(pending))
        except Exception as error:
            failed = error
        else:
            for (call, _), part in zip(waiting, split(output, [each.rows for each in pending]), strict=True):
                outputs[call] = part
            return
        # Outside the except: what the failed call held is free by now.
        if len(waiting) == 1:
            waiting[0][0].throw(failed)
            return
        for each in waiting:
            self._run([each], outputs)
