"""Pages for those who install name values, fields and reasons that there are."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from easel_contract.conditions import ConditionType, Reason

ROOT = Path(__file__).resolve().parents[2]
PAGES = (
    "README.md",
    "docs/developers/models.md",
    "docs/developers/serving.md",
    "docs/on-call/troubleshooting.md",
    "docs/platform/air-gap.md",
    "docs/platform/gitops.md",
    "docs/platform/ingress-and-tls.md",
    "docs/platform/installation.md",
    "docs/platform/openshift.md",
    "docs/platform/peers.md",
    "docs/platform/redis.md",
    "docs/platform/rollouts.md",
    "docs/platform/scaling-guide.md",
    "docs/platform/sizing.md",
    "docs/platform/tenants.md",
    "docs/platform/upgrading.md",
    "docs/start/gpu-cluster.md",
    "operator/README.md",
    "docs/observability.md",
    *(f"docs/runbooks/{file.name}" for file in sorted((ROOT / "docs/runbooks").glob("*.md"))),
)
DOTTED = re.compile(r"`(?:spec\.)?([a-z]\w+(?:\.[a-zA-Z]\w*)+)(?=[`:= ])")
SETTING = re.compile(r"--set '?([\w.]+)=")
STATE = re.compile(r"`([A-Z]\w+)=(?:True|False|Unknown)`, reasons? ((?:`\w+`(?:, | and | or )?)+)")
API_GROUPS = re.compile(r"\.(k8s\.io|dev|com)\b")


def _values() -> set[str]:
    def walk(value: object, path: str) -> Iterator[str]:
        yield path
        if isinstance(value, dict):
            for key, inner in value.items():
                yield from walk(inner, f"{path}.{key}".strip("."))

    return set(walk(yaml.safe_load((ROOT / "helm/easel/values.yaml").read_text()), "")) - {""}


def _fields() -> set[str]:
    rows = re.findall(r"^\| `spec\.([^`]+)` \|", (ROOT / "docs/reference.md").read_text(), re.MULTILINE)
    return {re.sub(r"\[\]|\{\}", "", row) for row in rows}


VALUES = _values()
FIELDS = _fields()
# What is free below a value or a field: maps that Kubernetes or another field describes.
OPEN = {name for name in VALUES | FIELDS if name.endswith(("podTemplate", ".resources"))} | {"defaults.downloads"}
ROOTS = {name.split(".")[0] for name in VALUES | FIELDS}


def is_named_right(path: str) -> bool:
    return path in VALUES | FIELDS or any(path.startswith(f"{name}.") for name in OPEN)


@pytest.mark.parametrize("page", PAGES)
def test_a_value_or_field_that_a_page_names_is_there(page: str) -> None:
    text = (ROOT / page).read_text()
    named = {path for path in DOTTED.findall(text) if path.split(".")[0] in ROOTS and not API_GROUPS.search(path)}
    assert {path for path in named if not is_named_right(path)} == set()
    assert {path for path in SETTING.findall(text) if not is_named_right(path)} == set()


@pytest.mark.parametrize("page", PAGES)
def test_a_condition_and_its_reason_that_a_page_names_are_there(page: str) -> None:
    for condition, reasons in STATE.findall((ROOT / page).read_text()):
        assert condition in set(ConditionType), condition
        assert set(re.findall(r"\w+", reasons)) <= set(Reason), reasons


def test_a_wrong_name_is_found() -> None:
    assert is_named_right("operator.watchNamespaces")
    assert is_named_right("rollout.canary.minJobs")
    assert is_named_right("worker.podTemplate.spec.serviceAccountName")
    assert not is_named_right("operator.watchedNamespaces")
    assert DOTTED.findall("`spec.rollout.canary` and `redis.url`: x") == ["rollout.canary", "redis.url"]
    assert STATE.findall("`Ready=False`, reason `RedisFull`;") == [("Ready", "`RedisFull`")]
    assert {"redis.url", "crd.install"} <= VALUES
    assert {"model.source.image", "rollout.toRevision"} <= FIELDS
