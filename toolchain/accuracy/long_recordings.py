"""Transcribers of long recordings, by overlapping windows; see ``device_runner.windows``."""

import math
from dataclasses import replace
from typing import TYPE_CHECKING

from device_runner.errors import AsrDeployError
from device_runner.windows import OnWindow, WindowedEngine, Windows

if TYPE_CHECKING:
    from toolchain.accuracy.transcriber import Transcriber

# Seconds, chosen on dev-clean with `python -m benchmarks.long_recordings`: longer windows are slower and err no less.
WINDOW, OVERLAP = 10.0, 1.0
# Seconds up to which recordings stay whole where windows are chosen automatically: what artifacts accept unless told otherwise.
WHOLE = 35.0


def windowed(
    transcriber: "Transcriber", window: float = WINDOW, overlap: float = OVERLAP, progress: OnWindow | None = None
) -> "Transcriber":
    """Return a transcriber that divides recordings longer than a window; see ``Transcriber.windowed``."""
    windows = _windows(transcriber, window, overlap)
    return _through(transcriber, windows, progress)


def windowed_if_long(
    transcriber: "Transcriber", window: float | None = None, overlap: float | None = None, progress: OnWindow | None = None
) -> "Transcriber":
    """Return a transcriber for recordings of any length, which only divides the long ones.

    Without ``window`` and ``overlap``, recordings up to ``WHOLE`` seconds stay whole, or up to the artifact's maximum if that is less.
    A notice says once when windows are used. With either, all recordings longer than a window are divided.

    Args:
        transcriber: What transcribes on this machine.
        window: Length of the windows in seconds (default: ``WINDOW``, or the artifact's maximum if that is less).
        overlap: Overlap of the windows in seconds (default: ``OVERLAP``, or a quarter of a shorter window).
        progress: See ``WindowedEngine``.

    Raises:
        AsrDeployError: See ``Transcriber.windowed``.
    """
    rate, longest = transcriber.sample_rate, transcriber.maximum_samples
    automatic = window is None and overlap is None
    # Rounded down to ms, so that notices do not show 15 digits.
    window = window if window is not None else min(WINDOW, WINDOW if longest is None else math.floor(1000 * longest / rate) / 1000)
    overlap = overlap if overlap is not None else min(OVERLAP, round(window / 4, 3))
    windows = _windows(transcriber, window, overlap)
    if automatic:
        whole = min(round(WHOLE * rate), longest or round(WHOLE * rate))
        windows = replace(windows, whole=max(whole, windows.window), automatic=True)
    return _through(transcriber, windows, progress)


def _windows(transcriber: "Transcriber", window: float, overlap: float) -> Windows:
    """Return windows given in seconds, in samples of the transcriber."""
    if transcriber.windows is not None:
        raise AsrDeployError(f"{transcriber.configuration} has windows already. Use the transcriber without windows.")
    for option, value, example in (("--window", window, WINDOW), ("--overlap", overlap, OVERLAP)):
        number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        if not number or value < 0 or (value == 0 and option == "--window"):
            given = f"{value:g}" if isinstance(value, float) else value
            raise AsrDeployError(f"{option} {given} is not a length of time. Give seconds, for example {example:g}.")
    rate, longest = transcriber.sample_rate, transcriber.maximum_samples
    if longest is not None and round(window * rate) > longest:
        raise AsrDeployError(
            f"--window {window:g} is too long: {transcriber.configuration} accepts at most {longest / rate:.2f} s. "
            "Use a shorter window, or export the model with a larger --max-seconds."
        )
    samples = round(window * rate)
    return Windows(samples, round(overlap * rate), samples, transcriber.minimum_samples, rate)


def _through(transcriber: "Transcriber", windows: Windows, progress: OnWindow | None) -> "Transcriber":
    if transcriber.engine is None:
        raise AsrDeployError("--window applies to this machine, and a device runs whole recordings. Leave --window or --device out.")
    opener = transcriber.opener
    return replace(
        transcriber,
        engine=WindowedEngine(transcriber.engine, windows, progress),
        opener=None if opener is None else lambda threads: WindowedEngine(opener(threads), windows, progress),
        maximum_samples=None,
        windows=windows,
    )
