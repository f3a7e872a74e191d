"""What a data set contains: durations, formats, characters, duplicates, and recordings that cannot be used."""

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import soundfile

from device_runner.audio import CheckedAudio, check_audio
from device_runner.errors import AsrDeployError
from device_runner.facts import usable_cpus
from device_runner.files import existing
from toolchain.data.casing import language_of, upper
from toolchain.data.recordings import OnChecked
from toolchain.data.scripts import unprintable
from toolchain.data.utterances import DataSet, LeftOut, Utterance


@dataclass(frozen=True)
class Length:
    """An utterance and its duration in seconds."""

    id: str
    seconds: float


@dataclass(frozen=True)
class Duplicate:
    """Utterances of the same samples: the same segment and channel of files with the same bytes.

    Args:
        ids: Their ids.
        same_text: Whether their references are the same too.
    """

    ids: tuple[str, ...]
    same_text: bool


@dataclass(frozen=True)
class Description:
    """What a data set contains.

    Args:
        name: Name of the set.
        split: Name of the split.
        layout: What it was read as.
        utterances: Number of utterances that can be used.
        words: Number of words of their references.
        hours: Their duration.
        sample_rates: Number of recordings by sample rate in hertz.
        channels: Number of recordings by number of channels of their files.
        formats: Number of recordings by format and encoding.
        lengths: Durations of the utterances, sorted by id.
        shortest: The shortest utterance; None if there is none.
        longest: The longest utterance; None if there is none.
        characters: Counts of the characters of the references, as they are written, the most frequent first.
        outside: Counts of the characters that no label of the model prints, in upper case; None without a model.
        duplicates: Utterances of the same audio.
        bad: Recordings and rows that cannot be used.
        remarks: What is peculiar, by id.
    """

    name: str
    split: str
    layout: str
    utterances: int
    words: int
    hours: float
    sample_rates: dict[int, int]
    channels: dict[int, int]
    formats: dict[str, int]
    lengths: tuple[Length, ...]
    shortest: Length | None
    longest: Length | None
    characters: dict[str, int]
    outside: dict[str, int] | None
    duplicates: tuple[Duplicate, ...]
    bad: tuple[LeftOut, ...]
    remarks: dict[str, str]


def describe_data(data: DataSet, labels: tuple[str, ...] | None = None, *, checked: OnChecked = lambda utterance: None) -> Description:
    """Read all recordings of a data set once and say what it contains. Recordings that cannot be used are listed, not refused.

    Example:
        >>> asrdeploy.describe_data(asrdeploy.open_data("digits", "test-clean")).hours  # doctest: +SKIP
        0.118

    Args:
        data: The data set; see ``open_data``.
        labels: Labels of a model by index, the blank first, to find characters that it cannot print.
        checked: Called for every utterance after it was read.

    Raises:
        AsrDeployError: A reference cannot be compared with the labels.
    """
    good: list[tuple[Utterance, CheckedAudio]] = []
    bad = list(data.bad)
    stated: Counter[tuple[int, int, str]] = Counter()
    with ThreadPoolExecutor(usable_cpus()) as threads:
        for utterance, (header, outcome) in zip(data.utterances, threads.map(_examined, data.utterances), strict=True):
            if header is not None:
                stated[header] += 1
            if isinstance(outcome, str):
                bad.append(LeftOut(utterance.id, outcome))
            else:
                good.append((utterance, outcome))
            checked(utterance)
    lengths = tuple(Length(utterance.id, found.seconds) for utterance, found in good)
    language = None if labels is None else language_of(labels)
    counts: tuple[Counter[int], Counter[int], Counter[str]] = (Counter(), Counter(), Counter())
    for (rate, channels, kind), number in stated.items():
        counts[0][rate] += number
        counts[1][channels] += number
        counts[2][kind] += number
    return Description(
        name=data.name,
        split=data.split,
        layout=data.layout,
        utterances=len(good),
        words=sum(len(utterance.reference.split()) for utterance, _ in good),
        hours=sum(each.seconds for each in lengths) / 3600,
        sample_rates=dict(counts[0].most_common()),
        channels=dict(counts[1].most_common()),
        formats=dict(counts[2].most_common()),
        lengths=lengths,
        shortest=min(lengths, key=lambda each: each.seconds, default=None),
        longest=max(lengths, key=lambda each: each.seconds, default=None),
        characters=dict(Counter(each for utterance, _ in good for each in utterance.reference).most_common()),
        outside=None if labels is None else unprintable([upper(utterance.reference, language) for utterance, _ in good], labels),
        duplicates=_duplicates(good),
        bad=tuple(bad),
        remarks={utterance.id: found.remark for utterance, found in good if found.remark is not None},
    )


def _examined(utterance: Utterance) -> tuple[tuple[int, int, str] | None, CheckedAudio | str]:
    """Return rate, channels and format of a file if libsndfile opens it, and what is known of the recording or why it is bad."""
    header = _header(utterance.path)
    try:
        return header, check_audio(utterance.path, None, part=utterance.part)
    except AsrDeployError as error:
        return header, str(error)


def _header(path: Path) -> tuple[int, int, str] | None:
    try:
        with existing(path).open("rb") as file, soundfile.SoundFile(file.fileno(), closefd=False) as opened:
            return opened.samplerate, opened.channels, f"{opened.format} {opened.subtype}"
    except (OSError, ValueError, soundfile.SoundFileError):  # check_audio says why
        return None


def _duplicates(good: list[tuple[Utterance, CheckedAudio]]) -> tuple[Duplicate, ...]:
    by_digest: dict[str, list[Utterance]] = {}
    for utterance, found in good:
        by_digest.setdefault(found.sha256, []).append(utterance)
    groups = [each for each in by_digest.values() if len(each) > 1]
    return tuple(Duplicate(tuple(each.id for each in group), len({each.reference for each in group}) == 1) for group in groups)
