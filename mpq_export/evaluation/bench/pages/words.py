"""Figures as readers get them, the same on all pages."""

from __future__ import annotations

from ...estimates import Estimate
from ..metrics import SENSES, Metric
from ..profile import MOST_TAKEN_OFF, LayerCost, Profile
from ..report import Report, RowReport, Times
from ..rows import Kind

_LISTED = 3
ROUNDS = (
    "A round is the mean of as many steps as fill a tenth of a second, or one drawing: its median "
    "is what rows are compared by. Tails of steps are of single steps."
)


def interval(estimate: Estimate, digits: int = 2, factor: float = 1) -> str:
    """A figure and its interval, where it has one."""
    figures = (estimate.value, estimate.low, estimate.high)
    value, low, high = (f"{factor * figure:.{digits}f}" for figure in figures)
    return value if low == high else f"{value} ({low} to {high})"


def milliseconds(times: Times | None) -> str:
    """The median with its interval, or that there is none."""
    return "not run" if times is None else interval(times.p50)


def percentiles(times: Times | None) -> str:
    """90th and 99th, and before them the median where they are of single steps."""
    if times is None:
        return ""
    tails = f"{times.p90:.2f} / {times.p99:.2f}"
    return tails if times.single_p50 is None else f"{times.single_p50:.2f} / {tails}"


def quality_cell(row: RowReport, metric: Metric) -> str:
    """A metric of a row; empty where it was not measured."""
    if metric not in row.quality:
        return ""
    if metric is Metric.ACCURACY:
        return f"{interval(row.quality[metric], 1, 100)} %"
    return interval(row.quality[metric], 3 if metric is Metric.SSIM else 2)


def metrics_of(report: Report) -> list[Metric]:
    """Those that some row has."""
    return [metric for metric in SENSES if any(metric in row.quality for row in report.rows)]


def megabytes(count: int | None) -> str:
    """Bytes for people."""
    return "" if count is None else f"{count / 1e6:.2f}" if count < 1e7 else f"{count / 1e6:.0f}"


def verdicts(report: Report) -> list[str]:
    """A sentence for every row against the first, on what is told apart and what is not."""
    sentences = []
    titles = {row.name: row.title for row in report.rows}
    for row in report.rows:
        own = [entry for entry in report.comparisons if entry.row == row.name]
        if not own:
            continue
        by_verdict = {
            verdict: [_figure(entry.figure) for entry in own if entry.verdict == verdict]
            for verdict in ("better", "worse", "not told apart")
        }
        said = [f"{verdict}: {', '.join(names)}" for verdict, names in by_verdict.items() if names]
        sentences.append(f"{row.title} against {titles[own[0].to]}: {'; '.join(said)}.")
    return sentences


def told_by_none(report: Report) -> list[str]:
    """A sentence for every metric that tells no row apart from the first."""
    found: dict[str, set[str]] = {}
    for entry in report.comparisons:
        found.setdefault(entry.figure, set()).add(entry.verdict)
    return [
        f"{sentence(_figure(figure))} tells no row apart from the first."
        for figure, said in found.items()
        if said == {"not told apart"}
    ]


def _figure(name: str) -> str:
    known = {metric.value: sense.title for metric, sense in SENSES.items()}
    return known.get(name, name)


def cost_sentences(row: RowReport) -> list[str]:
    """The biggest costs of a row and what would remove them."""
    if row.profile is None:
        return []
    return [
        f"{sentence(cost.title)}: {cost.ms:.2f} ms, {cost.share:.0%}. {cost.remedy}"
        for cost in row.profile.costs
    ]


def sentence(said: str) -> str:
    """With a capital at its begin."""
    return said[:1].upper() + said[1:]


def not_measured(report: Report) -> list[str]:
    """A sentence for everything that is not, and for every row that failed."""
    found = [f"{sentence(what)}: {why}." for what, why in report.not_measured.items()]
    return found + [f"{row.title}: {row.failure}." for row in report.rows if row.failure]


def step_times(profile: Profile) -> str:
    """The step that shares are of, and how the profiler was kept out of it."""
    if profile.profiled_ms is None:
        return f"{profile.run_ms:.2f} ms under the profiler"
    if not profile.node_cost_ms:
        return f"{profile.run_ms:.2f} ms under the profiler, and no less without it"
    said = f"{profile.run_ms:.2f} ms a step, {profile.profiled_ms:.2f} ms under the profiler"
    return f"{said}, whose {1e3 * profile.node_cost_ms:.1f} us a node are taken off"


def rate(layer: LayerCost) -> str:
    """Of its products, or why there is none; empty where nothing is known."""
    if layer.macs_per_ns is None:
        if layer.profiler_share <= MOST_TAKEN_OFF:
            return ""
        return f"no rate: {layer.profiler_share:.0%} of its profiled time was the profiler's"
    said = f"{layer.macs_per_ns:.1f} MAC/ns"
    return said if layer.of_peak is None else f"{said} ({layer.of_peak:.0%} of peak)"


def peaks(profile: Profile) -> str:
    """Of the processor's products, by their type."""
    of_types = profile.peaks_macs_per_ns.items()
    return ", ".join(f"{peak:.0f} MAC/ns in {kind}" for kind, peak in of_types)


def runs_on_gpu(report: Report) -> bool:
    """Whether some row's memory on a GPU is known, which then has a column."""
    return any(row.gpu_bytes is not None for row in report.rows)


def runs_of(report: Report) -> list[tuple[str, str]]:
    """Which rows ran how."""
    found: dict[str, list[RowReport]] = {}
    for row in report.rows:
        if row.runs_as:
            found.setdefault(row.runs_as, []).append(row)
    return [(_together(rows, report), how) for how, rows in found.items()]


def _together(rows: list[RowReport], report: Report) -> str:
    """Rows by their titles, or what they have in common."""
    bundles = [row for row in report.rows if row.kind == Kind.BUNDLE]
    ran = [row for row in bundles if row.runs_as]
    if len(rows) > _LISTED and rows == ran:
        return "all bundles" if len(ran) == len(bundles) else "all bundles that ran"
    return ", ".join(row.title for row in rows)
