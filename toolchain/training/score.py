"""WER during training, on small sets in memory at batch size 1."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from device_runner.audio import read_audio
from device_runner.labels import select_labels
from toolchain.accuracy.metrics import count_errors
from toolchain.data.datasets import open_data
from toolchain.models.test_cases import LABELS
from toolchain.training.batches import join
from toolchain.training.speech_sets import SPLITS
from toolchain.training.synthesis import SAMPLE_RATE, Manner, Speech, draw_words, say
from toolchain.training.voices import Voice


@dataclass(frozen=True)
class ScoredSet:
    """A named set of utterances in memory."""

    name: str
    speech: Speech


def connected_digits(name: str, speakers: dict[str, Speech], utterances: int, seed: int) -> ScoredSet:
    """Join recordings to utterances of 2 to 7 digits, without augmentation.

    Args:
        name: Name of the set.
        speakers: Held-out recordings per speaker.
        utterances: Number of utterances per speaker.
        seed: Seed of the random generator.
    """
    rng = np.random.default_rng(seed)
    joined = [join(speakers[each], int(rng.integers(2, 8)), rng) for each in sorted(speakers) for _ in range(utterances)]
    return ScoredSet(name, Speech.of(joined))


def synthetic_digits(name: str, voices: list[Voice], utterances: int, seed: int) -> ScoredSet:
    """Synthesise utterances of 1 to 7 digits, without augmentation.

    Args:
        name: Name of the set.
        voices: Voices.
        utterances: Number of utterances per voice.
        seed: Seed of the random generator.
    """
    rng = np.random.default_rng(seed)
    said = []
    for voice in voices:
        for _ in range(utterances):
            words = draw_words(rng)
            said.append((say(voice, words, Manner.draw(rng)), words))
    return ScoredSet(name, Speech.of(said))


def bundled_sets() -> list[ScoredSet]:
    """Return the bundled test sets, one set per voice."""
    sets = []
    for split, speakers in SPLITS.items():
        utterances = open_data("digits", split).utterances
        for voice, number, _ in speakers:
            own = [each for each in utterances if each.id.startswith(f"{number}-")]
            speech = Speech.of([(read_audio(each.path, SAMPLE_RATE), tuple(each.reference.split())) for each in own])
            sets.append(ScoredSet(f"{split} {voice.family} {voice.name}", speech))
    return sets


def word_error_rate(model: nn.Module, scored: ScoredSet) -> float:
    """Return the corpus WER of a model on a set, with greedy decoding at batch size 1."""
    errors, words = count(model, scored)
    return errors / words


@torch.inference_mode()
def count(model: nn.Module, scored: ScoredSet) -> tuple[int, int]:
    """Return the number of word errors of a model on a set, and the number of reference words."""
    was_training = model.training
    model.eval()
    errors = words = 0
    for waveform, text in (scored.speech[index] for index in range(len(scored.speech))):
        logits, _ = model(torch.from_numpy(waveform)[None])
        errors += count_errors(" ".join(text), select_labels(logits[0].numpy(), LABELS)).errors
        words += len(text)
    model.train(was_training)
    return errors, words
