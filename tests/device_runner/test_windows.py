"""Windows: frames are counted from the engine, and the joined logits are those of the whole recording."""

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from device_runner.artifact import Artifact
from device_runner.engines import Logits, Waveform, check_length, open_engine
from device_runner.errors import AsrDeployError
from device_runner.windows import Frames, WindowedEngine, Windows, find_frames, window_starts


class Convolution:
    """An engine that computes a local function: a convolution, so that frames depend on their receptive field only."""

    def __init__(self, field: int, stride: int) -> None:
        self.kernel = np.random.default_rng(1).integers(-9, 9, (field, 3)).astype(np.float32)
        self.stride = stride
        self.longest = 0

    def logits(self, waveform: Waveform) -> Logits:
        check_length(waveform, len(self.kernel))
        self.longest = max(self.longest, waveform.size)
        parts = np.lib.stride_tricks.sliding_window_view(waveform, len(self.kernel))[:: self.stride]
        return np.stack([each @ self.kernel for each in parts]).astype(np.float32)


class Uneven(Convolution):
    """An engine that returns a frame for every square number of samples."""

    def logits(self, waveform: Waveform) -> Logits:
        return np.zeros((int(waveform.size**0.5), 3), np.float32)


@given(data=st.data(), field=st.integers(1, 40), stride=st.integers(1, 30))
def test_windows_give_the_logits_of_the_whole_recording(data: st.DataObject, field: int, stride: int) -> None:
    overlap = data.draw(st.integers(0, 100))
    window = (
        data.draw(st.integers(field + overlap + 4 * stride, field + overlap + 300))
        if field + overlap + 4 * stride <= field + overlap + 300
        else 0
    )
    samples = data.draw(st.integers(field, 5 * window))
    waveform = np.random.default_rng(samples).integers(-9, 9, samples).astype(np.float32)  # sums of integers are exact
    engine = Convolution(field, stride)
    expected = engine.logits(waveform)
    engine.longest = 0
    seen: list[tuple[float, float]] = []
    windowed = WindowedEngine(engine, Windows(window, overlap, window, field, 100), lambda done, total: seen.append((done, total)))
    joined = windowed.logits(waveform)
    assert joined.shape == expected.shape
    np.testing.assert_array_equal(joined, expected)
    assert engine.longest <= window
    if samples > window:
        assert windowed.frames == Frames(stride, field - stride)
        assert seen[-1] == (samples / 100, samples / 100)
        assert [done for done, _ in seen] == sorted(done for done, _ in seen)


@given(total=st.integers(1, 2000), width=st.integers(1, 300), step=st.integers(1, 300))
def test_windows_cover_every_frame_with_at_least_the_overlap(total: int, width: int, step: int) -> None:
    step = min(step, width)
    starts = window_starts(total, width, step)
    assert starts[0] == 0
    assert starts[-1] + width >= total
    assert all(0 < after - before <= step for before, after in pairwise(starts))
    assert len(starts) == 1 or starts[-1] + width == total


def test_the_frames_of_the_bundled_model_are_found_in_both_formats(tiny_int8: Artifact, exported_once: Callable[..., Artifact]) -> None:
    for artifact in (tiny_int8, exported_once("executorch", "fp32")):
        engine, shortest = open_engine(artifact), artifact.manifest.minimum_samples
        frames = find_frames(engine, shortest, 16_000)
        assert frames.stride == 400
        for samples in (shortest, 7_777, 16_000, 31_999, 32_000):
            assert len(engine.logits(np.zeros(samples, np.float32))) == frames.of(samples)


def test_a_model_whose_frames_are_not_evenly_spaced_is_refused() -> None:
    with pytest.raises(AsrDeployError, match="not evenly spaced"):
        WindowedEngine(Uneven(1, 1), Windows(5000, 100, 5000, 1000, 16_000)).logits(np.zeros(20_000, np.float32))


def test_a_window_without_a_second_frame_is_refused() -> None:
    with pytest.raises(AsrDeployError, match=r"A window of 120 samples is too short.*--window\.$"):
        WindowedEngine(Convolution(100, 50), Windows(120, 10, 120, 100, 100)).logits(np.zeros(1000, np.float32))


@pytest.mark.parametrize(
    ("window", "overlap", "message"),
    [
        (100, 100, r"--overlap 1 must be 0 or more and less than --window, which is 1 s\.$"),
        (100, 200, "--overlap 2 must be"),
        (100, 70, r"--window 1 is too short: with --overlap 0\.7, the model requires at least 1\.100 s\."),
    ],
)
def test_a_window_that_leaves_no_frame_beside_the_overlap_is_refused(window: int, overlap: int, message: str) -> None:
    with pytest.raises(AsrDeployError, match=message):
        Windows(window, overlap, window, 40, 100)
