"""The demo's picture: which moments it explains, and that it can be read."""

from pathlib import Path

import matplotlib.image as mpl_image

from demo.observe import Sighting
from demo.plot import MAX_TURNS, Turn, find_turns, plot

REASON = "4 pods: 24 requests wait; worked off within 20 s by 4 pods, of which 3 are ordered now"


def look(at_seconds: float, desired: int, reason: str = "", *, queue_depth: float | None = 3) -> Sighting:
    return Sighting(at_seconds, queue_depth, None, desired, desired, desired, reason)


def test_a_turn_is_where_another_number_is_ordered_with_the_planners_words() -> None:
    sightings = [look(1, 1), look(2, 4, REASON), look(3, 4, "4 pods: 20 requests wait"), look(9, 0, "0 pods: idle")]
    assert find_turns(sightings) == [Turn(2, 4, REASON), Turn(9, 0, "0 pods: idle")]


def test_a_restless_service_gets_as_many_explanations_as_fit() -> None:
    assert len(find_turns([look(second, second % 2) for second in range(100)])) == MAX_TURNS


def test_more_words_make_the_plot_higher(tmp_path: Path) -> None:
    heights = []
    for turns in (0, 6):
        course = [look(second, second % 2 if second <= turns else 0, REASON * 3) for second in range(20)]
        course.append(look(20, course[-1].desired, queue_depth=None))  # no fresh figure
        plot(course, {"burst begins": 2.0}, tmp_path / "plot.png", target_latency_seconds=10)
        heights.append(mpl_image.imread(tmp_path / "plot.png").shape[0])
    assert heights[1] > heights[0] + 6 * 2 * 15
