"""Label selectors, as kubectl and autoscalers write them."""

import pytest
from easel_operator.cluster.label_selector import parse_label_selector

LABELS = {"app": "easel", "easel.dev/service": "painter"}
SELECTORS = {
    "": True,
    "app=easel": True,
    "app==easel": True,
    "app=other": False,
    "app!=other": True,
    "absent!=other": True,
    "absent=": False,
    "app in (easel, other)": True,
    "app notin (easel,other)": False,
    "app": True,
    "absent": False,
    "!absent": True,
    "!app": False,
    "app=easel,easel.dev/service in (painter,sculptor),!canary": True,
    "app=easel,canary": False,
}


@pytest.mark.parametrize(("selector", "is_met"), SELECTORS.items())
def test_selectors(selector: str, *, is_met: bool) -> None:
    assert parse_label_selector(selector).is_met_by(LABELS) is is_met


@pytest.mark.parametrize("broken", ["=b", "a===b", "a in b", "a in (b", "a,,b", "a b", "a=b;c=d", "a" * 5000])
def test_what_is_no_selector_is_refused(broken: str) -> None:
    with pytest.raises(ValueError, match=r"label ?[sS]elector"):
        parse_label_selector(broken)
