"""Remarks about recordings: none for good speech, one for each common mistake, and errors for what no model can transcribe."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest

from device_runner.audio import read_audio
from device_runner.errors import AsrDeployError
from device_runner.waveforms import check_samples, remark
from toolchain.data.datasets import open_data

Samples = npt.NDArray[np.float32]
GOOD: dict[str, Callable[[Samples], Samples]] = {
    "as recorded": lambda samples: samples,
    "quiet": lambda samples: samples / 100,
    "at full scale": lambda samples: samples / np.abs(samples).max(),
    "a little clipped": lambda samples: np.clip(3 * samples / np.abs(samples).max(), -1, 1),
    "louder than full scale": lambda samples: 4 * samples / np.abs(samples).max(),
    "with an offset": lambda samples: samples + np.float32(0.3),
    "8 bits": lambda samples: np.round(samples * 128) / 128,
    "in silence": lambda samples: np.concatenate([np.zeros(80_000, np.float32), samples]),
}


@pytest.fixture(scope="module")
def recordings() -> list[Samples]:
    return [read_audio(each.path, 16_000) for split in ("dev-clean", "test-clean") for each in open_data("digits", split).utterances]


@pytest.mark.parametrize("change", GOOD.values(), ids=GOOD)
def test_good_recordings_get_no_remark(recordings: list[Samples], change: Callable[[Samples], Samples]) -> None:
    assert len(recordings) == 360
    for each in recordings:
        check_samples(change(each))
        assert remark(change(each)) is None


BAD: dict[str, tuple[Callable[[Samples], Samples], str]] = {
    "silent": (np.zeros_like, "all samples are 0"),
    "constant": (lambda samples: np.full_like(samples, 0.25), "all samples are 0.25"),
    "a channel without a microphone": (lambda samples: np.sign(samples) / 32768, "nearly silent"),
    "16-bit integers": (lambda samples: samples * 32768, "divide them by 32768"),
    "24-bit integers": (lambda samples: samples * 2**23, "divide them by 8388608"),
    "32-bit integers": (lambda samples: samples * 2**31, "divide them by 2147483648"),
    "clipped all over": (lambda samples: np.clip(1_000 * samples, -1, 1), "is clipped"),
    "clipped by another program": (lambda samples: np.clip(1_000 * samples, -1, 1) / 2, "is clipped"),
    "a square wave": (lambda samples: np.sign(samples), "is clipped"),
}


@pytest.mark.parametrize(("change", "words"), BAD.values(), ids=BAD)
def test_each_mistake_gets_a_remark(recordings: list[Samples], change: Callable[[Samples], Samples], words: str) -> None:
    for each in recordings[:60]:
        check_samples(change(each))
        found = remark(change(each))
        assert found is not None and words in found and found.endswith(".") and "\n" not in found


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e30, -1e30, 1e11])
@pytest.mark.parametrize("place", [0, 7, -1])
def test_what_no_model_can_transcribe_is_refused(recordings: list[Samples], value: float, place: int) -> None:
    samples = recordings[0].copy()
    samples[place] = value
    with pytest.raises(AsrDeployError, match=r"^a\.wav contains samples .*\.$"):
        check_samples(samples, "a.wav")


def test_no_samples() -> None:
    with pytest.raises(AsrDeployError, match="no samples"):
        check_samples(np.zeros(0, np.float32))
    assert remark(np.zeros(0, np.float32)) is None
