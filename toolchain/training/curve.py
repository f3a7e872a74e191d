"""Plot of a training log."""

import csv
import itertools
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot as plt  # must follow the choice of the backend
from matplotlib.ticker import PercentFormatter

from device_runner import drawing

KNOWN = ("phase", "step", "seconds", "audio_hours", "rate", "loss")


def plot_log(log: Path, path: Path) -> None:
    """Plot the loss and WER values of a training log over the hours of training audio.

    Args:
        log: File ``log.csv`` of a run.
        path: Image file to write.
    """
    with log.open(newline="") as file:
        rows = list(csv.DictReader(file))
    hours = [float(row["audio_hours"]) for row in rows]
    figure, (upper, lower) = plt.subplots(2, 1, figsize=(8, 6), sharex=True, layout="constrained")
    upper.plot(hours, [float(row["loss"]) for row in rows], color="tab:gray")
    upper.set_yscale("log")
    upper.set_ylabel("CTC loss on augmented speech")
    for name in (each for each in rows[0] if each not in KNOWN):
        lower.plot(hours, [float(row[name]) for row in rows], label=drawing.label(name.replace("_", " ")))
    for axes in (upper, lower):
        for before, after in itertools.pairwise(rows):
            if before["phase"] != after["phase"]:
                axes.axvline(float(before["audio_hours"]), color="black", linewidth=0.8, linestyle=":")
        axes.grid(alpha=0.3)
    lower.set_ylim(0, 0.3)
    lower.yaxis.set_major_formatter(PercentFormatter(1.0))
    lower.set_ylabel("WER (averaged weights)")
    lower.set_xlabel("training audio [hours]; dotted: start of the phase with all recorded speakers")
    lower.legend(fontsize=8)
    upper.set_title("Training of DIGITS_ASR_TINY")
    drawing.save(figure, path, 120)
    plt.close(figure)
