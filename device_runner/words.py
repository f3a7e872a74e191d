"""Words with their times and a confidence, from the greedy CTC path."""

import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from device_runner.errors import AsrDeployError
from device_runner.labels import BLANK, WORD_SEPARATOR

# A model's shortest input is its receptive field, unless its format asks for more. Fields of convolutional extractors overlap by less.
WIDEST_FIELD = 4  # strides


@dataclass(frozen=True)
class Word:
    """A word of a transcript.

    Args:
        text: The word; in scripts without spaces between words, a character with its combining marks.
        start: Start in seconds from the beginning of the recording: half a stride before the centre of the first frame of its first label.
        end: End in seconds: half a stride behind the centre of the last frame of its last label.
        confidence: Geometric mean of the softmax probability of the chosen label over the frames of the word's labels, 0 to 1. Blank frames
            do not count. It ranks words; it is not calibrated to the share of correct words.
    """

    text: str
    start: float
    end: float
    confidence: float


@dataclass(frozen=True)
class FrameTimes:
    """Where the frames of a recording lie.

    Args:
        first: Centre of the first frame, in seconds.
        stride: Distance of the centres, in seconds.
        seconds: Duration of the recording.
    """

    first: float
    stride: float
    seconds: float

    def span(self, begin: int, end: int) -> tuple[float, float]:
        """Return start and end of the frames ``begin`` to ``end - 1`` in seconds: half a stride around their centres."""
        edges = (self.first + (number - 0.5) * self.stride for number in (begin, end))
        start, stop = (min(max(each, 0.0), self.seconds) for each in edges)
        return start, stop


def frame_times(frames: int, samples: int, sample_rate: int, shortest: int) -> FrameTimes:
    """Derive the times of frames from the lengths of a recording and its logits.

    Without padding, F = floor((n - r) / s) + 1 for n samples, the receptive field r and the stride s, and the centre of frame i is
    (r - 1) / 2 + i s (Araujo et al., Distill 2019). So s lies between (n - r) / F and (n - r) / (F - 1). The middle of this range is
    taken: no centre is wrong by more than half a stride, and the error is 0 at the first frame.

    Args:
        frames: Number of frames of the logits.
        samples: Number of samples of the recording, at the model's rate.
        sample_rate: The model's sample rate, in hertz.
        shortest: Shortest input of the model in samples, which is the receptive field. If it is below one stride or above four, it is
            not (a custom model that states none, or a format with a lower bound of its own), and one stride is taken for it.
    """
    tiled = samples / max(frames, 1)
    field = float(shortest) if tiled * 0.999 <= shortest <= WIDEST_FIELD * tiled and shortest <= samples else tiled
    stride = (samples - field) / (frames - 0.5) if frames > 1 else tiled
    return FrameTimes((field - 1) / 2 / sample_rate, stride / sample_rate, samples / sample_rate)


def has_separator(labels: Sequence[str]) -> bool:
    """Return whether labels have a separator of words."""
    return any(WORD_SEPARATOR in each or " " in each for each in labels[BLANK + 1 :])


def words_of(logits: npt.NDArray[np.floating], labels: Sequence[str], times: FrameTimes, *, characters: bool = False) -> tuple[Word, ...]:
    """Return the words of the greedy path of ``labels.select_labels``.

    Their texts, joined by spaces, are its text without spaces at the ends and with one space between words. With ``characters`` they are
    joined by nothing, and the spaces of the text are left out.

    Args:
        logits: Logits ``[frames, labels]``.
        labels: Text of each label, the blank first.
        times: Times of the frames; see ``frame_times``.
        characters: Every character is a word. Always so for labels without a separator.

    Raises:
        AsrDeployError: Logits are NaN, or a frame has none that is finite.
        ValueError: The width of the logits is not the number of labels.
    """
    if logits.ndim != 2 or logits.shape[1] != len(labels):
        raise ValueError(f"logits of shape {logits.shape} do not fit {len(labels)} labels")
    if not len(logits):
        return ()
    best = logits.argmax(axis=1)
    peaks = logits.max(axis=1, keepdims=True).astype(np.float64)
    if not np.isfinite(peaks).all():
        raise AsrDeployError("The model returned logits that are not numbers. Export it again, or use another scheme.")
    chosen = -np.log(np.exp(logits - peaks).sum(axis=1))  # log softmax of the largest logit
    characters = characters or not has_separator(labels)
    return tuple(_word(parts, chosen, times) for parts in _grouped(_letters(best, labels), characters=characters))


@dataclass(frozen=True)
class _Letter:
    """A character and the run of frames whose label printed it."""

    text: str
    begin: int
    end: int


def _letters(best: npt.NDArray[np.integer], labels: Sequence[str]) -> Iterator[_Letter]:
    edges = np.flatnonzero(np.concatenate(([True], best[1:] != best[:-1], [True])))
    for begin, end in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
        if best[begin] != BLANK:
            for each in labels[best[begin]].replace(WORD_SEPARATOR, " "):
                yield _Letter(each, begin, end)


def _grouped(letters: Iterator[_Letter], *, characters: bool) -> Iterator[list[_Letter]]:
    """Yield the letters of each word."""
    word: list[_Letter] = []
    for letter in letters:
        parted = characters and unicodedata.category(letter.text)[0] != "M"
        if word and (letter.text == " " or parted):
            yield word
            word = []
        if letter.text != " ":
            word.append(letter)
    if word:
        yield word


def _word(letters: list[_Letter], chosen: npt.NDArray[np.float64], times: FrameTimes) -> Word:
    start, end = times.span(letters[0].begin, letters[-1].end)
    runs = sorted({(each.begin, each.end) for each in letters})  # a label may print several characters
    confidence = np.exp(np.mean(np.concatenate([chosen[begin:stop] for begin, stop in runs])))
    return Word("".join(each.text for each in letters), start, end, min(float(confidence), 1.0))
