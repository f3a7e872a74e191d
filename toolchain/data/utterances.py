"""Utterances and data sets, whatever layout they were read from."""

import unicodedata
from dataclasses import dataclass, replace
from pathlib import Path

from device_runner.audio import Part
from device_runner.errors import AsrDeployError

JOINERS = "\u200c\u200d"  # invisible, but letters of Persian and Indian words depend on them


@dataclass(frozen=True)
class Utterance:
    """One recording and its reference, in the case of its transcript file, in Unicode's form NFC with one space between words.

    References become upper case when they are scored, because the language of the model decides how; see ``toolchain.data.casing``.

    Args:
        id: Id, unique in the data set.
        path: Audio file.
        reference: What was said.
        start: Where the utterance starts in the file, in seconds.
        seconds: Its duration in seconds; None: to the end of the file.
        channel: Channel, counted from 0; None: the file must have one channel.
    """

    id: str
    path: Path
    reference: str
    start: float = 0.0
    seconds: float | None = None
    channel: int | None = None

    @property
    def part(self) -> Part:
        """The part of the file that is this utterance; see ``device_runner.audio.read_audio``."""
        return Part(self.start, self.seconds, self.channel)


@dataclass(frozen=True)
class LeftOut:
    """A recording that cannot be transcribed and was left out of a test set, and the reason."""

    id: str
    reason: str


@dataclass(frozen=True)
class DataSet:
    """The utterances of one split, sorted by their ids as strings (as TorchAudio does), and the recordings that were left out.

    Args:
        name: Name of the set in results.
        split: Name of the split.
        utterances: Utterances whose files exist.
        left_out: Recordings that were left out because the user allowed it.
        bad: Rows that name no usable recording; ``check_recordings`` refuses them or leaves them out.
        layout: What the set was read as.
    """

    name: str
    split: str
    utterances: tuple[Utterance, ...]
    left_out: tuple[LeftOut, ...] = ()
    bad: tuple[LeftOut, ...] = ()
    layout: str = "LibriSpeech layout"

    def limited(self, n: int) -> "DataSet":
        """Return the set of the first ``n`` utterances, or of all utterances if there are fewer.

        Args:
            n: Number of utterances, at least 1.

        Raises:
            AsrDeployError: ``n`` is below 1.
        """
        if n < 1:
            raise AsrDeployError(f"Cannot select {n} utterances. Select at least 1.")
        if n >= len(self.utterances):
            return self
        kept = self.utterances[:n]
        return replace(self, utterances=kept, bad=tuple(each for each in self.bad if each.id <= kept[-1].id))

    def sample(self, n: int) -> "DataSet":
        """Return ``n`` utterances spread evenly over the set, or all if it has fewer.

        Raises:
            AsrDeployError: ``n`` is below 1.
        """
        count = len(self.limited(n).utterances)
        return replace(self, utterances=tuple(self.utterances[index * len(self.utterances) // count] for index in range(count)))


def visible(text: str) -> str:
    """Return a text without invisible characters, which editors and web pages leave in words; a zero-width space becomes a space.

    Removed are Unicode's format characters, such as byte order marks, soft hyphens and marks of the writing direction.
    """
    if text.isascii():
        return text
    spaced = text.replace("\u200b", " ")
    return "".join(each for each in spaced if each in JOINERS or unicodedata.category(each) != "Cf")


def reference_of(text: str) -> str:
    """Return a reference in NFC, without invisible characters, with one space between words."""
    return " ".join(visible(unicodedata.normalize("NFC", text)).split())
