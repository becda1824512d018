"""From a model's source to the files that are to be loaded, all of them here, whole, and known by their sizes."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from easel_contract.server_config import ModelConfig, SafetyPolicy, SourceConfig

from easel_server.engine.model_files.hub import Hub, download_files, download_pipeline, open_snapshot, read_index
from easel_server.engine.model_files.layouts import Layout, find_layout
from easel_server.engine.model_files.local import find_autoencoder, find_model, list_sizes, refuse_pickle
from easel_server.engine.model_files.selection import ModelFileError, Selection, choose_files, format_gib
from easel_server.engine.model_files.weight_files import (
    TensorFacts,
    check_pickle,
    count_loaded_bytes,
    is_pickle,
    read_header,
)
from easel_server.generation.models import MODEL_INDEX

WIDTHS_BYTES: Final = {"float32": 4, "float16": 2, "bfloat16": 2}
SHOWN_FILES: Final = 12
VAE: Final = "vae"  # components
SAFETY_CHECKER: Final = "safety_checker"
SHARED_WITH_REFINER: Final = ("text_encoder_2", "tokenizer_2", VAE)

ReadPickle = Callable[[Path], Mapping[str, TensorFacts]]
FindRepository = Callable[[Mapping[str, TensorFacts]], str]


@dataclass(frozen=True)
class SingleFile:
    """A file that holds a model, or a part of one."""

    path: Path
    layout: Layout
    autoencoder: Path | None = None  # a file beside it that is to be used as the model's own


@dataclass(frozen=True)
class GatheredModel:
    """Everything that loading reads."""

    directory: Path  # in diffusers' layout; of a single file: its configuration, and the weights that it lacks
    selection: Selection  # of the directory
    single: SingleFile | None = None
    commit: str = ""  # of a repository; empty for a path
    files: str = ""  # which of the commit's: a variant, or a single file with where its configuration is from
    loaded_bytes: Mapping[str, int] | None = None  # of each component, in memory; None where it isn't known before


@dataclass(frozen=True)
class Gathering:
    """What a model may be made of, and by whose help."""

    dtype: str  # number format that the weights become: "float16"
    allow_pickles: bool
    config_repository: str | None
    hub: Hub
    read_pickle: ReadPickle  # names and shapes in a pickle, read by torch
    find_repository: FindRepository  # where the configuration of a single file's family is
    skipped: frozenset[str] = frozenset()  # components that the pipeline gets from another, or that aren't used
    wants_checker: bool = False  # a safety checker is asked for, not only welcome


def build_gathering(
    config: ModelConfig, dtype: str, hub: Hub, *, read_pickle: ReadPickle, find_repository: FindRepository
) -> Gathering:
    """How the model's files are looked for, to become of this number format."""
    return Gathering(
        dtype=dtype,
        allow_pickles=config.allow_pickles,
        config_repository=config.config_repository,
        hub=hub,
        read_pickle=read_pickle,
        find_repository=find_repository,
        # A gigabyte that would be thrown away.
        skipped=frozenset({SAFETY_CHECKER} if config.safety is SafetyPolicy.OFF or config.safety_checker else ())
        | ({VAE} if config.vae is not None else set()),
        wants_checker=config.safety not in {None, SafetyPolicy.OFF} and config.safety_checker is None,
    )


def gather_refiner(source: SourceConfig, how: Gathering) -> GatheredModel:
    """The files of a model that shares parts with the base model; its configuration is another than the base model's,
    which the service may have named. Blocks. Raises ModelFileError."""
    return gather_model(source, replace(how, config_repository=None, skipped=frozenset(SHARED_WITH_REFINER)))


def gather_checker(source: SourceConfig, hub: Hub) -> Path:
    """The directory of a safety checker. Blocks. Raises ModelFileError."""
    if source.source.startswith("/"):
        return Path(source.source)
    snapshot = open_snapshot(source, hub)
    weights = [name for name in snapshot.sizes if name.endswith(".safetensors") and "/" not in name]
    if not weights:
        raise ModelFileError(f"{source.source} holds no weights in safetensors")
    described = [name for name in snapshot.sizes if name.endswith(".json") and "/" not in name]
    download_files(source, snapshot, hub, [*weights, *described])
    return snapshot.directory


def gather_model(source: SourceConfig, how: Gathering) -> GatheredModel:
    """Find or download a model's files and check them. Blocks. Raises ModelFileError."""
    path = Path(source.source)
    if path.is_absolute():
        found = find_model(path, allow_pickles=how.allow_pickles)
        if found.file is not None:
            return _gather_single(source, found.file, found.directory, how)
        directory = found.directory or path
        selection = choose_files(
            read_index(directory),
            list_sizes(directory),
            variant=source.variant,
            dtype=how.dtype,
            allow_pickles=how.allow_pickles,
            skipped=how.skipped,
        )
        return GatheredModel(directory, selection, loaded_bytes=_check_weights(directory, selection, how))
    snapshot = open_snapshot(source, how.hub)
    if source.file is None:
        selection = download_pipeline(
            source, snapshot, how.hub, dtype=how.dtype, allow_pickles=how.allow_pickles, skipped=how.skipped
        )
        loaded = _check_weights(snapshot.directory, selection, how)
        return GatheredModel(
            snapshot.directory, selection, commit=snapshot.commit, files=selection.variant or "", loaded_bytes=loaded
        )
    refuse_pickle(Path(source.file), allow_pickles=how.allow_pickles)
    if source.file not in snapshot.sizes:
        raise ModelFileError(_explain_missing_file(source, snapshot.sizes))
    download_files(source, snapshot, how.hub, [source.file])
    has_index = MODEL_INDEX in snapshot.sizes and how.config_repository is None
    configuration = SourceConfig(source=source.source, revision=snapshot.commit) if has_index else None
    return _gather_single(source, snapshot.directory / source.file, None, how, configuration, commit=snapshot.commit)


def _gather_single(
    source: SourceConfig,
    file: Path,
    beside: Path | None,
    how: Gathering,
    configuration: SourceConfig | None = None,
    *,
    commit: str = "",
) -> GatheredModel:
    """A single file with its configuration: what lies beside it, else ``configuration``, else its family's."""
    tensors = read_tensors(file, how)
    try:
        layout = find_layout(tensors)
    except ModelFileError as error:
        raise ModelFileError(f"{file} ({format_gib(file.stat().st_size)}) {error}") from error
    autoencoder = find_autoencoder(file) if not commit and "vae" not in how.skipped else None
    if autoencoder is not None:
        refuse_pickle(autoencoder, allow_pickles=how.allow_pickles)
        read_tensors(autoencoder, how)
    single = SingleFile(file, layout, autoencoder)
    parts = layout.parts | ({"vae"} if autoencoder is not None else set())
    # No single file comes with a safety checker: only who asks for one gets that of its configuration.
    checker = set() if how.wants_checker else {"safety_checker"}
    skipped = frozenset({*parts, *how.skipped, *checker, "image_encoder"})
    if beside is not None and how.config_repository is None:
        selection = _choose_beside(file, beside, how, skipped)
        directory, origin = beside, ""
    else:
        named = {layout.names[key]: facts for key, facts in tensors.items() if key in layout.names}
        configuration = configuration or SourceConfig(source=how.config_repository or how.find_repository(named))
        directory, selection = _fetch_configuration(file, configuration, how, skipped)
        origin = f"{configuration.source}@{directory.name}"
    loaded = {
        file.name: count_loaded_bytes({key: tensors[key] for key in layout.names}, WIDTHS_BYTES[how.dtype]),
        **_check_weights(directory, selection, how),
    }
    files = " ".join(filter(None, (source.file, origin if commit else "")))
    return GatheredModel(directory, selection, single, commit, files, loaded)


def _choose_beside(file: Path, beside: Path, how: Gathering, skipped: frozenset[str]) -> Selection:
    try:
        return choose_files(
            read_index(beside),
            list_sizes(beside),
            variant=None,
            dtype=how.dtype,
            allow_pickles=how.allow_pickles,
            skipped=skipped,
        )
    except ModelFileError as error:
        raise ModelFileError(f"{file.name} doesn't hold all of a model, and of {beside} {error}") from error


def _fetch_configuration(
    file: Path, configuration: SourceConfig, how: Gathering, skipped: frozenset[str]
) -> tuple[Path, Selection]:
    try:
        snapshot = open_snapshot(configuration, how.hub)
        selection = download_pipeline(
            configuration, snapshot, how.hub, dtype=how.dtype, allow_pickles=how.allow_pickles, skipped=skipped
        )
    except ModelFileError as error:
        raise ModelFileError(
            f"{file.name} holds no configuration and no tokenizers; those, and components that it lacks, were looked "
            f"for in {configuration.source}: {error}. Without network, put {MODEL_INDEX} and the folders of a pipeline "
            "of the same family (their .json and .txt files) beside the file, or name a repository that can be reached "
            "in model.configRepository"
        ) from error
    return snapshot.directory, selection


def read_tensors(file: Path, how: Gathering) -> Mapping[str, TensorFacts]:
    """What a file of weights holds. Raises ModelFileError for one that is broken."""
    if is_pickle(file):
        check_pickle(file)
        return how.read_pickle(file)
    return read_header(file)


def _check_weights(directory: Path, selection: Selection, how: Gathering) -> dict[str, int]:
    """Bytes in memory of each component. Raises ModelFileError for a file that is broken."""
    loaded: dict[str, int] = {}
    for name, files in selection.weights.items():
        for file in files:
            path = directory / file
            if is_pickle(path):
                check_pickle(path)
                count = path.stat().st_size
            else:
                count = count_loaded_bytes(read_header(path), WIDTHS_BYTES[how.dtype])
            loaded[name] = loaded.get(name, 0) + count
    return loaded


def _explain_missing_file(source: SourceConfig, sizes: Mapping[str, int]) -> str:
    single = [file for file in sorted(sizes) if file.endswith((".safetensors", ".ckpt")) and "/" not in file]
    shown = ", ".join(f"{file} ({format_gib(sizes[file])})" for file in single[:SHOWN_FILES]) or "none at its root"
    return (
        f"{source.source} on the Hugging Face Hub has no file {source.file!r}; its single files: {shown}; correct "
        "model.source.huggingFace.file"
    )
