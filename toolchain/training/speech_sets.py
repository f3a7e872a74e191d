"""The bundled test sets: dev-clean and test-clean in LibriSpeech's layout, with voices that are not used in training."""

from pathlib import Path

import numpy as np
import soundfile

from device_runner.files import atomic_folder, write_text
from toolchain.training.synthesis import SAMPLE_RATE, Manner, check_synthesisers, say
from toolchain.training.voices import DEV_SPEAKERS, DIGITS, TEST_SPEAKERS, Voice

SPLITS = {"test-clean": TEST_SPEAKERS, "dev-clean": DEV_SPEAKERS}
# Words per text. Short texts are more frequent, which keeps both sets together below 8 MB.
COUNTS = (2, 3, 4, 5, 6, 7)
SHARES = (0.2, 0.2, 0.2, 0.16, 0.12, 0.12)


def draw_texts(count: int, seed: int) -> list[tuple[str, ...]]:
    """Draw ``count`` different texts of 2 to 7 digits."""
    rng = np.random.default_rng(seed)
    texts: dict[tuple[str, ...], None] = {}
    while len(texts) < count:
        texts[tuple(DIGITS[index] for index in rng.integers(0, 10, rng.choice(COUNTS, p=SHARES)))] = None
    return list(texts)


def synthesise_sets(folder: Path, seed: int) -> None:
    """Write both splits to ``folder``. They have no voice and no text in common.

    Raises:
        AsrDeployError: If a synthesiser is missing or fails, or the folder contains other files.
    """
    check_synthesisers()
    total = sum(utterances for speakers in SPLITS.values() for *_, utterances in speakers)
    texts = iter(draw_texts(total, seed))
    for split, speakers in SPLITS.items():
        with atomic_folder(folder / split, owned=lambda old: any(old.glob("*/*/*.trans.txt"))) as temporary:
            for voice, speaker, utterances in speakers:
                _synthesise_speaker(temporary / str(speaker) / "1", voice, f"{speaker}-1", [next(texts) for _ in range(utterances)], seed)


def _synthesise_speaker(chapter: Path, voice: Voice, prefix: str, texts: list[tuple[str, ...]], seed: int) -> None:
    chapter.mkdir(parents=True)
    rng = np.random.default_rng((seed, int(prefix.split("-")[0])))
    rate, pitch, level = rng.uniform(0.9, 1.15), rng.uniform(0.9, 1.15), rng.uniform(0.08, 0.25)
    lines = []
    for number, words in enumerate(texts):
        # A speaker's rate and pitch vary by up to a tenth.
        manner = Manner(
            float(rate * rng.uniform(0.9, 1.1)), float(pitch * rng.uniform(0.95, 1.05)), int(rng.choice(3, p=(0.5, 0.25, 0.25)))
        )
        waveform = np.pad(say(voice, words, manner), SAMPLE_RATE // 20) * np.float32(level * rng.uniform(0.8, 1.0))
        name = f"{prefix}-{number:04d}"
        soundfile.write(chapter / f"{name}.flac", waveform, SAMPLE_RATE, subtype="PCM_16", compression_level=1.0)
        lines.append(f"{name} {' '.join(words)}")
    write_text(chapter / f"{prefix}.trans.txt", "\n".join(lines) + "\n")
