"""Timed transcripts as SRT, WebVTT, TSV and JSON: golden files, and the limits of cues."""

import json
import re
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from device_runner.words import Word
from toolchain.reports.subtitles import LINE, LINES, LONGEST, TimedText, as_json, as_srt, as_tsv, as_vtt, cues_of

SPOKEN = TimedText(
    "talk.wav",
    "A&B <C> --> Ü",
    (Word("A&B", 0.0, 0.4204, 0.98765), Word("<C>", 0.5, 0.9, 0.5), Word("-->", 3661.5, 3661.9996, 1.0), Word("Ü", 3662.0, 3662.5, 0.0)),
)

SRT = """1
00:00:00,000 --> 00:00:00,900
A&B <C>

2
01:01:01,500 --> 01:01:02,500
--> Ü
"""
VTT = """WEBVTT

00:00:00.000 --> 00:00:00.900
A&amp;B &lt;C&gt;

01:01:01.500 --> 01:01:02.500
--&gt; Ü
"""
TSV = """start	end	word	confidence
0.000	0.420	A&B	0.9877
0.500	0.900	<C>	0.5000
3661.500	3662.000	-->	1.0000
3662.000	3662.500	Ü	0.0000
"""


def test_golden() -> None:
    assert as_srt(SPOKEN) == SRT
    assert as_vtt(SPOKEN) == VTT
    assert as_tsv(SPOKEN) == TSV
    line = as_json(SPOKEN)
    assert line.count("\n") == 1 and json.loads(line)["words"][0] == {"text": "A&B", "start": 0.0, "end": 0.42, "confidence": 0.9877}
    assert json.loads(line)["file"] == "talk.wav" and json.loads(line)["text"] == "A&B <C> --> Ü"


def test_a_recording_without_words_has_no_cues() -> None:
    silent = TimedText("silent.wav", "", ())
    assert (as_srt(silent), as_vtt(silent), as_tsv(silent)) == ("", "WEBVTT\n", "start\tend\tword\tconfidence\n")
    assert json.loads(as_json(silent)) == {"file": "silent.wav", "text": "", "words": []}
    with pytest.raises(ValueError, match="no times"):
        as_srt(TimedText("phone.wav", "ONE"))


def test_hours_beyond_a_day_and_line_breaks_in_labels() -> None:
    spoken = TimedText("a", "x", (Word("X\n\tY", 360_000.0, 360_000.0, 1.0),))
    assert as_srt(spoken) == "1\n100:00:00,000 --> 100:00:00,001\nX Y\n"
    assert as_tsv(spoken).splitlines()[1].split("\t")[2] == "X Y"


def test_characters_of_unspaced_scripts_are_joined_by_nothing_and_take_two_columns() -> None:
    words = tuple(Word("好", 0.1 * number, 0.1 * number + 0.1, 1.0) for number in range(60))
    first, second = cues_of(words, "")
    assert [len(each) for each in first.lines] == [21, 21] and [len(each) for each in second.lines] == [18]


PIECES = st.lists(st.tuples(st.text("ABCÜ好", min_size=1, max_size=50), st.floats(0, 1.5), st.floats(0.02, 8)), max_size=60)


@given(PIECES)
def test_cues_keep_every_word_in_order_within_their_limits(pieces: list[tuple[str, float, float]]) -> None:
    words, now = [], 0.0
    for text, pause, length in pieces:
        start = now + pause
        now = start + length  # the next word may begin just there, so that the sum is rounded once
        words.append(Word(text, start, now, 0.5))
    cues = cues_of(words)
    assert " ".join(line for cue in cues for line in cue.lines).split() == [each.text for each in words]
    assert all(one.end <= other.start for one, other in pairwise(cues))
    for cue in cues:
        alone = len(cue.lines) == 1 and " " not in cue.lines[0]
        assert len(cue.lines) <= LINES and (alone or cue.end - cue.start <= LONGEST)
        assert all(cell_len(line) <= LINE or " " not in line for line in cue.lines)
    numbers = re.findall(r"^(\d+)\n\d\d+:\d\d:\d\d,\d{3} --> ", as_srt(TimedText("a", "", tuple(words))), re.MULTILINE)
    assert numbers == [str(number) for number in range(1, len(cues) + 1)]
