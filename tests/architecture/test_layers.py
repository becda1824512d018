"""The layer rules of ARCHITECTURE.md, checked on the imports of every source file."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CONTRACT = ROOT / "contract/src/easel_contract"
OPERATOR = ROOT / "operator/src/easel_operator"
SERVER = ROOT / "inference_server/src/easel_server"

KUBERNETES_CLIENTS = {"kubernetes", "aiohttp"}
TORCH_STACK = {"torch", "diffusers", "transformers", "accelerate"}
CLOCKS_AND_CHANCE = {"time", "random", "secrets", "logging", "asyncio", "uuid"}
SIDE_EFFECTS = {"now", "today", "utcnow"}


def sources(folder: Path) -> Iterator[Path]:
    return folder.rglob("*.py")


def imported_packages(file: Path) -> set[str]:
    """Top-level packages that a file imports, inside functions too."""
    packages: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            packages |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            packages.add(node.module.split(".")[0])
    return packages


def importers(folder: Path, packages: set[str], *, outside: tuple[str, ...]) -> list[str]:
    """Files of a folder that import any of the packages, except those under ``outside``."""
    return [
        str(file.relative_to(ROOT))
        for file in sources(folder)
        if imported_packages(file) & packages and not str(file.relative_to(folder)).startswith(outside)
    ]


def test_the_contract_imports_pydantic_cronsim_and_the_standard_library_only() -> None:
    allowed = sys.stdlib_module_names | {"pydantic", "cronsim", "easel_contract"}
    strangers = {str(file.name): imported_packages(file) - allowed for file in sources(CONTRACT)}
    assert {name: packages for name, packages in strangers.items() if packages} == {}


def test_only_cluster_talks_to_kubernetes() -> None:
    assert importers(OPERATOR, KUBERNETES_CLIENTS, outside=("cluster/",)) == []


def test_only_handlers_and_main_know_kopf() -> None:
    assert importers(OPERATOR, {"kopf"}, outside=("handlers/", "main.py")) == []


def test_only_the_engine_knows_torch() -> None:
    assert importers(SERVER, TORCH_STACK, outside=("engine/",)) == []


def test_only_the_stores_know_redis_and_memcached() -> None:
    assert importers(SERVER, {"redis", "emcache"}, outside=("stores/",)) == []


def test_only_webhooks_know_an_http_client() -> None:
    assert importers(SERVER, {"httpx2", "httpcore2"}, outside=("webhooks/",)) == []


def imported_opentelemetry(file: Path) -> set[str]:
    """The modules of OpenTelemetry that a file imports: ``trace``, ``sdk``, …"""
    modules = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("opentelemetry"):
            modules.add((node.module or "").removeprefix("opentelemetry").strip(".").split(".")[0])
        elif isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names if alias.name.startswith("opentelemetry")}
    return modules


def test_who_opens_spans_knows_opentelemetrys_api_and_one_file_its_sdk() -> None:
    """The API does nothing by itself; the SDK is an extra, and untraced processes don't import it."""
    api = {"trace", "context", "util"}  # util: the type of attributes
    strangers = {
        str(file.relative_to(SERVER)): modules - api
        for file in sources(SERVER)
        if (modules := imported_opentelemetry(file))
    }
    assert {name for name, modules in strangers.items() if modules} == {"telemetry/otlp.py"}
    untouched = ("generation/", "stores/", "engine/")
    assert [name for name in strangers if name.startswith(untouched)] == []


def test_operator_and_server_meet_in_the_contract_only() -> None:
    assert importers(OPERATOR, {"easel_server"}, outside=("-",)) == []
    assert importers(SERVER, {"easel_operator"}, outside=("-",)) == []


@pytest.mark.parametrize("folder", ["decide", "autoscaling", "manifests"])
def test_what_decides_is_pure(folder: str) -> None:
    impure: list[str] = []
    for file in sources(OPERATOR / folder):
        where = file.relative_to(ROOT)
        impure += [f"{where}: imports {name}" for name in imported_packages(file) & CLOCKS_AND_CHANCE]
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Await | ast.AsyncFunctionDef | ast.AsyncFor | ast.AsyncWith):
                impure.append(f"{where}:{node.lineno}: awaits")
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in SIDE_EFFECTS:
                impure.append(f"{where}:{node.lineno}: reads the clock")
    assert impure == []
    assert any(sources(OPERATOR / folder)), f"{folder} is empty: this test would hold for nothing"


def test_the_simulation_has_no_clock_and_talks_to_nobody() -> None:
    """Chance is drawn from a seeded ``random.Random`` that is passed in; one module writes a file, the picture."""
    forbidden = KUBERNETES_CLIENTS | {"kopf", "prometheus_client"} | (CLOCKS_AND_CHANCE - {"random"})
    assert importers(OPERATOR / "simulation", forbidden, outside=("-",)) == []
    assert importers(OPERATOR / "simulation", {"pathlib"}, outside=("plot.py",)) == []
    drawn = [
        f"{file.relative_to(ROOT)}:{node.lineno}"
        for file in sources(OPERATOR / "simulation")
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "random"
        if node.attr != "Random"
    ]
    assert drawn == []


def test_the_operator_folder_never_shadows_the_standard_library() -> None:
    assert not (ROOT / "operator/__init__.py").exists()


def test_the_operator_is_installed_without_torch() -> None:
    lines = (ROOT / "requirements/operator.txt").read_text().splitlines()
    locked = {line.split("==")[0] for line in lines if "==" in line}
    assert "kopf" in locked
    assert locked & {*TORCH_STACK, "nvidia-cublas", "triton"} == set()


@pytest.mark.parametrize("folder", [CONTRACT, OPERATOR, SERVER, ROOT / "demo"])
def test_no_folder_or_file_is_a_junk_drawer(folder: Path) -> None:
    forbidden = {"utils", "helpers", "manager", "common", "misc"}
    assert [str(path) for path in folder.rglob("*") if path.stem in forbidden] == []
