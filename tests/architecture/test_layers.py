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
CLI = ROOT / "cli/src/easel_cli"

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


def test_one_folder_of_the_operator_talks_to_redis() -> None:
    assert importers(OPERATOR, {"redis"}, outside=("cluster/redis/",)) == []


def test_only_handlers_and_main_know_kopf() -> None:
    assert importers(OPERATOR, {"kopf"}, outside=("handlers/", "main.py")) == []


def test_only_the_engine_knows_torch() -> None:
    assert importers(SERVER, TORCH_STACK, outside=("engine/",)) == []


def test_only_the_stores_know_redis_memcached_and_buckets() -> None:
    """And two files of the engine read weights from buckets; all are opened in one place."""
    assert importers(SERVER, {"redis", "emcache"}, outside=("stores/",)) == []
    users = (
        *("outbound/buckets.py", "stores/images/s3.py"),
        *("engine/add_ons/buckets.py", "engine/model_cache/copying.py"),
    )
    assert importers(SERVER, {"obstore"}, outside=users) == []


def test_only_webhooks_and_what_guards_them_know_an_http_client() -> None:
    assert importers(SERVER, {"httpx2", "httpcore2"}, outside=("outbound/", "webhooks/")) == []


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


# What the command line may know of the operator: what is pure, and the one reader of Prometheus that both have.
OF_THE_OPERATOR = ("autoscaling", "decide", "simulation", "cluster.prometheus")


def test_the_command_line_knows_the_contract_and_what_is_pure_of_the_operator() -> None:
    assert importers(CLI, {"easel_server", "kopf", "aiohttp"}, outside=("-",)) == []
    allowed = tuple(f"easel_operator.{room}" for room in OF_THE_OPERATOR)
    strangers = [
        f"{file.relative_to(CLI)}: {module}"
        for file in sources(CLI)
        for module in imported_modules(file)
        if module.startswith("easel_operator.") and not f"{module}.".startswith(tuple(f"{name}." for name in allowed))
    ]
    assert strangers == []


def test_nobody_knows_the_command_line() -> None:
    for package in (CONTRACT, OPERATOR, SERVER):
        assert importers(package, {"easel_cli"}, outside=("-",)) == []


def test_one_folder_of_the_command_line_talks_to_kubernetes_and_one_file_to_gateways() -> None:
    assert importers(CLI, {"kubernetes", "urllib3"}, outside=("cluster/",)) == []
    assert importers(CLI, {"httpx2", "httpcore2"}, outside=("cluster/pods.py", "gateway.py")) == []
    assert importers(CLI / "doctor", CLOCKS_AND_CHANCE, outside=("gather.py",)) == [], "checks are of facts alone"


PURE_ROOMS = (*(OPERATOR / room for room in ("decide", "autoscaling", "manifests")), CLI / "decide")


@pytest.mark.parametrize("folder", PURE_ROOMS)
def test_what_decides_is_pure(folder: Path) -> None:
    impure: list[str] = []
    for file in sources(folder):
        where = file.relative_to(ROOT)
        impure += [f"{where}: imports {name}" for name in imported_packages(file) & CLOCKS_AND_CHANCE]
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Await | ast.AsyncFunctionDef | ast.AsyncFor | ast.AsyncWith):
                impure.append(f"{where}:{node.lineno}: awaits")
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in SIDE_EFFECTS:
                impure.append(f"{where}:{node.lineno}: reads the clock")
    assert impure == []
    assert any(sources(folder)), f"{folder} is empty: this test would hold for nothing"


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


# What each room of the server may import of the others. Lower rooms never know upper ones.
SERVER_ROOMS = {
    "generation": set(),
    "outbound": set(),
    "stores": {"generation", "outbound"},
    "telemetry": {"generation", "outbound", "stores"},
    "engine": {"generation", "outbound"},
    "worker": {"generation", "outbound", "stores", "telemetry", "engine"},
    "webhooks": {"generation", "outbound", "stores", "telemetry"},
    "gateway": {"generation", "outbound", "stores", "telemetry"},
    "transport": {"generation", "outbound", "stores", "telemetry", "gateway"},
    "api": {"generation", "outbound", "stores", "telemetry", "gateway", "webhooks", "transport"},
    "config.py": set(),
    "start.py": {"telemetry", "config.py", "standby.py", "main.py"},
    "standby.py": {"telemetry", "engine", "config.py", "start.py", "main.py"},
}


def imported_modules(file: Path) -> set[str]:
    """Full names of the modules that a file imports, inside functions too."""
    modules: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            # ``from package import module`` imports the module, too.
            modules |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return modules


def rooms_known_to(file: Path) -> set[str]:
    """Folders and top-level files of the server that a file imports from."""
    parts = [module.split(".") for module in imported_modules(file) if module.startswith("easel_server.")]
    return {name if (SERVER / name).is_dir() else f"{name}.py" for _, name, *_ in parts}


def test_every_room_of_the_server_has_a_rule() -> None:
    folders = {path.name for path in SERVER.iterdir() if any(path.glob("*.py"))}
    files = {path.name for path in SERVER.glob("*.py")} - {"__init__.py", "main.py"}
    assert folders | files == set(SERVER_ROOMS)


@pytest.mark.parametrize("room", SERVER_ROOMS)
def test_a_room_of_the_server_knows_lower_ones_only(room: str) -> None:
    files = sources(SERVER / room) if (SERVER / room).is_dir() else [SERVER / room]
    allowed = SERVER_ROOMS[room] | {room}
    upward = {str(file.relative_to(SERVER)): rooms_known_to(file) - allowed for file in files}
    assert {file: rooms for file, rooms in upward.items() if rooms} == {}


def test_no_api_knows_another() -> None:
    folders = sorted(path.name for path in (SERVER / "api").iterdir() if any(path.glob("*.py")))
    assert len(folders) > 3, "this test would hold for nothing"
    prefixes = {folder: f"easel_server.api.{folder}." for folder in folders}
    known = [
        f"{file.relative_to(SERVER)}: {module}"
        for folder in folders
        for file in sources(SERVER / "api" / folder)
        for module in imported_modules(file)
        for other, prefix in prefixes.items()
        if other != folder and module.startswith(prefix)
    ]
    assert known == []


def test_only_the_stores_know_where_something_is_kept() -> None:
    """Everybody else sees interfaces, and what ``stores/opening.py`` puts together."""
    backends = tuple(
        f"easel_server.stores.{file.relative_to(SERVER / 'stores').with_suffix('').as_posix().replace('/', '.')}"
        for file in sources(SERVER / "stores")
        if file.stem.startswith(("memory", "redis", "memcached", "s3")) and file.name != "__init__.py"
    )
    assert len(backends) > 3, "this test would hold for nothing"
    known = [
        f"{file.relative_to(SERVER)}: {module}"
        for file in sources(SERVER)
        for module in imported_modules(file)
        if module.startswith(backends) and not file.is_relative_to(SERVER / "stores")
    ]
    assert known == []


# About a dozen; the operator's own folders were there before the rule, and must not grow.
MAX_FILES_IN_A_FOLDER = 12
FULLER_FOLDERS = {
    "easel_operator/autoscaling": 14,
    "easel_operator/cluster": 15,
    "easel_operator/decide": 13,
    "easel_operator/manifests": 13,  # a child a file
    "easel_operator/simulation": 15,
}


@pytest.mark.parametrize("package", [CONTRACT, OPERATOR, SERVER, CLI])
def test_a_folder_holds_about_a_dozen_files(package: Path) -> None:
    folders = [package, *(path for path in package.rglob("*") if path.is_dir())]
    counts = {
        str(folder.relative_to(package.parent)): sum(file.name != "__init__.py" for file in folder.glob("*.py"))
        for folder in folders
    }
    assert {
        name: count for name, count in counts.items() if count > FULLER_FOLDERS.get(name, MAX_FILES_IN_A_FOLDER)
    } == {}


MIN_LINES = 40
# Small files with one reader that stay, and why.
SMALL_FILES = {
    "easel_cli/__main__.py": "the console script of `easel`",
    "easel_operator/simulation/policies/fixed.py": "one policy a file",
    "easel_server/generation/families/flux.py": "one family a file",
    "easel_server/generation/families/pixart.py": "one family a file",
    "easel_server/generation/families/stable_diffusion_3.py": "one family a file",
    "easel_server/generation/tasks/text_to_image.py": "one task a file",
    "easel_server/generation/tasks/image_to_image.py": "one task a file",
    "easel_server/generation/tasks/inpaint.py": "one task a file",
    "easel_server/generation/tasks/upscale.py": "one task a file",
}


def test_a_small_file_has_several_readers() -> None:
    """A file under about 40 lines with one reader is a page that a newcomer opens for nothing: it belongs into it."""
    files = {file: file.read_text() for package in (CONTRACT, OPERATOR, SERVER, CLI) for file in sources(package)}
    known = {file: imported_modules(file) for file in files}
    lonely = []
    for file, text in files.items():
        if file.name == "__init__.py" or len(text.splitlines()) >= MIN_LINES:
            continue
        name = to_module(file)
        readers = [reader for reader, modules in known.items() if name in modules and reader != file]
        is_backend = file.parent.parent.name == "stores"  # one kind of store a file, however little it does
        if len(readers) < 2 and not is_backend and to_source(file) not in SMALL_FILES:
            lonely.append(f"{to_source(file)}: read by {[to_source(reader) for reader in readers]}")
    assert lonely == []


def to_source(file: Path) -> str:
    """Such as easel_server/generation/job.py."""
    return str(file).split("/src/", 1)[1]


def to_module(file: Path) -> str:
    """Such as easel_server.generation.job."""
    return to_source(file).removesuffix(".py").replace("/", ".")


def test_no_listed_exception_is_out_of_date() -> None:
    roots = {path.name: path.parent for path in (CONTRACT, OPERATOR, SERVER, CLI)}
    for name in (*SMALL_FILES, *FULLER_FOLDERS):
        assert (roots[name.split("/")[0]] / name).exists(), name
    for name in SMALL_FILES:
        assert len((roots[name.split("/")[0]] / name).read_text().splitlines()) < MIN_LINES, name


@pytest.mark.parametrize("folder", [CONTRACT, OPERATOR, SERVER, CLI, ROOT / "demo", ROOT / "chaos"])
def test_no_folder_or_file_is_a_junk_drawer(folder: Path) -> None:
    forbidden = {"utils", "helpers", "manager", "common", "misc"}
    assert [str(path) for path in folder.rglob("*") if path.stem in forbidden] == []
