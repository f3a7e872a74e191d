"""Plots of curves and deliveries."""

import math
from itertools import pairwise
from pathlib import Path
from textwrap import fill

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, PercentFormatter

from device_runner import drawing
from device_runner.errors import AsrDeployError
from toolchain.delivery.measurements import Delivery, break_even
from toolchain.scenario.points import Curve, pareto

MARKERS = "os^vDP*X"
MOST_NAMED = 20  # the names of more points would overlap


def plot_curve(curve: Curve, path: str | Path) -> None:
    """Plot WER over cSize with intervals, the anchor as a line and the WER range shaded (after Figure 2.10-1).

    Example:
        >>> curve = asrdeploy.sweep("ectcq", "results/ectcq")  # doctest: +SKIP
        >>> asrdeploy.plot_curve(curve, "results/ectcq/curve.png")  # doctest: +SKIP

    Args:
        curve: Curve to plot.
        path: File to write. Its suffix selects the format, such as ``.png`` or ``.svg``.

    Raises:
        AsrDeployError: If the curve has no points, or the suffix is not supported.
    """
    figure = drawing.new_figure(Path(path), (8.5, 5.2))
    if not curve.points:
        raise AsrDeployError("The curve has no points to plot.")
    axes = figure.subplots()
    top = curve.anchor_wer + curve.wer_range
    axes.axhspan(curve.anchor_wer, top, color="tab:green", alpha=0.08, label=f"WER range: anchor + {100 * curve.wer_range:.0f} points")
    axes.axhline(curve.anchor_wer, color="tab:green", linestyle="--", linewidth=1.2, label=f"anchor, fp32: {curve.anchor_wer:.2%}")
    for number, method in enumerate(dict.fromkeys(point.method for point in curve.points)):
        points = sorted((point for point in curve.points if point.method == method), key=lambda point: point.c_size)
        below = [max(point.wer - point.wer_low, 0) for point in points]
        above = [max(point.wer_high - point.wer, 0) for point in points]
        axes.errorbar(
            [point.c_size for point in points],
            [point.wer for point in points],
            yerr=[below, above],
            color=f"C{number}",
            marker=MARKERS[number % len(MARKERS)],
            linestyle="-" if points[0].sent == "bitstream" else "none",
            linewidth=1,
            elinewidth=0.5,
            capsize=3,
            label=drawing.label(f"{method}: {points[0].sent} sent to the UE" if points[0].sent != method else f"{method} sent to the UE"),
        )
        for point in points if len(curve.points) <= MOST_NAMED else ():
            # Slanted, because horizontal names would overlap on the flat part of the curve.
            axes.annotate(
                point.configuration, (point.c_size, point.wer), textcoords="offset points", xytext=(3, 4), fontsize=7, rotation=55
            )
    front = pareto(curve.points)
    axes.plot(
        [each.c_size for each in front], [each.wer for each in front], color="0.6", linewidth=4, alpha=0.4, zorder=0, label="Pareto front"
    )
    # Points far above the range are only in the table, because they would compress the axis.
    axes.set_ylim(bottom=0, top=max(top * 1.25, 1.15 * max((point.wer_high for point in curve.in_range), default=top)))
    _logarithmic(axes, 0.8 * min(point.c_size for point in curve.points), 1.3)
    axes.set_xlabel("cSize: bits transmitted / bits of the anchor (numParam × 32), logarithmic scale")
    axes.set_ylabel(f"WER on {curve.data} {curve.split}")
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=1))
    axes.set_title(f"{curve.test_case}: WER over transmitted size (bars: 95 % bootstrap interval)")
    axes.grid(alpha=0.3)
    _legend_below(figure, axes)
    drawing.save(figure, Path(path), 130)


def plot_delivery(delivery: Delivery, path: Path) -> None:
    """Plot the time to first transcript over the rate, and the rates below which a smaller bitstream is faster.

    Args:
        delivery: Measured delivery; markers are measured times, lines are computed.
        path: File to write; its suffix selects the format.
    """
    figure = drawing.new_figure(Path(path), (8.5, 5.2))
    axes = figure.subplots()
    measured = [each.bits_per_second or np.inf for each in delivery.bitstreams[0].receptions]
    rates = np.geomspace(min(measured) / 3, 30 * max(measured), 400)
    for number, each in enumerate(delivery.bitstreams):
        size = each.receptions[0].size_bytes / 1e6
        axes.plot(rates / 1e6, each.seconds_at(rates), color=f"C{number}", linewidth=1, label=drawing.label(f"{each.name}: {size:.3g} MB"))
        totals = [reception.seconds.total for reception in each.receptions]
        axes.plot(np.array(measured) / 1e6, totals, MARKERS[number % len(MARKERS)], color=f"C{number}")
    for number, (smaller, larger) in enumerate(pairwise(delivery.bitstreams)):
        rate = break_even(smaller, larger)
        if rate is not None and rates[0] < rate < rates[-1]:
            sentence = f"{smaller.name} is faster than {larger.name} below {rate / 1e6:.3g} Mbit/s"
            axes.axvline(rate / 1e6, color=f"C{number}", linestyle=":", label=drawing.label(sentence))
    first = delivery.bitstreams[0].receptions[0]
    axes.set(xscale="log", yscale="log", xlabel="transfer rate of the content in Mbit/s", ylabel="time to first transcript in s")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter("{x:g}")
    axes.set_title(f"{first.model}{'' if first.trained else ' (random weights)'}: transfer, decoding, loading, first inference")
    axes.grid(alpha=0.3, which="both")
    _legend_below(figure, axes)
    drawing.save(figure, path, 130)


def _logarithmic(axes: Axes, low: float, high: float) -> None:
    """Give the x axis a logarithmic scale with several readable labels in every decade."""
    axes.set_xscale("log")
    axes.set_xlim(low, high)
    digits = (1, 1.5, 2, 3, 4, 5, 7) if math.log10(high / low) < 2 else (1, 2, 5)
    axes.xaxis.set_major_locator(LogLocator(subs=digits, numticks=99))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter(NullFormatter())


def _legend_below(figure: Figure, axes: Axes) -> None:
    """Put the legend below the plot and enlarge the figure by its height."""
    handles, labels = axes.get_legend_handles_labels()
    labels = [fill(label, 62) for label in labels]
    lines = sum(1 + label.count("\n") for label in labels)
    figure.set_figheight(figure.get_figheight() + 0.17 * math.ceil(lines / 2))
    figure.legend(handles, labels, loc="outside lower center", ncols=2, fontsize=8)
