"""The list of traps in docs/platform/autoscaling.md names tests that exist."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[3]
TEST_NAME = re.compile(r"`(test_\w+)`")


def test_every_test_that_the_page_names_exists() -> None:
    page = (ROOT / "docs/platform/autoscaling.md").read_text()
    sources = "".join(path.read_text() for path in (ROOT / "tests" / "operator").rglob("test_*.py"))
    named = TEST_NAME.findall(page)
    assert len(named) > 15
    assert [name for name in named if f"def {name}(" not in sources] == []
