"""Tables and plots of latency results."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich.table import Table

from device_runner import drawing
from device_runner.errors import AsrDeployError
from device_runner.latency import LatencyResult

FUNCTION_ONLY_NOTE = "emulated device: function only, the times say nothing about a phone"


def summary_table(result: LatencyResult) -> Table:
    """Return a table with one row per audio length and times in milliseconds.

    The caption shows the load time, the first inference, the peak memory and why the result is not valid.
    """
    cold = result.cold
    memory = "unknown" if cold.median_memory_bytes is None else f"{cold.median_memory_bytes / 1e6:.1f} MB over the baseline"
    caption = (
        f"load {cold.median_load_seconds * 1e3:.1f} ms, first inference of {cold.audio_seconds:g} s "
        f"{cold.median_first_inference_seconds * 1e3:.1f} ms, peak memory {memory} "
        f"(medians over new processes: {len(cold.starts)})"
    )
    if result.reasons:
        caption += "\nnot valid:\n" + "\n".join(result.reasons)
    title = f"Latency of {_label(result)}" + f"\n{FUNCTION_ONLY_NOTE}" * result.function_only
    table = Table(title=title, caption=caption)
    for column in ("audio s", "p50 ms", "p90 ms", "p95 ms", "p99 ms", "RTF", "n"):
        table.add_column(column, justify="right")
    for each in result.steady:
        times = ("–" if value is None else f"{value * 1e3:.2f}" for value in (each.p50, each.p90, each.p95, each.p99))
        table.add_row(f"{each.audio_seconds:g}", *times, f"{each.real_time_factor:.4f}", str(each.n))
    return table


def plot(results: Sequence[LatencyResult], path: Path) -> None:
    """Plot latency against audio length, with one line per result: p50 with a whisker up to p90.

    If there are results of real devices, those of emulated devices are left out.

    Args:
        results: Results to plot.
        path: Image file; its suffix selects the format.

    Raises:
        AsrDeployError: If there is no result, matplotlib does not support the suffix, or the file cannot be written.
    """
    if not results:
        raise AsrDeployError("There is no latency result to plot. Give at least one.")
    real = [result for result in results if not result.function_only]
    results = real or results
    figure = drawing.new_figure(path, (8, 5))
    untrained = sorted({result.artifact.model for result in results if not result.artifact.trained})
    title = "Latency of the runtime call (p50, whiskers up to p90)" + f"\nrandom weights: {', '.join(untrained)}" * bool(untrained)
    if not real:
        title += f"\n{FUNCTION_ONLY_NOTE}"
    axes = figure.add_subplot()
    for result in results:
        lengths, p50, p90 = np.array([(each.audio_seconds, each.p50 * 1e3, each.p90 * 1e3) for each in result.steady]).T
        # Rounding may put p90 slightly below p50, and matplotlib rejects negative whiskers.
        whiskers = [0 * p50, np.maximum(p90 - p50, 0)]
        name = _label(result) + " (not valid)" * (not result.valid)
        axes.errorbar(lengths, p50, yerr=whiskers, label=drawing.label(name), marker="o", capsize=3)
    axes.set(title=title, xlabel="audio length (s)", ylabel="latency (ms)", xlim=(0, None), ylim=(0, None))
    axes.legend()
    drawing.save(figure, path, 150)


def _label(result: LatencyResult) -> str:
    artifact = result.artifact
    weights = "" if artifact.trained else ", random weights"
    where = "" if result.device == "local" else f", {result.device}"
    return f"{artifact.model} {artifact.format} {artifact.scheme}{weights}, {result.threads} thread{'s' * (result.threads > 1)}{where}"
