"""An autoencoder (VAE) that a service names in place of its model's own: found, and checked against the model.

A folder of diffusers' layout (of a whole pipeline its ``vae``), or a single file with either family of tensor names.

what it has                          what is asked of it
-----------                          -------------------
a configuration, in or beside it     the class, the channels of latents, their size and their scaling are as the model's
                                     own configuration says
none: a single file                  its tensors' shapes fit the model's own configuration, which it is loaded with;
                                     whether its latents are scaled alike can't be told: of Stable Diffusion 1.x and XL
                                     the shapes are the same, and the scaling isn't

An AutoencoderTiny takes latents as the denoiser has them, whatever the model's own are scaled by.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from easel_contract.server_config import SourceConfig

from easel_server.engine.model_files.gathering import VAE, WIDTHS_BYTES, Gathering, read_tensors
from easel_server.engine.model_files.hub import Wording, download_files, open_snapshot
from easel_server.engine.model_files.layouts import FileKind, find_kind
from easel_server.engine.model_files.local import list_sizes, refuse_pickle
from easel_server.engine.model_files.selection import ModelFileError, choose_component, format_gib
from easel_server.engine.model_files.weight_files import (
    WEIGHT_SUFFIXES,
    TensorFacts,
    count_loaded_bytes,
    explain_unreadable,
)
from easel_server.generation.models import MODEL_INDEX

CONFIG: Final = "config.json"
TINY: Final = "AutoencoderTiny"
SHOWN_FILES: Final = 8
WORDING: Final = Wording(
    source="model.vae.source",
    revision="model.vae.source.huggingFace.revision",
    token="model.vae.source.huggingFace.tokenSecretName",  # noqa: S106  # a field's name
)
FIRST_WEIGHTS: Final = "decoder.conv_in.weight"  # of both families of names: [channels, channels of latents, 3, 3]
PREFIXES: Final = ("first_stage_model.", "vae.")
# As diffusers called an attention's parts before it had one class for all.
OLD_ATTENTION: Final = (
    (".query.", ".to_q."),
    (".key.", ".to_k."),
    (".value.", ".to_v."),
    (".proj_attn.", ".to_out.0."),
)
# What must be as the model's own has it, with what diffusers takes where a configuration doesn't say.
SCALING: Final[Mapping[str, float]] = {"scaling_factor": 0.18215, "shift_factor": 0.0}
SCALING_TOLERANCE: Final = 1e-4
ADVICE: Final = "name an autoencoder of the model's own family in model.vae"


@dataclass(frozen=True)
class GatheredVae:
    """Its files, on this machine."""

    folder: Path
    files: tuple[str, ...]  # of weights, in the folder
    config: Mapping[str, Any]  # its own; empty for a single file without any
    is_single: bool
    variant: str | None
    tensors: Mapping[str, TensorFacts]
    loaded_bytes: int


def gather_vae(source: SourceConfig, how: Gathering) -> GatheredVae:
    """Find or download the files. Blocks. Raises ModelFileError."""
    try:
        return _gather(source, replace(how, hub=replace(how.hub, wording=WORDING)))
    except ModelFileError as error:
        raise ModelFileError(name_source(source, error)) from error
    except OSError as error:
        raise ModelFileError(name_source(source, explain_unreadable(Path(source.source), error))) from error


def explain_misfit(config: Mapping[str, Any], own: Mapping[str, Any], tensors: Mapping[str, TensorFacts]) -> str | None:
    """Why an autoencoder of this configuration and these tensors can't stand for the model's own; None if it can."""
    kind, own_kind = str(config.get("_class_name", "")), str(own.get("_class_name", ""))
    if kind not in {own_kind, TINY}:
        return f"it is {_with_article(kind)}, and the model's own is {_with_article(own_kind)}; {ADVICE}"
    channels = {_latent_channels(tensors, config.get("latent_channels", 4)), config.get("latent_channels", 4)}
    own_channels = own.get("latent_channels", 4)
    if others := channels - {own_channels}:
        return f"its latents have {max(others)} channels, and the model's {own_channels}; {ADVICE}"
    if kind == TINY:
        return None
    factors = [2 ** (len(each.get("block_out_channels", [0])) - 1) for each in (config, own)]
    if factors[0] != factors[1]:
        return f"its latents are a {factors[0]}th of an image's sides, and the model's a {factors[1]}th; {ADVICE}"
    for name, default in SCALING.items():
        said, wanted = ((default if each.get(name) is None else each[name]) for each in (config, own))
        if abs(said - wanted) > SCALING_TOLERANCE:
            return f"its {name} is {said:g}, and the model's {wanted:g}: it is of another family; {ADVICE}"
    return None


def read_config(folder: Path) -> dict[str, Any]:
    """An autoencoder's configuration in a folder; empty if there is none."""
    try:
        content = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    is_own = isinstance(content, dict) and str(content.get("_class_name", "")).startswith("Autoencoder")
    return content if is_own else {}


def _gather(source: SourceConfig, how: Gathering) -> GatheredVae:
    path = Path(source.source)
    if path.is_absolute():
        if path.is_file():
            return _gather_single(path, how)
        if not path.is_dir():
            raise ModelFileError(
                f"{path} does not exist; check model.vae.source and that the volume which holds it is mounted there"
            )
        folder = path / VAE if (path / MODEL_INDEX).is_file() else path
        sizes = list_sizes(folder)
        if CONFIG not in sizes:
            weights = [name for name in sizes if "/" not in name and Path(name).suffix.lower() in WEIGHT_SUFFIXES]
            if len(weights) == 1:
                return _gather_single(folder / weights[0], how)
            raise ModelFileError(
                f"{folder} has no {CONFIG} and {len(weights)} files of weights ({_show(weights)}); name one of the "
                "files, or a folder of diffusers' layout, in model.vae.source"
            )
        return _gather_folder(folder, _choose(source, list(sizes), how), how)
    snapshot = open_snapshot(source, how.hub)
    if source.file is not None:
        refuse_pickle(Path(source.file), allow_pickles=how.allow_pickles)
        if source.file not in snapshot.sizes:
            raise ModelFileError(
                f"the repository has no file {source.file!r} (it has {_show(_list_single(snapshot.sizes))}); correct "
                "model.vae.source.huggingFace.file"
            )
        beside = (Path(source.file).parent / CONFIG).as_posix()
        download_files(source, snapshot, how.hub, [source.file, *({beside} & snapshot.sizes.keys())])
        return _gather_single(snapshot.directory / source.file, how)
    prefix = f"{VAE}/" if MODEL_INDEX in snapshot.sizes else ""
    held = [name.removeprefix(prefix) for name in snapshot.sizes if name.startswith(prefix)]
    if CONFIG not in held:
        raise ModelFileError(
            f"the repository has no {prefix}{CONFIG}; name one of its files in model.vae.source.huggingFace.file: "
            f"{_show(_list_single(snapshot.sizes))}"
        )
    chosen = _choose(source, held, how)
    download_files(source, snapshot, how.hub, [f"{prefix}{name}" for name in (CONFIG, *chosen[2], *chosen[1])])
    return _gather_folder(snapshot.directory / prefix, chosen, how)


_Chosen = tuple[str | None, tuple[str, ...], tuple[str, ...]]  # variant, files of weights, indices of them


def _choose(source: SourceConfig, held: list[str], how: Gathering) -> _Chosen:
    return choose_component(VAE, held, variant=source.variant, dtype=how.dtype, allow_pickles=how.allow_pickles)


def _gather_folder(folder: Path, chosen: _Chosen, how: Gathering) -> GatheredVae:
    variant, files, _ = chosen
    config = read_config(folder)
    if not config:
        raise ModelFileError(f"{folder / CONFIG} is no autoencoder's configuration; {ADVICE}")
    tensors = {key: facts for name in files for key, facts in read_tensors(folder / name, how).items()}
    return _describe(folder, files, config, tensors, how, variant=variant)


def _gather_single(file: Path, how: Gathering) -> GatheredVae:
    if file.suffix.lower() not in WEIGHT_SUFFIXES:
        raise ModelFileError(f"{file} is no file of weights (allowed: {', '.join(sorted(WEIGHT_SUFFIXES))})")
    refuse_pickle(file, allow_pickles=how.allow_pickles)
    tensors = read_tensors(file, how)
    kind = find_kind(tensors)
    if kind is not FileKind.AUTOENCODER:
        raise ModelFileError(f"{file} ({format_gib(file.stat().st_size)}) is {kind.value}; {ADVICE}")
    return _describe(file.parent, (file.name,), read_config(file.parent), tensors, how, is_single=True)


def _describe(
    folder: Path,
    files: tuple[str, ...],
    config: Mapping[str, Any],
    tensors: Mapping[str, TensorFacts],
    how: Gathering,
    *,
    variant: str | None = None,
    is_single: bool = False,
) -> GatheredVae:
    loaded_bytes = count_loaded_bytes(tensors, WIDTHS_BYTES[how.dtype])
    return GatheredVae(folder, files, config, is_single, variant, tensors, loaded_bytes)


def find_bare_name(key: str) -> str:
    """A tensor's name without a prefix, and by the names that diffusers has now where they are diffusers' own."""
    bare = next((key.removeprefix(prefix) for prefix in PREFIXES if key.startswith(prefix)), key)
    for old, new in OLD_ATTENTION:
        bare = bare.replace(old, new) if ".attentions." in bare else bare
    return bare


def _latent_channels(tensors: Mapping[str, TensorFacts], otherwise: int) -> int:
    shapes = {find_bare_name(key): facts.shape for key, facts in tensors.items()}
    return shapes[FIRST_WEIGHTS][1] if len(shapes.get(FIRST_WEIGHTS, ())) == 4 else otherwise


def digest_files(vae: GatheredVae) -> str:
    """``sha256:`` and of a single file the digest of its bytes, as AUTOMATIC1111 has it; else of all that is loaded."""
    digests = []
    for name in vae.files if vae.is_single else (CONFIG, *vae.files):
        with (vae.folder / name).open("rb") as stream:
            digests.append(hashlib.file_digest(stream, "sha256").hexdigest())
    whole = digests[0] if len(digests) == 1 else hashlib.sha256("\n".join(digests).encode()).hexdigest()
    return f"sha256:{whole}"


def _list_single(sizes: Mapping[str, int]) -> list[str]:
    return [name for name in sorted(sizes) if Path(name).suffix.lower() in WEIGHT_SUFFIXES and "/" not in name]


def _show(names: list[str]) -> str:
    return ", ".join(names[:SHOWN_FILES]) or "none"


def _with_article(kind: str) -> str:
    return f"an {kind}" if kind[:1] in "AEIOU" else f"a {kind or 'thing without a class'}"


def name_source(source: SourceConfig, error: object) -> str:
    """An error's sentence with what it is about."""
    file = f" {source.file}" if source.file else ""
    return f"VAE {source.source}{file}: {error}"
