"""A StableDiffusionService in a YAML file: as it is applied, or as ``kubectl get sds NAME -o yaml`` prints it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from easel_contract import names
from easel_contract.resource import StableDiffusionServiceSpec, StableDiffusionServiceStatus
from easel_operator.autoscaling.cold_starts import ColdStarts, recall_cold_starts
from pydantic import ValidationError

from easel_cli.errors import INSTALL_SIMULATE, UsageError, list_problems


@dataclass(frozen=True, slots=True)
class ServiceFile:
    """The service of a file."""

    path: Path
    spec: StableDiffusionServiceSpec  # with spec.scaling
    name: str | None
    namespace: str | None
    status: Mapping[str, Any]  # as the file has it: only what is asked for is read

    def read_cold_starts(self) -> ColdStarts | None:
        """Those that the operator measured; None if the file has none. Raises UsageError."""
        try:
            status = StableDiffusionServiceStatus.model_validate(self.status)
        except ValidationError as error:
            raise UsageError(f"--service: {self.path}: status is not valid: {list_problems(error)}") from None
        measured = recall_cold_starts(status.scaling.cold_starts_seconds if status.scaling else ())
        return measured if measured.seconds else None


def load_service(path: Path) -> ServiceFile:
    """The StableDiffusionService of a YAML file, which may hold other objects beside it. Raises UsageError."""
    found = [doc for doc in _load_documents(path) if isinstance(doc, dict) and doc.get("kind") == names.KIND]
    if len(found) != 1:
        raise UsageError(f"--service: {path} holds {len(found)} objects of kind {names.KIND}; one is expected")
    try:
        spec = StableDiffusionServiceSpec.model_validate(found[0].get("spec", {}))
    except ValidationError as error:
        raise UsageError(f"--service: {path}: spec is not valid: {list_problems(error)}") from None
    if spec.scaling is None:
        raise UsageError(f"--service: {path} has spec.replicas; a simulation needs spec.scaling")
    metadata, status = (found[0].get(part) or {} for part in ("metadata", "status"))
    if not isinstance(metadata, dict) or not isinstance(status, dict):
        raise UsageError(f"--service: {path}: metadata and status must be mappings")
    name, namespace = (_read_text(metadata, key, path) for key in ("name", "namespace"))
    return ServiceFile(path, spec, name, namespace, status)


def _load_documents(path: Path) -> list[Any]:
    try:
        import yaml  # noqa: PLC0415 - of an optional extra
    except ImportError:
        raise UsageError(f"--service needs PyYAML: {INSTALL_SIMULATE}") from None
    try:
        return list(yaml.safe_load_all(path.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UsageError(f"--service: can't read {path}: {error}") from None


def _read_text(metadata: Mapping[str, Any], key: str, path: Path) -> str | None:
    value = metadata.get(key)
    if value is not None and not isinstance(value, str):
        raise UsageError(f"--service: {path}: metadata.{key} is {value!r}; text is expected")
    return value
