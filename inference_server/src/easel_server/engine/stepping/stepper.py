"""Step-level batching: each job runs its pipeline's own call, and the calls meet wherever one needs the denoiser.

A job's call runs in a greenlet of the engine's thread. Where the pipeline calls its denoiser (or a ControlNet), the
greenlet pauses with the arguments in hand. A step takes what all jobs have in hand, joins what can be one call of the
denoiser, each row at its own timestep, and lets every job go on with its part: to its next call, or to its images. So
jobs begin and leave at any step, and what a job is given is what its pipeline does alone, whatever family it is of:
schedulers, guidance, masks, ControlNets and refiners stay diffusers' own.

Jobs with different adapters (LoRAs), and with none, share calls: each layer adds to a row what its job's adapters say.

what the denoiser's call raises      what follows
-------------------------------      ------------
memory ran out                       half of the calls, then half of the rows, down to a row alone; that many rows of
                                     that shape are never joined again
the device is lost                   every job fails with it: nothing will work any more
anything else                        each job's call alone, once: only the guilty one fails

https://greenlet.readthedocs.io: a greenlet runs until it switches, so nothing here runs at the same time.
"""

import inspect
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from dataclasses import replace
from typing import Any, Final

import torch
from greenlet import error as GreenletError  # noqa: N812  # it is a class
from greenlet import getcurrent, greenlet

from easel_server.engine.add_ons.lora_layers import AdapterSet, Plans, RowsLostError, adapted
from easel_server.engine.device_errors import is_device_lost, is_out_of_memory
from easel_server.engine.interface import StopGenerationError
from easel_server.engine.stepping.memory import attempt, free_device_memory, release_frames
from easel_server.engine.stepping.merging import (
    DenoiserCall,
    group,
    join,
    join_images,
    merge,
    split,
    split_images,
    take_rows,
)

DEVICES_WITH_EVENTS: Final = frozenset({"cuda", "xpu"})  # cuda is AMD's, too


class SteppedCall:
    """A pipeline's call that pauses at each call of a denoiser."""

    def __init__(
        self,
        call: Callable[[], Any],
        *,
        images: int = 1,
        is_exact: bool = False,
        additions: Mapping[torch.nn.Module, AdapterSet] | None = None,
    ) -> None:
        """``call`` is made with the first ``advance``, and generates so many images.

        ``additions`` are what its adapters add, by module; they are looked up at each of its denoiser's calls.

        ``is_exact``: each image's rows are the denoiser's only ones, each time. Libraries add up in another order for
        another number of rows, and on several threads at another place among them.
        """
        self.images = images
        self.is_exact = is_exact
        self._additions = additions if additions is not None else {}
        self.pending: DenoiserCall | None = None  # what it waits for
        self.result: Any = None
        self.error: Exception | None = None
        self.is_done = False
        self.own_seconds = 0.0  # that it took between the denoiser's calls
        self._greenlet = _Greenlet(call)

    def advance(self, output: Any = None) -> None:
        """Let it go on with the denoiser's output, to its next call of one, its next ``take_turns`` or its end.

        Raises nothing of its own.
        """
        self._switch(lambda: self._greenlet.switch(output) if self.pending is not None else self._greenlet.switch())

    def throw(self, error: Exception) -> None:
        """Let the call that it waits for raise this; does nothing if it is done."""
        if not self.is_done:
            self._switch(lambda: self._greenlet.throw(error))

    def stop(self) -> None:
        """End it at once: what it holds is free."""
        self.throw(StopGenerationError())

    def __del__(self) -> None:
        """Nobody holds it any more. Collected by itself, the call would undo its settings for the thread outside."""
        if not self.is_done:
            # That of another thread is left to greenlet: of its parent it says ValueError.
            with suppress(GreenletError, ValueError), torch.inference_mode():
                # It may be collected while another job's call runs, which is who goes on when it has ended.
                self._greenlet.parent = getcurrent()
                self._greenlet.throw()

    def _switch(self, switch: Callable[[], Any]) -> None:
        began_at = time.monotonic()
        try:
            # What the call sets for its thread (no gradients) it sets inside, and undoes inside when it ends.
            with torch.inference_mode():
                reached = switch()
        except Exception as error:
            release_frames(error)
            self.error = error
        else:
            if not self._greenlet.dead:
                # None where the call waits for something else than a denoiser.
                additions = None if reached is None else self._additions.get(reached.module)
                self.pending = reached if additions is None else replace(reached, additions=additions)
                return
            self.result = reached
        finally:
            self.own_seconds += time.monotonic() - began_at
        self.pending, self.is_done = None, True


class _Greenlet(greenlet):
    """Known by its class: other libraries use greenlets, too."""


class Stepper:
    """The denoisers that jobs share. Everything in one thread."""

    def __init__(
        self,
        modules: Iterable[torch.nn.Module],
        *,
        run_eagerly: Callable[[], AbstractContextManager[object]] = nullcontext,
        open_layers: Callable[[], AbstractContextManager[Mapping[torch.nn.Module, int]]] = lambda: nullcontext({}),
    ) -> None:
        """Within a SteppedCall the modules' calls pause from now on; elsewhere they run as before.

        ``run_eagerly`` is entered around calls that are exact: within it, modules must give the same bytes each time.
        ``open_layers`` is entered around calls with adapters, and gives the numbers of layers that are open within
        (``open_layers.py``); of other layers, modules must call the ``forward`` that these have then.
        """
        self._run_eagerly = run_eagerly
        self._open_layers = open_layers
        self._plans = Plans()
        self._alike_only: set[torch.nn.Module] = set()  # whose rows can't be told apart within: adapters must be equal
        self._forwards: dict[torch.nn.Module, Callable[..., Any]] = {}
        self._row_limits: dict[object, int] = {}  # by the shape of a row: how many don't run out of memory
        self._sharers: dict[torch.nn.Module, int] = {}
        for module in modules:
            self._attach(module)

    @contextmanager
    def sharing(self, module: torch.nn.Module) -> Iterator[None]:
        """Within, a module's calls pause too; it may be entered again. Behind the last end the module is as before."""
        if module not in self._forwards:
            self._attach(module)
            self._sharers[module] = 0
        if module in self._sharers:
            self._sharers[module] += 1
        try:
            yield
        finally:
            if module in self._sharers:
                self._sharers[module] -= 1
                if not self._sharers[module]:
                    del self._sharers[module], self._forwards[module]
                    del vars(module)["forward"]

    def _attach(self, module: torch.nn.Module) -> None:
        forward = module.forward
        signature = _read_signature(module)
        # Arguments are bound to names, and what has none, such as **options, goes on under its own.
        options_name = next(
            (each.name for each in signature.parameters.values() if each.kind is inspect.Parameter.VAR_KEYWORD), ""
        )
        self._forwards[module] = forward

        def pause_or_run(*arguments: Any, **options: Any) -> Any:
            if not isinstance(getcurrent(), _Greenlet):
                return forward(*arguments, **options)
            bound = dict(signature.bind(*arguments, **options).arguments)
            return _pause(DenoiserCall(module, bound | bound.pop(options_name, {})))

        module.forward = pause_or_run

    def find_row_limit(self, row_shape: object) -> int | None:
        """How many rows of this shape fit into memory at once; None if they never didn't."""
        return self._row_limits.get(row_shape)

    def step(self, calls: Sequence[SteppedCall]) -> None:
        """Take each call that isn't done one denoiser call further."""
        waiting = [(call, call.pending) for call in calls if call.pending is not None]
        turning = [call for call in calls if call.pending is None and not call.is_done]
        shared = [(call, pending) for call, pending in waiting if not call.is_exact]
        together = [[(call, pending)] for call, pending in waiting if call.is_exact]
        groups = group([each for _, each in shared], alike_only=self._alike_only)
        together += [[shared[number] for number in numbers] for numbers in groups]
        outcomes: dict[SteppedCall, Any] = {}
        lost: Exception | None = None
        for some in together:
            if some[0][0].is_exact:
                with self._run_eagerly():
                    outputs = [self._evaluate_by_images(pending, call.images) for call, pending in some]
            else:
                outputs = self.evaluate([pending for _, pending in some])
            outcomes |= dict(zip((call for call, _ in some), outputs, strict=True))
            lost = next((each for each in outputs if isinstance(each, Exception) and is_device_lost(each)), None)
            if lost is not None:
                break
        for call in turning:
            call.advance()
        for call, _ in waiting:
            outcome = lost or outcomes[call]
            if isinstance(outcome, Exception):
                call.throw(outcome)
            else:
                call.advance(outcome)

    def evaluate(self, calls: Sequence[DenoiserCall]) -> list[Any]:
        """For each call of a group its output, or the exception that is its own."""
        rows = sum(call.rows for call in calls)
        limit = self._row_limits.get(calls[0].row_shape, rows)
        if rows <= limit:
            outputs = self._run(calls)
            error = outputs[0]
            if not isinstance(error, Exception) or is_device_lost(error):
                return outputs
            if not is_out_of_memory(error):
                return outputs if len(calls) == 1 else [self.evaluate([call])[0] for call in calls]
            free_device_memory()
            if rows <= 1:
                return outputs
            limit = self._row_limits[calls[0].row_shape] = rows // 2
        if len(calls) > 1:
            half = len(calls) // 2
            return [*self.evaluate(calls[:half]), *self.evaluate(calls[half:])]
        return [self._evaluate_by_rows(calls[0], limit)]

    def _evaluate_by_rows(self, call: DenoiserCall, limit: int) -> Any:
        parts = []
        for start in range(0, call.rows, limit):
            [part] = self.evaluate([take_rows(call, range(start, min(start + limit, call.rows)))])
            if isinstance(part, Exception):
                return part
            parts.append(part)
        return join(parts)

    def _evaluate_by_images(self, call: DenoiserCall, images: int) -> Any:
        parts = []
        for image in split_images(call, images):
            [part] = self._run([image])
            if isinstance(part, Exception) and is_out_of_memory(part):  # of this much alone, or of what torch keeps
                free_device_memory()
                [part] = self._run([image])
            if isinstance(part, Exception):
                return part
            parts.append(part)
        return join_images(parts)

    def _run(self, calls: Sequence[DenoiserCall]) -> list[Any]:
        """All in one call of the denoiser: for each its output, or for each the exception."""

        def call_once() -> list[Any]:
            module = calls[0].module
            with ExitStack() as around:
                around.enter_context(torch.inference_mode())
                if any(call.additions is not None for call in calls):
                    plan = self._plans.find(module, [(call.rows, call.additions) for call in calls])
                    around.enter_context(adapted(plan, around.enter_context(self._open_layers())))
                return split(self._forwards[module](**merge(calls)), [call.rows for call in calls])

        outputs, error = attempt(call_once)
        if isinstance(error, RowsLostError):  # each is repeated alone, this once
            self._alike_only.add(calls[0].module)
        return [error] * len(calls) if outputs is None else outputs


def take_turns() -> None:
    """Within a SteppedCall: let others have a step, then go on. For work of its own that would hold them up."""
    if isinstance(getcurrent(), _Greenlet):
        parent: Any = getcurrent().parent
        parent.switch(None)


def _pause(call: DenoiserCall) -> Any:
    """What the denoiser gives for it. No frame of a paused greenlet may refer to that: it would never be collected."""
    parent: Any = getcurrent().parent
    return parent.switch(call)


def _read_signature(module: torch.nn.Module) -> inspect.Signature:
    """With a name for each argument: that of its class, where something is put around it that takes any."""
    signature = inspect.signature(module.forward)
    if all(each.kind is not inspect.Parameter.VAR_POSITIONAL for each in signature.parameters.values()):
        return signature
    return inspect.signature(type(module).forward.__get__(module))


class Pace:
    """Keeps the host one step ahead of its device, not more.

    A device works off what it is given later. Without waiting, all steps of a job would be given to it within moments:
    nobody could join or leave before their end, and no step's time would say anything. A step ahead is enough for the
    device never to wait for the host.
    """

    def __init__(self, device: torch.device, make_event: Callable[[torch.device], Any] = torch.Event) -> None:
        """``make_event`` makes what can be recorded behind all work that was given to a device, and waited for."""
        self._device = device
        self._make_event = make_event
        self._last: Any = None

    def keep(self) -> None:
        """To be called after each step: returns when the device has done the one before it.

        Raises what the device failed with meanwhile.
        """
        if self._device.type not in DEVICES_WITH_EVENTS:
            return
        event = self._make_event(self._device)
        event.record()
        last, self._last = self._last, event
        if last is not None:
            last.synchronize()
