"""Panels in one style: every one has a title, a description that says what to do, a unit, and the datasource variable.

Colours are names of Grafana's, which it shows differently on a light and a dark background.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from grafana_foundation_sdk.builders import common as common_builders
from grafana_foundation_sdk.builders import dashboard as builders
from grafana_foundation_sdk.builders import prometheus, stat, statetimeline, table, timeseries
from grafana_foundation_sdk.models import common, dashboard
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

DATASOURCE: Final = dashboard.DataSourceRef(type_val="prometheus", uid="${datasource}")
REF_IDS: Final = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
FILLED: Final = 65  # percent, of what is stacked
GOOD, CARE, BAD = "green", "yellow", "red"

Thresholds = Sequence[tuple[float | None, str]]  # from this value on (None: from the beginning), this colour
NEUTRAL: Final[Thresholds] = ((None, "blue"),)


@dataclass(frozen=True)
class Query:
    """What a panel asks, what its series are called, and what they look like."""

    expression: str
    legend: str  # with {{label}}
    color: str = ""  # Grafana's own palette if empty
    dashed: bool = False  # a bound or a target: dashed, and never stacked or filled
    step: bool = False  # a number that jumps


def build_time_series(
    title: str,
    description: str,
    unit: str,
    *queries: Query,
    width: int = 8,
    height: int = 8,
    stacked: bool = False,
    bars: bool = False,
    colors: Mapping[str, str] | None = None,
) -> timeseries.Panel:
    """Lines or bars over time. ``colors``: a series' name → its colour, where a query gives several series."""
    panel = timeseries.Panel().title(title).description(description).datasource(DATASOURCE).unit(unit)
    panel.span(width).height(height).min(0).line_width(2 if not stacked else 1)
    panel.fill_opacity(FILLED if stacked else 8).show_points(common.VisibilityMode.NEVER)
    panel.draw_style(common.GraphDrawStyle.BARS if bars else common.GraphDrawStyle.LINE)
    if stacked:
        panel.stacking(common_builders.StackingConfig().mode(common.StackingMode.NORMAL).group("A"))
    panel.legend(
        common_builders.VizLegendOptions()
        .display_mode(common.LegendDisplayMode.LIST)
        .placement(common.LegendPlacement.BOTTOM)
        .show_legend(True)
        .calcs([])
    )
    panel.tooltip(
        common_builders.VizTooltipOptions().mode(common.TooltipDisplayMode.MULTI).sort(common.SortOrder.DESCENDING)
    )
    for ref_id, query in zip(REF_IDS, queries, strict=False):
        panel.with_target(_build_target(query, ref_id))
        properties = _build_look(query)
        if properties:
            panel.override_by_query(ref_id, properties)
    for name, color in (colors or {}).items():
        panel.override_by_name(name, [_color(color)])
    return panel


def build_stat(
    title: str,
    description: str,
    unit: str,
    *queries: Query,
    width: int = 4,
    height: int = 4,
    thresholds: Thresholds = NEUTRAL,
    texts: Mapping[str, tuple[str, str]] | None = None,
    decimals: int | None = None,
    named: bool = False,
) -> stat.Panel:
    """The newest figure, large. ``texts``: a value → what is shown instead, and its colour."""
    panel = stat.Panel().title(title).description(description).datasource(DATASOURCE).unit(unit)
    panel.span(width).height(height).thresholds(_build_thresholds(thresholds)).no_value("-")
    panel.color_scheme(builders.FieldColor().mode(dashboard.FieldColorModeId.THRESHOLDS))
    panel.reduce_options(common_builders.ReduceDataOptions().calcs(["lastNotNull"]).values(False))
    panel.color_mode(common.BigValueColorMode.VALUE).graph_mode(common.BigValueGraphMode.AREA)
    panel.text_mode(common.BigValueTextMode.VALUE_AND_NAME if named else common.BigValueTextMode.VALUE)
    if decimals is not None:
        panel.decimals(decimals)
    if texts:
        panel.mappings([_build_mapping(texts)])
    for ref_id, query in zip(REF_IDS, queries, strict=False):
        panel.with_target(_build_target(query, ref_id))
    return panel


def build_timeline(
    title: str,
    description: str,
    query: Query,
    *,
    texts: Mapping[str, tuple[str, str]],
    width: int = 12,
    height: int = 8,
) -> statetimeline.Panel:
    """A row for each series, filled while it has a value. ``texts``: a value → what stands there, and its colour."""
    panel = statetimeline.Panel().title(title).description(description).datasource(DATASOURCE).unit("none")
    panel.span(width).height(height).mappings([_build_mapping(texts)]).with_target(_build_target(query, "A"))
    panel.show_value(common.VisibilityMode.NEVER).row_height(0.8).fill_opacity(80).line_width(0)
    panel.color_scheme(builders.FieldColor().mode(dashboard.FieldColorModeId.THRESHOLDS))
    panel.legend(
        common_builders.VizLegendOptions()
        .display_mode(common.LegendDisplayMode.LIST)
        .placement(common.LegendPlacement.BOTTOM)
        .show_legend(True)
        .calcs([])
    )
    return panel


@dataclass(frozen=True)
class Column:
    """A query's value as a column of a table, beside the labels that are shown."""

    title: str
    expression: str
    unit: str
    thresholds: Thresholds = ()
    decimals: int | None = None


def build_table(
    title: str,
    description: str,
    labels: Mapping[str, str],
    columns: Sequence[Column],
    *,
    width: int = 24,
    height: int = 8,
    link: str = "",
    hide_values: bool = False,
) -> table.Panel:
    """A row for each set of labels. ``labels``: a label → its column's title; ``link``: where the last label leads."""
    panel = table.Panel().title(title).description(description).datasource(DATASOURCE).unit("none")
    panel.span(width).height(height).no_value("nothing")
    renamed = dict(labels)
    hidden = {"Time": True}
    for ref_id, column in zip(REF_IDS, columns, strict=False):
        name = f"Value #{ref_id}" if len(columns) > 1 else "Value"
        panel.with_target(_build_target(Query(column.expression, column.title), ref_id, as_table=True))
        renamed[name] = column.title
        if hide_values:
            hidden[name] = True
            continue
        properties = [dashboard.DynamicConfigValue("unit", column.unit)]
        if column.decimals is not None:
            properties.append(dashboard.DynamicConfigValue("decimals", column.decimals))
        if column.thresholds:
            properties += [
                dashboard.DynamicConfigValue("thresholds", _build_thresholds(column.thresholds).build()),
                dashboard.DynamicConfigValue("custom.cellOptions", {"type": "color-text"}),
            ]
        panel.override_by_name(column.title, properties)
    if link:
        target = {"title": "This service's dashboard", "url": link}
        panel.override_by_name(list(labels.values())[-1], [dashboard.DynamicConfigValue("links", [target])])
    order = {name: place for place, name in enumerate(renamed)}
    panel.with_transformation(dashboard.DataTransformerConfig(id_val="merge", options={}))
    panel.with_transformation(
        dashboard.DataTransformerConfig(
            id_val="organize", options={"excludeByName": hidden, "indexByName": order, "renameByName": renamed}
        )
    )
    return panel


def _build_target(query: Query, ref_id: str, *, as_table: bool = False) -> prometheus.Dataquery:
    target = prometheus.Dataquery().ref_id(ref_id).expr(query.expression).legend_format(query.legend)
    target.datasource(DATASOURCE)
    return target.format(PromQueryFormat.TABLE).instant() if as_table else target.range()


def _build_look(query: Query) -> list[dashboard.DynamicConfigValue]:
    properties = []
    if query.color:
        properties.append(_color(query.color))
    if query.step:
        properties.append(dashboard.DynamicConfigValue("custom.lineInterpolation", "stepAfter"))
    if query.dashed:
        properties += [
            dashboard.DynamicConfigValue("custom.lineStyle", {"fill": "dash", "dash": [8, 6]}),
            dashboard.DynamicConfigValue("custom.fillOpacity", 0),
            dashboard.DynamicConfigValue("custom.lineWidth", 2),
            dashboard.DynamicConfigValue("custom.drawStyle", "line"),
            dashboard.DynamicConfigValue("custom.stacking", {"group": "A", "mode": "none"}),
        ]
    return properties


def _color(name: str) -> dashboard.DynamicConfigValue:
    return dashboard.DynamicConfigValue("color", {"mode": "fixed", "fixedColor": name})


def _build_thresholds(thresholds: Thresholds) -> builders.ThresholdsConfig:
    steps = [dashboard.Threshold(value=value, color=color) for value, color in thresholds]
    return builders.ThresholdsConfig().mode(dashboard.ThresholdsMode.ABSOLUTE).steps(steps)


def _build_mapping(texts: Mapping[str, tuple[str, str]]) -> dashboard.ValueMap:
    return dashboard.ValueMap(
        options={
            value: dashboard.ValueMappingResult(text=text, color=color, index=index)
            for index, (value, (text, color)) in enumerate(texts.items())
        }
    )
