"""Where things are on the page, in pixels from its upper left corner; matplotlib's figure counts from below."""

from dataclasses import dataclass
from typing import Any, Final

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch
from matplotlib.transforms import IdentityTransform

from dashboards.picture.style import Theme

DPI: Final = 100
PAGE_WIDTH: Final = 1500
COLUMNS: Final = 24  # of Grafana's grid
ROW_HEIGHT: Final = 33
GAP: Final = 8
MARGIN: Final = 12
HEADER: Final = 58
TITLE_HEIGHT: Final = 28


@dataclass(frozen=True)
class Box:
    """A rectangle."""

    x: float
    y: float
    width: float
    height: float

    def inset(self, left: float, top: float, right: float, bottom: float) -> "Box":
        """What is left of it inside."""
        return Box(self.x + left, self.y + top, self.width - left - right, self.height - top - bottom)


def find_box(grid_pos: dict[str, Any]) -> Box:
    """Of a panel's place on the grid."""
    column = (PAGE_WIDTH - 2 * MARGIN + GAP) / COLUMNS
    return Box(
        MARGIN + grid_pos["x"] * column,
        HEADER + grid_pos["y"] * ROW_HEIGHT,
        grid_pos["w"] * column - GAP,
        grid_pos["h"] * ROW_HEIGHT - GAP,
    )


class Page:
    """The figure, addressed in pixels from above."""

    def __init__(self, rows: int, theme: Theme) -> None:
        """So many of the grid's rows high."""
        self.theme = theme
        self._height = HEADER + rows * ROW_HEIGHT + MARGIN
        self.figure = Figure(figsize=(PAGE_WIDTH / DPI, self._height / DPI), dpi=DPI, facecolor=theme.page)

    def write(self, x: float, y: float, text: str, size: float, color: str, **look: Any) -> None:
        """A line of text whose middle is at ``y``."""
        self.figure.text(
            x, self._height - y, text, transform=IdentityTransform(), fontsize=size, color=color,
            **{"va": "center", "ha": "left", "parse_math": False, **look},
        )  # fmt: skip

    def frame(self, box: Box) -> None:
        """A panel's background."""
        self.figure.add_artist(
            FancyBboxPatch(
                (box.x, self._height - box.y - box.height), box.width, box.height, transform=IdentityTransform(),
                boxstyle="round,pad=0,rounding_size=3", facecolor=self.theme.panel, edgecolor=self.theme.border,
                linewidth=0.8, zorder=-1,
            )
        )  # fmt: skip

    def swatch(self, x: float, y: float, color: str, *, dashed: bool = False) -> None:
        """A short piece of a series' line."""
        height = self._height - y
        spots = ((x, x + 5), (x + 8, x + 13)) if dashed else ((x, x + 13),)
        for begin, end in spots:
            self.figure.add_artist(
                FancyBboxPatch(
                    (begin, height - 1.5), end - begin, 3, transform=IdentityTransform(),
                    boxstyle="round,pad=0,rounding_size=1", facecolor=color, linewidth=0,
                )
            )  # fmt: skip

    def add_axes(self, box: Box) -> Axes:
        """Axes that fill a box."""
        whole_width, whole_height = PAGE_WIDTH, self._height
        axes = self.figure.add_axes(
            (
                box.x / whole_width,
                (whole_height - box.y - box.height) / whole_height,
                box.width / whole_width,
                box.height / whole_height,
            )
        )
        axes.set_facecolor("none")
        for side in ("top", "right", "left", "bottom"):
            axes.spines[side].set_visible(False)
        axes.tick_params(length=0, labelsize=8, colors=self.theme.muted)
        return axes
