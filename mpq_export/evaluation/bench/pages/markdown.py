"""``report.md``: the tables, for pull requests."""

from __future__ import annotations

import re

from ..metrics import SENSES
from ..report import Report, RowReport
from .marks import MOST_NAMED
from .words import (
    ROUNDS,
    cost_sentences,
    megabytes,
    metrics_of,
    milliseconds,
    not_measured,
    percentiles,
    quality_cell,
    runs_on_gpu,
    step_times,
    told_by_none,
    verdicts,
)


def markdown_page(report: Report, picture: str) -> str:
    """The whole page; ``picture`` is the file beside it."""
    setting = report.setting
    lines = [
        "# Latency against quality",
        "",
        f"Command: `{report.command}`.",
        f"{setting.model}, {setting.scheduler}, {setting.steps} steps; {setting.rounds} rounds in "
        f"turns after {setting.warm_up_steps} steps of warm-up, batch {setting.batch}, "
        f"{setting.threads} threads; {setting.num_images} images, seed {setting.seed}.",
        *(f"**{note}**" for note in report.notes),
        "",
        f"![time against quality]({picture})",
        "",
        *told_by_none(report),
        "",
        *_times(report),
        *_quality(report),
        *_folded(report, "Every row against the first", _verdicts(report)),
        *_folded(report, "Why rows are not faster", _costs(report)),
        *_not_measured(report),
        "Environment: " + ", ".join(f"{k} {v}" for k, v in report.environment.items()) + ".",
        "",
    ]
    return "\n".join(lines)


def _times(report: Report) -> list[str]:
    on_gpu = runs_on_gpu(report)
    gpu = "| GPU MB " if on_gpu else ""
    lines = [
        "| model | ms per step, p50 of rounds (95 %) | single steps, p50 / p90 / p99 "
        "| ms per image, p50 | p90 / p99 | load s "
        f"| peak MB {gpu}| file MB | weight bits | activation bits |",
        "|---" * (11 if on_gpu else 10) + "|",
    ]
    for row in report.rows:
        taken = f"| {megabytes(row.gpu_bytes)} " if on_gpu else ""
        load = "" if row.load_seconds is None else f"{row.load_seconds:.2f}"
        lines.append(
            f"| {_cell(row.title)} | {milliseconds(row.step)} | {percentiles(row.step)} "
            f"| {milliseconds(row.image)} | {percentiles(row.image)} | {load} "
            f"| {megabytes(row.peak_bytes)} {taken}| {megabytes(row.file_bytes)} "
            f"| {row.weight_bits:.2f} | {row.activation_bits} |"
        )
    return [*lines, "", ROUNDS, ""]


def _quality(report: Report) -> list[str]:
    metrics = metrics_of(report)
    if not metrics:
        return []
    heads = " | ".join(
        SENSES[metric].title + (" (dB)" if SENSES[metric].unit == "dB" else "")
        for metric in metrics
    )
    lines = [f"| model | {heads} |", "|---" * (1 + len(metrics)) + "|"]
    for row in report.rows:
        cells = " | ".join(quality_cell(row, metric) for metric in metrics)
        lines.append(f"| {_cell(row.title)} | {cells} |")
    return [
        *lines,
        "",
        "In brackets 95 % intervals by the bootstrap; what overlaps is not called different.",
        "",
    ]


def _verdicts(report: Report) -> list[str]:
    sentences = [f"- {sentence}" for sentence in verdicts(report)]
    return [*sentences, ""] if sentences else []


def _folded(report: Report, what: str, lines: list[str]) -> list[str]:
    """Lines that would be pages of many rows, behind a heading that opens them."""
    if len(report.rows) <= MOST_NAMED or not lines:
        return lines
    return [f"<details><summary>{what}</summary>", "", *lines, "</details>", ""]


def _cell(text: str) -> str:
    """Text that stays within its cell of a table, and is no markup."""
    return re.sub(r"([\\|<>*_`\[\]])", r"\\\1", " ".join(text.split()))


def _costs(report: Report) -> list[str]:
    lines = []
    for row in report.rows:
        sentences = cost_sentences(row)
        if sentences:
            lines += [f"**Why {row.title} is not faster** ({_runs(row)})", ""]
            lines += [f"{number}. {said}" for number, said in enumerate(sentences, 1)]
            lines.append("")
    return lines


def _runs(row: RowReport) -> str:
    assert row.profile is not None
    return f"{step_times(row.profile)}; kernels: {row.profile.kernels}"


def _not_measured(report: Report) -> list[str]:
    said = not_measured(report)
    return ["Not measured:", "", *(f"- {one}" for one in said), ""] if said else []
