"""Adapters (LoRAs) of an engine: loaded for the jobs that ask for them, applied to their denoiser and prompts."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple

import torch
from easel_contract.add_ons import AddOnConfig

from easel_server.engine.add_ons.files import LocalAddOn
from easel_server.engine.add_ons.lora_formats import AdapterFileError, LoraWeights, read_lora, takes_adapters
from easel_server.engine.add_ons.lora_layers import Adapter, AdapterSet, adapted, combine, plan_rows
from easel_server.engine.add_ons.residency import AddOnKey, Residency
from easel_server.engine.interface import GenerationError
from easel_server.generation.add_ons import AdapterUse

DENOISERS: Final = ("unet", "transformer")
TEXT_ENCODERS: Final = ("text_encoder", "text_encoder_2", "text_encoder_3")


class AdapterFacts(NamedTuple):
    """What an image says of the content of one that it was made with."""

    digest: str  # of the file, "sha256:…"
    tensors_hash: str


class JobAdapters:
    """Those of one job: held while it is under way."""

    def __init__(
        self,
        adapters: Sequence[Adapter],
        parts: Mapping[str, Mapping[str, torch.nn.Module]],
        facts: Mapping[str, AdapterFacts],
    ) -> None:
        """``parts`` are the pipeline's, each with its layers by name: itself by the empty one. ``facts``: by name."""
        self.adapters = tuple(adapters)
        self.facts = facts
        sets = {
            part: additions
            for part, layers in parts.items()
            if (additions := combine(adapters, part, layers)) is not None
        }
        self._encoders = {part: additions for part, additions in sets.items() if part in TEXT_ENCODERS}
        self.denoisers: Mapping[torch.nn.Module, AdapterSet] = {
            parts[part][""]: additions for part, additions in sets.items() if part in DENOISERS
        }

    @property
    def prompt_key(self) -> tuple[object, ...]:
        """Equal where prompts are encoded alike; empty where that is as without adapters."""
        return tuple((part, additions.key) for part, additions in self._encoders.items())

    @contextmanager
    def encoding(self) -> Iterator[None]:
        """Within, the text encoders have what the job's adapters add to them."""
        with ExitStack() as stack:
            for additions in self._encoders.values():
                plan = plan_rows([(1, additions)])  # all rows are of this job, however many they are
                stack.enter_context(adapted(plan))
            yield


class Adapters:
    """The adapters of one engine. ``prefetch`` in any thread, the rest in the engine's."""

    def __init__(self, pipeline: Any, residency: Residency, locate: Callable[[AddOnConfig], LocalAddOn]) -> None:
        """For jobs of this pipeline. ``locate`` says where a gathered adapter is, and what."""
        self._pipeline = pipeline
        self._residency = residency
        self._locate = locate
        self._parts = {
            part: dict(module.named_modules())  # to look each layer up took most of a switch
            for part in (*DENOISERS, *TEXT_ENCODERS)
            if isinstance(module := getattr(pipeline, part, None), torch.nn.Module)
        }

    @property
    def is_possible(self) -> bool:
        """Whether this model takes any."""
        return takes_adapters(self._pipeline)

    def prefetch(self, uses: Sequence[AdapterUse], add_ons: Sequence[AddOnConfig]) -> None:
        """Read a job's into the host's memory. Raises GenerationError, OSError."""
        for use, config in self._pair(uses, add_ons):
            found = self._locate(config)
            self._residency.prefetch(_build_key(use, found), partial(self._load, use, found.path))

    def take(self, uses: Sequence[AdapterUse], add_ons: Sequence[AddOnConfig], holds: ExitStack) -> JobAdapters:
        """Load a job's, held by ``holds``.

        Raises AddOnsBusyError where other jobs leave no room now, GenerationError for what can't be used.
        """
        adapters, facts = [], {}
        for use, config in self._pair(uses, add_ons):
            found = self._locate(config)
            held = self._residency.hold(_build_key(use, found), partial(self._load, use, found.path))
            weights = holds.enter_context(held)
            adapters.append(Adapter(use.name, use.weight, weights))
            facts[use.name] = AdapterFacts(found.digest, weights.tensors_hash)
        return JobAdapters(adapters, self._parts, facts)

    def _pair(self, uses: Sequence[AdapterUse], add_ons: Sequence[AddOnConfig]) -> list[tuple[AdapterUse, AddOnConfig]]:
        if uses and not self.is_possible:
            raise GenerationError(f"{type(self._pipeline).__name__} takes no adapters; leave {uses[0].name} out")
        by_key = {each.key: each for each in add_ons}
        missing = next((use.name for use in uses if use.key not in by_key), None)
        if missing is not None:
            raise GenerationError(f"where adapter {missing} is didn't come with the job; ask again")
        return [(use, by_key[use.key]) for use in uses]

    def _load(self, use: AdapterUse, file: Path) -> LoraWeights:
        if file.is_dir():
            raise GenerationError(f"adapter {use.name} is a directory; name its file")
        try:
            return read_lora(file, self._pipeline)
        except AdapterFileError as error:
            raise GenerationError(f"adapter {use.name} ({file.name}) can't be used with this model: {error}") from error
        except FileNotFoundError as error:
            raise GenerationError(
                f"adapter {use.name} isn't where it is said to be: there is no {file.name}"
            ) from error


def _build_key(use: AdapterUse, found: LocalAddOn) -> AddOnKey:
    return AddOnKey("adapter", use.name, found.digest)
