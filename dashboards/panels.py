"""What our panels have in common, as Grafana's own models."""

from dataclasses import dataclass, field
from typing import Final, Literal

from grafana_foundation_sdk.builders import (
    common,
    dashboard,
    prometheus,
    stat,
    timeseries,
)
from grafana_foundation_sdk.models import common as common_models
from grafana_foundation_sdk.models import dashboard as models

from dashboards.names import ENVIRONMENT, SERVICE, label_of, names_of
from otel_intercept import semconv

PROMETHEUS_TYPE: Final = "prometheus"
JAEGER_UID: Final = "otel-intercept-jaeger"
TAG: Final = "otel_intercept"
SCOPE: Final = (f'{SERVICE}=~"$service"', f'{ENVIRONMENT}=~"$environment"')
MODEL: Final = label_of(semconv.GEN_AI_REQUEST_MODEL)
DIALECT: Final = label_of(semconv.EXCHANGE_DIALECT)
ERROR_TYPE: Final = label_of(semconv.ERROR_TYPE)
OF_MODEL: Final = f'{MODEL}=~"$model"'
OF_ERROR: Final = f'{ERROR_TYPE}=~"$error_type"'
FAILED_WAIT: Final = f'{ERROR_TYPE}!=""'
RATE: Final = "$__rate_interval"
RANGE: Final = "$__range"
_WIDTH: Final = 24

Unit = Literal["short", "s", "percentunit", "cps", "bytes"]


@dataclass(frozen=True, slots=True)
class Query:
    """One query of a panel.

    Args:
        expression: PromQL, with Grafana's variables.
        legend: How its series are called.
    """

    expression: str
    legend: str


@dataclass(frozen=True, slots=True)
class Panel:
    """One panel.

    Args:
        title: What it shows.
        description: What it means, and what to do when it looks bad.
        unit: The unit of its values.
        queries: Where its data comes from.
        single: Whether it is one number rather than a graph.
        width: Of the 24 columns of a dashboard.
        stacked: Whether its series add up.
        warn: From where it is orange; None for never.
        alarm: From where it is red; None for never.
        top: The end of the scale; None for what fits the data.
        exemplars: Whether exemplars are shown although the series add up.
        height: Of a graph, in the rows of Grafana's grid; more for long legends.
    """

    title: str
    description: str
    unit: Unit
    queries: tuple[Query, ...]
    single: bool = False
    width: int = 12
    stacked: bool = False
    warn: float | None = None
    alarm: float | None = None
    top: float | None = None
    exemplars: bool = False
    height: int = 8


@dataclass(frozen=True, slots=True)
class Row:
    """A heading and its panels."""

    title: str
    panels: tuple[Panel, ...]


@dataclass(frozen=True, slots=True)
class Board:
    """One dashboard.

    Args:
        uid: Its address.
        title: What it is called.
        description: Whom it is for.
        rows: What is on it.
        variables: Names of its variables, besides the data source.
    """

    uid: str
    title: str
    description: str
    rows: tuple[Row, ...]
    variables: tuple[str, ...] = ("service", "environment", "model", "error_type")
    tags: tuple[str, ...] = field(default=(TAG,))


_VARIABLES: Final = {
    "service": (names_of(semconv.ROLLOUTS_ACTIVE).sample, SERVICE),
    "environment": (names_of(semconv.ROLLOUTS_ACTIVE).sample, ENVIRONMENT),
    "model": (names_of(semconv.EXCHANGE_DURATION).count, MODEL),
    "error_type": (names_of(semconv.FAILURES).sample, ERROR_TYPE),
}


def build(board: Board) -> models.Dashboard:
    """Return a dashboard in Grafana's own model."""
    builder = (
        dashboard.Dashboard(board.title)
        .uid(board.uid)
        .description(board.description)
        .tags([*board.tags])
        .editable()
        .tooltip(models.DashboardCursorSync.CROSSHAIR)
        .time("now-3h", "now")
        .refresh("30s")
        .timezone("browser")
        .link(
            dashboard.DashboardLink("otel_intercept")
            .type(models.DashboardLinkType.DASHBOARDS)
            .tags([TAG])
            .as_dropdown(as_dropdown=True)
            .keep_time(keep_time=True)
            .include_vars(include_vars=True)
        )
        .with_variable(
            dashboard.DatasourceVariable("datasource")
            .label("Prometheus")
            .type(PROMETHEUS_TYPE)
        )
    )
    for name in board.variables:
        builder = builder.with_variable(_variable(name))
    number = 0
    top = 0
    for row in board.rows:
        builder = builder.with_row(
            dashboard.Row(row.title).grid_pos(models.GridPos(h=1, w=_WIDTH, x=0, y=top))
        )
        top += 1
        left = 0
        height = 0
        for panel in row.panels:
            number += 1
            if left + panel.width > _WIDTH:
                left, top = 0, top + height
            height = 5 if panel.single else panel.height
            place = models.GridPos(h=height, w=panel.width, x=left, y=top)
            left += panel.width
            built = _stat(panel) if panel.single else _graph(panel)
            builder = builder.with_panel(built.id(number).grid_pos(place))
        top += height
    return builder.build()


def _variable(name: str) -> dashboard.QueryVariable:
    series, label = _VARIABLES[name]
    if name != "service":
        series = f'{series}{{{SERVICE}=~"$service"}}'
    return (
        dashboard.QueryVariable(name)
        .label(name.replace("_", " "))
        .datasource(_source())
        .query(f"label_values({series}, {label})")
        .refresh(models.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(models.VariableSort.ALPHABETICAL_ASC)
        .multi(multi=True)
        .include_all(include_all=True)
        # Also what has no such label at all: an environment need not be named.
        .all_value(".*")
        .current(models.VariableOption(text="All", value="$__all", selected=True))
    )


def _source() -> common_models.DataSourceRef:
    return common_models.DataSourceRef(type_val=PROMETHEUS_TYPE, uid="${datasource}")


def _graph(panel: Panel) -> timeseries.Panel:
    built = (
        timeseries.Panel()
        .title(panel.title)
        .description(panel.description)
        .datasource(_source())
        .unit(panel.unit)
        .min(0)
        .fill_opacity(30 if panel.stacked else 8)
        .line_width(1)
        .show_points(common_models.VisibilityMode.NEVER)
        .thresholds(_thresholds(panel))
        .legend(
            common.VizLegendOptions()
            .show_legend(show_legend=True)
            .display_mode(common_models.LegendDisplayMode.LIST)
            .placement(common_models.LegendPlacement.BOTTOM)
        )
        .tooltip(
            common.VizTooltipOptions()
            .mode(common_models.TooltipDisplayMode.MULTI)
            .sort(common_models.SortOrder.DESCENDING)
        )
    )
    if panel.top is not None:
        built = built.max(panel.top)
    if panel.warn is not None or panel.alarm is not None:
        built = built.thresholds_style(
            common.GraphThresholdsStyleConfig().mode(
                common_models.GraphThresholdsStyleMode.DASHED
            )
        )
    if panel.stacked:
        built = built.stacking(
            common.StackingConfig().mode(common_models.StackingMode.NORMAL).group("A")
        )
    for ref, query in zip("ABCDEFGH", panel.queries, strict=False):
        built = built.with_target(
            _target(ref, query)
            .range()
            .exemplar(exemplar=panel.exemplars or not panel.stacked)
        )
    return built


def _stat(panel: Panel) -> stat.Panel:
    built = (
        stat.Panel()
        .title(panel.title)
        .description(panel.description)
        .datasource(_source())
        .unit(panel.unit)
        .thresholds(_thresholds(panel))
        .color_mode(common_models.BigValueColorMode.VALUE)
        .graph_mode(common_models.BigValueGraphMode.NONE)
        .reduce_options(
            common.ReduceDataOptions().calcs(["lastNotNull"]).values(values=False)
        )
    )
    for ref, query in zip("ABCDEFGH", panel.queries, strict=False):
        built = built.with_target(_target(ref, query).instant())
    return built


def _target(ref: str, query: Query) -> prometheus.Dataquery:
    return (
        prometheus.Dataquery()
        .ref_id(ref)
        .datasource(_source())
        .expr(query.expression)
        .legend_format(query.legend)
    )


def _thresholds(panel: Panel) -> dashboard.ThresholdsConfig:
    steps = [models.Threshold(value=None, color="green")]
    if panel.warn is not None:
        steps.append(models.Threshold(value=panel.warn, color="orange"))
    if panel.alarm is not None:
        steps.append(models.Threshold(value=panel.alarm, color="red"))
    return (
        dashboard.ThresholdsConfig().mode(models.ThresholdsMode.ABSOLUTE).steps(steps)
    )
