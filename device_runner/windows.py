"""Long recordings: a model runs on overlapping windows, and its logits are joined at the centres of the overlaps."""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np

from device_runner.engines import Engine, Logits, Waveform, check_length
from device_runner.errors import AsrDeployError, say_once

PROBE = 64  # samples by which the search for the next frame begins; most models have strides of 320 samples and more

OnWindow = Callable[[float, float], None]


@dataclass(frozen=True)
class Frames:
    """Where the frames of a model lie: ``samples`` samples give ``(samples - offset) // stride`` frames.

    This holds for every stack of convolutions (Dumoulin and Visin 2016, relationship 6, applied layer by layer).

    Args:
        stride: Samples from a frame to the next.
        offset: Samples that give no frame; the receptive field less the stride if nothing is padded.
    """

    stride: int
    offset: int

    def of(self, samples: int) -> int:
        """Return the number of frames of a waveform."""
        return (samples - self.offset) // self.stride


@dataclass(frozen=True)
class Windows:
    """How recordings are divided, in samples.

    Args:
        window: Longest window.
        overlap: Smallest overlap of neighbouring windows.
        whole: Length up to which recordings are not divided; at least ``window``.
        shortest: Shortest waveform that the engine accepts.
        sample_rate: Sample rate in hertz.
        automatic: The user asked for no windows, so that a notice says that they are used.
    """

    window: int
    overlap: int
    whole: int
    shortest: int
    sample_rate: int
    automatic: bool = False

    def __post_init__(self) -> None:
        seconds = {name: getattr(self, name) / self.sample_rate for name in ("window", "overlap", "shortest")}
        if not 0 <= self.overlap < self.window:
            raise AsrDeployError(
                f"--overlap {seconds['overlap']:g} must be 0 or more and less than --window, which is {seconds['window']:g} s."
            )
        if self.window < self.shortest + self.overlap:
            raise AsrDeployError(
                f"--window {seconds['window']:g} is too short: with --overlap {seconds['overlap']:g}, the model requires "
                f"at least {(self.shortest + self.overlap) / self.sample_rate:.3f} s. Use a longer window."
            )


class WindowedEngine:
    """An engine for recordings of any length, whose memory depends on the window and not on the recording.

    The logits have as many frames as those of the whole recording. They are the same where the model's context ends inside half an
    overlap. Models with attention see the whole window, so that their logits differ a little.

    Args:
        engine: Engine of a model; it runs on one window at a time.
        windows: How recordings are divided.
        progress: Called after every window with the finished and all seconds of a recording that is divided.
    """

    def __init__(self, engine: Engine, windows: Windows, progress: OnWindow | None = None) -> None:
        self._engine, self._windows, self._progress = engine, windows, progress
        self._frames: Frames | None = None
        self._finding = threading.Lock()  # the threads of an evaluation share this engine

    @property
    def frames(self) -> Frames:
        """Where the frames of the engine lie; found once, by short runs.

        Raises:
            AsrDeployError: See ``find_frames``.
        """
        with self._finding:
            if self._frames is None:
                self._frames = find_frames(self._engine, self._windows.shortest, self._windows.window)
            return self._frames

    def logits(self, waveform: Waveform) -> Logits:
        """Run the model; see ``Engine.logits``.

        Raises:
            AsrDeployError: The engine fails, the waveform is too short, or the frames of the model are not evenly spaced.
        """
        check_length(waveform, self._windows.shortest)
        if waveform.size <= self._windows.whole:
            return self._engine.logits(waveform)
        windows, frames = self._windows, self.frames
        if windows.automatic:
            say_once(
                f"Recordings longer than {windows.whole / windows.sample_rate:g} s are transcribed in windows of "
                f"{windows.window / windows.sample_rate:g} s that overlap by {windows.overlap / windows.sample_rate:g} s. "
                "Choose others with --window and --overlap."
            )
        total = frames.of(waveform.size)
        # Frames of a window that stays the longest allowed one with up to stride - 1 samples more, as at the end of a recording.
        width = frames.of(windows.window + 1) - 1
        step = width - -(-windows.overlap // frames.stride)
        if step < 1:
            raise AsrDeployError(
                f"--window {windows.window / windows.sample_rate:g} is too short for --overlap {windows.overlap / windows.sample_rate:g}: "
                f"the model has a frame every {frames.stride / windows.sample_rate:g} s. Use a longer window."
            )
        starts = window_starts(total, width, step)
        joined: Logits | None = None
        begin = 0
        for number, start in enumerate(starts):
            following = starts[number + 1] if number + 1 < len(starts) else None
            end = total if following is None else (following + start + width) // 2
            last = waveform.size if following is None else (start + width + 1) * frames.stride + frames.offset - 1
            logits = self._engine.logits(np.ascontiguousarray(waveform[start * frames.stride : last]))
            if len(logits) != width:
                raise _uneven(f"{last - start * frames.stride} samples give {len(logits)} frames, not {width}")
            if joined is None:
                joined = np.empty((total, logits.shape[1]), np.float32)
            joined[begin:end] = logits[begin - start : end - start]
            begin = end
            if self._progress is not None:
                done = waveform.size if following is None else min(waveform.size, end * frames.stride)
                self._progress(done / windows.sample_rate, waveform.size / windows.sample_rate)
        assert joined is not None, "a recording longer than a window has a window"
        return joined


def window_starts(total: int, width: int, step: int) -> list[int]:
    """Return the first frames of the fewest windows that cover a recording, spread evenly; the last window ends at its end.

    Args:
        total: Frames of the recording.
        width: Frames of a window.
        step: Largest distance of neighbouring windows, in frames.
    """
    gaps = max(0, -(-(total - width) // step))
    return [0] if gaps == 0 else [number * (total - width) // gaps for number in range(gaps + 1)]


def find_frames(engine: Engine, shortest: int, longest: int) -> Frames:
    """Find stride and offset of a model's frames from the number of frames that it returns for short waveforms.

    Manifests do not contain them, and models differ: 320 samples in wav2vec 2.0, 400 in the bundled model. It takes about 25 runs on
    the shortest waveforms that the model accepts.

    Args:
        engine: Engine of the model.
        shortest: Shortest waveform that it accepts, in samples.
        longest: Longest waveform to try, in samples.

    Raises:
        AsrDeployError: The frames are not evenly spaced, or ``longest`` samples do not hold four frames.
    """
    noise = np.random.default_rng(0).standard_normal(longest, np.float32) * np.float32(0.01)  # silence would be divided by its power

    @cache
    def count(samples: int) -> int:
        return len(engine.logits(noise[:samples].copy()))

    def next_edge(low: int) -> int:
        """Return the smallest length with more frames than ``low`` samples have."""
        held, step = count(low), PROBE
        while count(high := min(low + step, longest)) == held:
            if high == longest:
                raise AsrDeployError(
                    f"A window of {longest} samples is too short: the model needs more for its next frame. Use a longer --window."
                )
            step *= 2
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if count(middle) == held else (low, middle)
        return high

    first = next_edge(shortest)
    second = next_edge(first)
    frames = Frames(second - first, first - count(first) * (second - first))
    for samples in (second + frames.stride - 1, second + frames.stride):
        if samples <= longest and count(samples) != frames.of(samples):
            raise _uneven(f"{samples} samples give {count(samples)} frames, not {frames.of(samples)}")
    return frames


def _uneven(why: str) -> AsrDeployError:
    return AsrDeployError(
        f"The frames of the model are not evenly spaced, so that it cannot run on windows: {why}. Use shorter recordings."
    )
