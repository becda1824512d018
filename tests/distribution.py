"""How `make test` shares the tests out between processes, and what is said of those that it leaves to the night.

The first process begins with what needs a cluster and mostly waits for real servers; all others begin at the other end,
with what keeps torch busy. They meet among small files, so that they end together. What uses one cluster, one server or
one browser goes to one process as a whole.
"""

from pathlib import PurePosixPath
from typing import Any, Final

import pytest
from xdist.scheduler.loadscope import LoadScopeScheduling
from xdist.workermanage import WorkerController

# Folders that share a fixture which takes long to start; all others are shared out by file. The deepest one counts.
TOGETHER: Final = (
    "tests/clients",
    "tests/devcluster",
    "tests/e2e",
    "tests/e2e/operators",
    "tests/inference_server/api/playground",
)
APART: Final = frozenset({"tests/e2e/test_network_policies.py"})  # in such a folder, with a cluster of its own
LEFT_OUT: Final = "left_out"
LEFT_OUT_COUNT: Final = pytest.StashKey[int]()


def name_unit(nodeid: str) -> str:
    """What goes to one process as a whole with this test: a folder of ``TOGETHER``, or its file."""
    file = nodeid.partition("::")[0]
    if file not in APART:
        for folder in PurePosixPath(file).parents:
            if str(folder) in TOGETHER:
                return str(folder)
    return file


def rank_unit(markers: set[str]) -> int:
    """Where a unit stands in the row: 0 what needs a cluster, 2 what keeps torch busy, 1 all else."""
    if "cluster" in markers:
        return 0
    return 2 if "torch" in markers else 1


class FromBothEnds(LoadScopeScheduling):  # type: ignore[misc]  # xdist says no types
    """The first process takes units from the row's beginning, all others from its end."""

    def _split_scope(self, nodeid: str) -> str:
        return name_unit(nodeid)

    def _assign_work_unit(self, node: WorkerController) -> None:
        if node is not self.nodes[0]:
            self.workqueue.move_to_end(next(reversed(self.workqueue)), last=False)
        super()._assign_work_unit(node)  # of the first unit in the row


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadScopeScheduling | None:
    """Only where the distribution is by scope, as in scripts/test.sh."""
    return FromBothEnds(config, log) if config.getvalue("dist") == "loadscope" else None


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Puts units into the row, in every process alike; without other processes tests stay in their order."""
    if not hasattr(config, "workerinput"):
        return
    markers: dict[str, set[str]] = {}
    for item in items:
        markers.setdefault(name_unit(item.nodeid), set()).update(mark.name for mark in item.iter_markers())
    items.sort(key=lambda item: rank_unit(markers[name_unit(item.nodeid)]))


def pytest_deselected(items: list[pytest.Item]) -> None:
    """Notes how many were left out, for the process that reports: xdist's doesn't say it."""
    if items and hasattr(items[0].config, "workeroutput"):
        output = items[0].config.workeroutput
        output[LEFT_OUT] = output.get(LEFT_OUT, 0) + len(items)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: object) -> None:
    """All processes collect the same, so the first one's number is everybody's."""
    count = getattr(node, "workeroutput", {}).get(LEFT_OUT, 0)
    node.config.stash.setdefault(LEFT_OUT_COUNT, count)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """One line, so that nothing is left out in silence."""
    if count := config.stash.get(LEFT_OUT_COUNT, 0):
        terminalreporter.write_line(f"{count} tests deselected by -m {config.getoption('markexpr')!r}")
