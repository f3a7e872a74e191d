"""Real speech for latency and calibration: the bundled recordings, and few of a set; without torch."""

from collections.abc import Iterator
from dataclasses import dataclass

from device_runner.audio import read_audio
from device_runner.engines import Waveform
from device_runner.errors import AsrDeployError
from device_runner.latency import real_speech
from toolchain.data.datasets import Utterance, open_data
from toolchain.data.splits import check_tuning_data

CALIBRATION_UTTERANCES, CALIBRATION_SECONDS = 32, 15


@dataclass(frozen=True)
class CalibrationSpeech:
    """Recordings for calibration: read one at a time, each time that they are gone through, none longer than a bound."""

    utterances: tuple[Utterance, ...]
    sample_rate: int = 16_000

    @property
    def ids(self) -> tuple[str, ...]:
        """What a manifest or a bitstream keeps of them, so that no word error rate is measured on them."""
        return tuple(each.id for each in self.utterances)

    def __iter__(self) -> Iterator[Waveform]:
        for utterance in self.utterances:
            yield read_audio(utterance.path, self.sample_rate)[: CALIBRATION_SECONDS * self.sample_rate]


def bundled_speech(seconds: list[float], sample_rate: int) -> dict[float, Waveform]:
    """Return bundled dev-clean speech of exactly these lengths."""
    return real_speech([utterance.path for utterance in open_data("digits", "dev-clean").utterances], seconds, sample_rate)


def calibration_speech(data: str, split: str, sample_rate: int = 16_000) -> CalibrationSpeech:
    """Return recordings for calibration: few, spread over the split.

    Raises:
        AsrDeployError: the split holds utterances of a set that word error rates are reported on (see ``toolchain.data.splits``), or is named
            like one, or cannot be opened.
    """
    if split.startswith("test"):
        raise AsrDeployError(f"Calibration on {split} would measure on what was tuned with; use dev-clean.")
    chosen = open_data(data, split)
    check_tuning_data(chosen)
    step = max(1, len(chosen.utterances) // CALIBRATION_UTTERANCES)
    return CalibrationSpeech(chosen.utterances[::step][:CALIBRATION_UTTERANCES], sample_rate)
