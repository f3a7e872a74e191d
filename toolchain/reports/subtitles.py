"""Timed transcripts as texts: SRT, WebVTT, TSV and JSON.

By hand, because pysubs2 1.8 escapes nothing in WebVTT and reads braces as style tags, and srt writes only SRT.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.cells import cell_len

from device_runner.files import json_of
from device_runner.words import Word

LINE, LINES = 42, 2  # columns of a line, and lines of a cue: usual limits of broadcasters
LONGEST = 7.0  # seconds of a cue
PAUSE = 0.7  # seconds without a word that end a cue


@dataclass(frozen=True)
class Cue:
    """What a subtitle shows, and when.

    Args:
        start: Start in seconds.
        end: End in seconds.
        lines: Its lines.
    """

    start: float
    end: float
    lines: tuple[str, ...]


@dataclass(frozen=True)
class TimedText:
    """The transcript of a recording.

    Args:
        file: Name of the recording.
        text: The transcript.
        words: Its words; None if the device that transcribed returns no times.
        separator: What lies between words: nothing in scripts without spaces.
    """

    file: str
    text: str
    words: tuple[Word, ...] | None = None
    separator: str = " "

    @property
    def timed(self) -> tuple[Word, ...]:
        """The words.

        Raises:
            ValueError: There are none.
        """
        if self.words is None:
            raise ValueError(f"{self.file} has no times")
        return self.words

    def figures(self) -> dict[str, Any]:
        """Return the transcript for JSON: ``file``, ``text`` and, if there are times, ``words``."""
        words = {} if self.words is None else {"words": [_rounded(each) for each in self.words]}
        return {"file": self.file, "text": self.text, **words}


def cues_of(words: Sequence[Word], separator: str = " ") -> tuple[Cue, ...]:
    """Group words into cues: a pause of 0.7 s, more than two lines of 42 columns, or more than 7 s begin the next one.

    A word that is longer than a line or lasts longer than 7 s has a cue of its own. Wide characters (Chinese, Japanese) take two columns.
    """
    groups: list[list[Word]] = []
    for word in words:
        group = groups[-1] if groups else None
        if (
            group is None
            or word.start - group[-1].end >= PAUSE
            or word.end - group[0].start > LONGEST
            or len(_lines([*group, word], separator)) > LINES
        ):
            groups.append([word])
        else:
            group.append(word)
    return tuple(Cue(group[0].start, group[-1].end, _lines(group, separator)) for group in groups)


def as_srt(spoken: TimedText) -> str:
    """Return SubRip subtitles: numbered cues with times like ``01:02:03,456``."""
    cues = cues_of(spoken.timed, spoken.separator)
    return "\n".join(f"{number}\n{_times(cue, ',')}\n" + "\n".join(cue.lines) + "\n" for number, cue in enumerate(cues, 1))


def as_vtt(spoken: TimedText) -> str:
    """Return WebVTT subtitles: cues with times like ``01:02:03.456``; ``&``, ``<`` and ``>`` are escaped, and so is ``-->``."""
    cues = cues_of(spoken.timed, spoken.separator)
    return "WEBVTT\n" + "".join(f"\n{_times(cue, '.')}\n" + "\n".join(map(_escaped, cue.lines)) + "\n" for cue in cues)


def as_tsv(spoken: TimedText) -> str:
    """Return a table with a row for each word: start and end in seconds, word, confidence; columns are separated by tabs."""
    rows = (f"{each.start:.3f}\t{each.end:.3f}\t{_one_line(each.text)}\t{each.confidence:.4f}" for each in spoken.timed)
    return "".join(f"{row}\n" for row in ("start\tend\tword\tconfidence", *rows))


def as_json(spoken: TimedText) -> str:
    """Return one line of JSON: file, text and words."""
    return json_of({**spoken.figures(), "words": [_rounded(each) for each in spoken.timed]}, indent=None) + "\n"


def as_text(spoken: TimedText) -> str:
    """Return the transcript on one line."""
    return f"{spoken.text}\n"


FORMATS = {"text": as_text, "json": as_json, "srt": as_srt, "vtt": as_vtt, "tsv": as_tsv}
SUFFIXES = {name: f".{'txt' if name == 'text' else name}" for name in FORMATS}


def _lines(words: Sequence[Word], separator: str) -> tuple[str, ...]:
    lines: list[str] = []
    for word in words:
        text = _one_line(word.text)
        longer = f"{lines[-1]}{separator}{text}" if lines else text
        if lines and cell_len(longer) <= LINE:
            lines[-1] = longer
        else:
            lines.append(text)
    return tuple(lines)


def _times(cue: Cue, point: str) -> str:
    start = round(1000 * cue.start)
    return f"{_time(start, point)} --> {_time(max(round(1000 * cue.end), start + 1), point)}"


def _time(milliseconds: int, point: str) -> str:
    seconds, rest = divmod(milliseconds, 1000)
    return f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}{point}{rest:03}"


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _one_line(text: str) -> str:
    return " ".join(text.split())  # a label may print a line break or a tab


def _rounded(word: Word) -> dict[str, Any]:
    return {**asdict(word), "start": round(word.start, 3), "end": round(word.end, 3), "confidence": round(word.confidence, 4)}
