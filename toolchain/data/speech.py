"""Recordings for latency measurements and calibration; does not import PyTorch."""

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
    """Recordings for calibration, read one at a time on every pass and cut to ``CALIBRATION_SECONDS``."""

    utterances: tuple[Utterance, ...]
    sample_rate: int = 16_000

    @property
    def ids(self) -> tuple[str, ...]:
        """Ids that a manifest or a bitstream stores, so that WER is never measured on these utterances."""
        return tuple(each.id for each in self.utterances)

    def __iter__(self) -> Iterator[Waveform]:
        for utterance in self.utterances:
            yield read_audio(utterance.path, self.sample_rate, utterance.part)[: CALIBRATION_SECONDS * self.sample_rate]


def bundled_speech(seconds: list[float], sample_rate: int) -> dict[float, Waveform]:
    """Return bundled dev-clean speech of exactly the requested lengths.

    Args:
        seconds: Lengths in seconds.
        sample_rate: Sample rate in Hz.

    Returns:
        A waveform ``[samples]`` for each length.
    """
    return real_speech([utterance.path for utterance in open_data("digits", "dev-clean").utterances], seconds, sample_rate)


def calibration_speech(data: str, split: str, sample_rate: int = 16_000) -> CalibrationSpeech:
    """Select recordings for calibration: at most ``CALIBRATION_UTTERANCES``, evenly spread over the split.

    Args:
        data: Name or folder of the data set; see ``open_data``.
        split: Name of the split.
        sample_rate: Sample rate in Hz.

    Raises:
        AsrDeployError: The split is a test set by its name or by its utterances (see ``toolchain.data.splits``), or cannot be opened.
    """
    if split.startswith("test"):
        raise AsrDeployError(f"Cannot calibrate on {split}, because WER is reported on test sets. Use another split, such as dev-clean.")
    chosen = open_data(data, split)
    check_tuning_data(chosen)
    if chosen.bad:
        raise AsrDeployError(
            f"{chosen.bad[0].reason} {len(chosen.bad)} row(s) of {chosen.name} {chosen.split} cannot be used for calibration."
        )
    step = max(1, len(chosen.utterances) // CALIBRATION_UTTERANCES)
    return CalibrationSpeech(chosen.utterances[::step][:CALIBRATION_UTTERANCES], sample_rate)
