"""Which files of a pipeline in diffusers' layout are to be loaded: pure, the same for a repository and a directory.

A weight file is called ``STEM[.VARIANT][-00001-of-00009].safetensors`` (or ``.bin``), in older repositories with the
variant behind the number; a ``STEM.safetensors.index[.VARIANT].json`` lists the parts of one that is split.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from easel_server.generation.models import MODEL_INDEX

HALF_VARIANTS: Final = {"float16": ("fp16",), "bfloat16": ("bf16", "fp16")}  # by number format, the best one first
CONFIGURATION_SUFFIXES: Final = (".json", ".txt", ".model", ".jinja")  # vocabularies included, code never
WEIGHTLESS: Final = re.compile(r"(Tokenizer|Scheduler|Processor|FeatureExtractor)(Fast|Pil)?$")
LIBRARIES: Final = frozenset({"diffusers", "transformers"})  # whose classes are loaded; other names mean own code
PIPELINE_MODULES: Final = re.compile(r"^[a-z0-9_]+$")
GIB: Final = 2**30

_WEIGHTS: Final = re.compile(
    r"(?P<stem>model|diffusion_pytorch_model|pytorch_model)(\.(?P<variant>[A-Za-z0-9_-]+?))?"
    r"(-\d{5}-of-(?P<parts>\d{5}))?(\.(?P<late_variant>[A-Za-z0-9_-]+))?\.(?P<format>safetensors|bin)"
)
_INDEX: Final = re.compile(r".+\.(safetensors|bin)\.index(\.[A-Za-z0-9_-]+)?\.json")


class ModelFileError(Exception):
    """Files that can't be loaded as a model; the message says which, why, and what to do, but not of which model."""


@dataclass(frozen=True)
class Selection:
    """What to load of a pipeline."""

    files: tuple[str, ...]  # relative paths, sorted
    weights: Mapping[str, tuple[str, ...]]  # of each component that has them
    sizes: Mapping[str, int]  # bytes of each file
    variant: str | None = None  # that at least one component has

    @property
    def weight_bytes(self) -> dict[str, int]:
        """Of each component."""
        return {name: sum(self.sizes[file] for file in files) for name, files in self.weights.items()}


@dataclass(frozen=True)
class _Choice:
    """One way to load a component."""

    variant: str | None
    format: str
    files: tuple[str, ...]
    is_whole: bool


def list_components(index: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    """Library and class of each component that a pipeline's index names. Raises ModelFileError for own code."""
    pipeline = index.get("_class_name")
    if not isinstance(pipeline, str):
        raise ModelFileError(
            f"{MODEL_INDEX} asks for code of the repository's own ({pipeline!r}), and that is never executed; use a "
            "pipeline whose class is one of diffusers'"
        )
    components = {}
    for name, value in index.items():
        if name.startswith("_") or not isinstance(value, list) or len(value) != 2 or not value[0]:
            continue
        components[name] = (str(value[0]), str(value[1]))
    return components


def choose_files(
    index: Mapping[str, Any],
    sizes: Mapping[str, int],
    *,
    variant: str | None,
    dtype: str,
    allow_pickles: bool,
    skipped: frozenset[str] = frozenset(),
) -> Selection:
    """The fewest bytes that make the pipeline of an index.

    Args:
        index: content of model_index.json.
        sizes: bytes of all files that there are, by their path in the repository or directory.
        variant: which weights to load; None for the narrow ones where ``dtype`` is narrow and there are some.
        dtype: number format that the weights become: "float16".
        allow_pickles: whether ``.bin`` is loaded where there is no safetensors.
        skipped: components whose weights come from elsewhere: of them the configuration alone.

    Raises ModelFileError where a component can't be loaded so.
    """
    components = list_components(index)
    wanted = (variant,) if variant else HALF_VARIANTS.get(dtype, ())
    files = {MODEL_INDEX} & sizes.keys()
    weights: dict[str, tuple[str, ...]] = {}
    variants: list[str | None] = []
    for name, (library, class_name) in sorted(components.items()):
        _refuse_own_code(name, library, class_name, sizes)
        held = [file.removeprefix(f"{name}/") for file in sizes if file.startswith(f"{name}/")]
        files |= {f"{name}/{file}" for file in held if _is_configuration(file)}
        if name in skipped or WEIGHTLESS.search(class_name):
            continue
        choice = _choose_weights(name, list(_list_choices(held)), wanted, allow_pickles=allow_pickles)
        weights[name] = tuple(f"{name}/{file}" for file in choice.files)
        variants.append(choice.variant)
        files |= {*weights[name], *(f"{name}/{file}" for file in held if _is_index_of(file, choice))}
    if variant and variant not in variants:
        raise ModelFileError(_explain_missing_variant(variant, sizes))
    found = next((each for each in wanted if each in variants), None)
    return Selection(tuple(sorted(files)), weights, {file: sizes[file] for file in sorted(files)}, found)


def choose_component(
    name: str, held: list[str], *, variant: str | None, dtype: str, allow_pickles: bool
) -> tuple[str | None, tuple[str, ...], tuple[str, ...]]:
    """Of the files in a component's folder: the variant, the files of weights, and the index of those that are split.

    Arguments otherwise as of ``choose_files``. Raises ModelFileError.
    """
    wanted = (variant,) if variant else HALF_VARIANTS.get(dtype, ())
    choice = _choose_weights(name, list(_list_choices(held)), wanted, allow_pickles=allow_pickles)
    if variant and choice.variant != variant:
        raise ModelFileError(_explain_missing_variant(variant, dict.fromkeys(held, 0)))
    return choice.variant, choice.files, tuple(file for file in held if _is_index_of(file, choice))


def _refuse_own_code(name: str, library: str, class_name: str, sizes: Mapping[str, int]) -> None:
    if library not in LIBRARIES and (f"{name}/{library}.py" in sizes or not PIPELINE_MODULES.match(library)):
        raise ModelFileError(
            f"component {name} asks for code of the repository's own ({library}.{class_name}), and that is never "
            "executed; use a pipeline whose classes are those of diffusers and transformers"
        )


def _is_configuration(file: str) -> bool:
    return file.endswith(CONFIGURATION_SUFFIXES) and not _INDEX.fullmatch(file) and "/" not in file


def _is_index_of(file: str, choice: _Choice) -> bool:
    match = _INDEX.fullmatch(file)
    if match is None or len(choice.files) < 2:
        return False
    return match[1] == choice.format and (match[2] or ".").removeprefix(".") == (choice.variant or "")


def _list_choices(files: list[str]) -> Iterator[_Choice]:
    groups: dict[tuple[str | None, str, str | None], list[str]] = {}
    for file in files:
        match = _WEIGHTS.fullmatch(file)
        if match is not None:
            key = (match["variant"] or match["late_variant"], match["format"], match["parts"])
            groups.setdefault(key, []).append(file)
    for (variant, form, parts), found in groups.items():
        yield _Choice(variant, form, tuple(sorted(found)), parts is None or int(parts) == len(found))


def _choose_weights(name: str, choices: list[_Choice], wanted: tuple[str, ...], *, allow_pickles: bool) -> _Choice:
    formats = ("safetensors", "bin") if allow_pickles else ("safetensors",)
    partial = None
    for form in formats:
        for variant in (*wanted, None):
            found = [each for each in choices if (each.variant, each.format) == (variant, form)]
            if whole := [each for each in found if each.is_whole]:
                return min(whole, key=lambda each: len(each.files))
            partial = partial or next(iter(found), None)
    if partial is not None:
        raise ModelFileError(
            f"component {name} has only {len(partial.files)} of the parts of its weights "
            f"({', '.join(partial.files[:4])}): a download wasn't finished; download the model again"
        )
    raise ModelFileError(_explain_missing_weights(name, choices))


def _explain_missing_weights(name: str, choices: list[_Choice]) -> str:
    if any(each.format == "bin" and each.variant is None for each in choices):
        return (
            f"component {name} has pickles alone ({name}/{choices[0].files[0]}), which can hold code and are not "
            "loaded; take a repository with .safetensors, convert them (diffusers' `save_pretrained`), or set "
            "model.allowPickles where you trust their author"
        )
    if others := sorted({each.variant for each in choices if each.variant}):
        return (
            f"component {name} has weights of the variant {', '.join(others)} only; set variant to one of them in "
            "model.source.huggingFace, or download the files without a variant"
        )
    return (
        f"component {name} has no weights (no {name}/model.safetensors or {name}/diffusion_pytorch_model.safetensors); "
        "download the model again, or name a repository or directory that has all components"
    )


def _explain_missing_variant(variant: str, sizes: Mapping[str, int]) -> str:
    matches = [_WEIGHTS.fullmatch(file.rsplit("/", 1)[-1]) for file in sizes]
    found = sorted({match["variant"] or match["late_variant"] or "" for match in matches if match} - {""})
    return (
        f"there are no weights of the variant {variant!r} (there are: {', '.join(['those without variant', *found])}); "
        "correct model.source.huggingFace.variant, or leave it unset"
    )


def format_gib(count: float) -> str:
    """A number of bytes for a sentence: "6.5 GiB", "4.2 MiB"."""
    if count >= GIB / 10:
        return f"{count / GIB:.1f} GiB"
    return f"{count / 2**20:.1f} MiB" if count >= 2**20 / 10 else f"{count:.0f} bytes"


def describe_sizes(sizes: Mapping[str, int]) -> str:
    """Components with their bytes, the largest first: "unet 4.8 GiB, vae 0.2 GiB"."""
    ordered = sorted(sizes.items(), key=lambda item: -item[1])
    return ", ".join(f"{name} {format_gib(size)}" for name, size in ordered)
