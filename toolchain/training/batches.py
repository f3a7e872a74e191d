"""Training batches, determined by seed and step, so that a resumed run uses the same batches as an uninterrupted one."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import soundfile
import torch
from scipy.signal import resample_poly
from torch.utils.data import Dataset

from device_runner.errors import AsrDeployError
from toolchain.training.augment import SAMPLE_RATE, Augmentation
from toolchain.training.synthesis import Speech, trim
from toolchain.training.voices import DIGITS

# Recordings with a smaller index are not used in training: they are FSDD's test split.
FSDD_HELD_OUT = 5
# Batches are cut from groups sorted by length, which reduces padding.
GROUP = 8
GROUP_UTTERANCES = 240
SINGLES = 0.15  # share of single digits after the first steps
ROUND = 3_200  # widths are multiples of this number of samples, because each new width costs a setup of the convolutions


class Batch(NamedTuple):
    """A batch: ``waveforms [batch, samples]``, ``lengths [batch]`` in samples, ``targets [labels]``, ``target_lengths [batch]``."""

    waveforms: torch.Tensor
    lengths: torch.Tensor
    targets: torch.Tensor
    target_lengths: torch.Tensor


def read_fsdd(folder: Path, *, held_out: bool) -> dict[str, Speech]:
    """Read Free Spoken Digit Dataset recordings (DIGIT_SPEAKER_INDEX.wav) per speaker, resampled to 16 kHz.

    Args:
        folder: Folder of the WAV files.
        held_out: Whether to read the held-out recordings instead of the training recordings.

    Raises:
        AsrDeployError: If the folder has no such files or a file cannot be read.
    """
    speakers: dict[str, list[tuple[npt.NDArray[np.float32], tuple[str, ...]]]] = {}
    for path in sorted(folder.glob("[0-9]_*_*.wav")):
        digit, speaker, index = path.stem.split("_")
        if (int(index) < FSDD_HELD_OUT) != held_out:
            continue
        try:
            waveform, rate = soundfile.read(path, dtype="float32")
        except soundfile.LibsndfileError as error:
            raise AsrDeployError(f"{path} is not a readable WAV file: {error}.") from error
        waveform = trim(resample_poly(waveform, SAMPLE_RATE, rate))
        waveform = (waveform * (0.5 / max(np.abs(waveform).max(initial=0), 1e-4))).astype(np.float32)
        speakers.setdefault(speaker, []).append((waveform, (DIGITS[int(digit)],)))
    if not speakers:
        raise AsrDeployError(f"{folder} contains no recordings named DIGIT_SPEAKER_INDEX.wav. Give the folder of the dataset with --fsdd.")
    return {speaker: Speech.of(utterances) for speaker, utterances in speakers.items()}


def join(speech: Speech, words: int, rng: np.random.Generator) -> tuple[npt.NDArray[np.float32], tuple[str, ...]]:
    """Join random recordings of a speaker, with pauses of up to 0.25 s between them.

    Args:
        speech: Recordings of the speaker.
        words: Number of recordings to join.
        rng: Random generator.

    Returns:
        The waveform ``[samples]`` and its words.
    """
    parts: list[npt.NDArray[np.float32]] = []
    said: list[str] = []
    for index in rng.integers(0, len(speech), words):
        waveform, text = speech[index]
        if parts and rng.random() < 0.75:
            parts.append(np.zeros(int(rng.uniform(0, 0.25) * SAMPLE_RATE), np.float32))
        parts.append(waveform * np.float32(10 ** (rng.uniform(-5, 0) / 20)))
        said += text
    return np.concatenate(parts), tuple(said)


@dataclass
class Batches(Dataset[Batch]):
    """Batches by step, the same in every run with the same seed.

    Args:
        synthetic: Synthesised corpus.
        recordings: Recorded digits per speaker, possibly empty.
        labels: CTC labels, the blank first.
        seed: Seed of the run.
        singles_until: Step before which every utterance is a single digit.
        formants_from: Step before which formants are not shifted.
        recorded_share: Share of recorded utterances, if there are recordings.
        augment: Augmentation.
    """

    synthetic: Speech
    recordings: dict[str, Speech]
    labels: Sequence[str]
    seed: int
    singles_until: int
    formants_from: int = 0
    recorded_share: float = 0.42
    augment: Augmentation = field(default_factory=Augmentation)

    def __post_init__(self) -> None:
        counts = np.array([len(words) for words in self.synthetic.words])
        self._single, self._several = np.flatnonzero(counts == 1), np.flatnonzero(counts > 1)
        self._index = {label: index for index, label in enumerate(self.labels)}
        self._group: tuple[int, list[Batch]] = (-1, [])

    def __getitem__(self, step: int) -> Batch:
        number, place = divmod(step, GROUP)
        if self._group[0] != number:
            self._group = (number, self._make_group(number))
        return self._group[1][place]

    def _make_group(self, number: int) -> list[Batch]:
        rng = np.random.default_rng((self.seed, number))
        only_singles = number * GROUP < self.singles_until
        augment = self.augment if number * GROUP >= self.formants_from else replace(self.augment, formants=0.0)
        utterances = [self._utterance(rng, only_singles, augment) for _ in range(GROUP_UTTERANCES * (2 if only_singles else 1))]
        utterances.sort(key=lambda utterance: len(utterance[0]))
        ends = np.cumsum([len(waveform) for waveform, _ in utterances])
        cuts = np.searchsorted(ends, ends[-1] * np.arange(1, GROUP) / GROUP).tolist()
        parts = [utterances[start:stop] for start, stop in zip([0, *cuts], [*cuts, len(utterances)], strict=True)]
        return [self._collate(parts[index]) for index in rng.permutation(GROUP)]

    def _utterance(self, rng: np.random.Generator, only_singles: bool, augment: Augmentation) -> tuple[npt.NDArray[np.float32], str]:
        single = only_singles or rng.random() < SINGLES
        speakers = sorted(self.recordings)
        if speakers and rng.random() < self.recorded_share:
            speaker = self.recordings[speakers[rng.integers(len(speakers))]]
            waveform, words = join(speaker, 1 if single else int(rng.integers(2, 8)), rng)
        else:
            waveform, words = self.synthetic[int(rng.choice(self._single if single else self._several))]
        return augment(waveform, rng), "|".join(words)

    def _collate(self, utterances: list[tuple[npt.NDArray[np.float32], str]]) -> Batch:
        lengths = [len(waveform) for waveform, _ in utterances]
        waveforms = torch.zeros(len(utterances), -(-max(lengths) // ROUND) * ROUND)
        for row, (waveform, _) in zip(waveforms, utterances, strict=True):
            row[: len(waveform)] = torch.from_numpy(waveform)
        targets = torch.tensor([self._index[letter] for _, text in utterances for letter in text])
        return Batch(waveforms, torch.tensor(lengths), targets, torch.tensor([len(text) for _, text in utterances]))
