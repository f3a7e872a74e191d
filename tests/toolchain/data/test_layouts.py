"""Tables, JSON lines, Kaldi directories and pairs: recognised by content, read with all their bad rows, asked about if in doubt."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from device_runner.audio import read_audio
from device_runner.errors import AsrDeployError
from tests.helpers import Completed
from toolchain.data.datasets import DataSet, Utterance, open_data
from toolchain.data.recordings import Needs, check_recordings

NEEDS = Needs(16_000, 400)
RAMP = np.linspace(-0.5, 0.5, 16_000, dtype=np.float32)


def audio(path: Path, samples: np.ndarray = RAMP) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    known = {".opus": {"format": "OGG", "subtype": "OPUS"}}.get(path.suffix, {})
    soundfile.write(path, samples, 16_000, **known)
    return path


def written(path: Path, text: str, encoding: str = "utf-8") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode(encoding))
    return path


def refused(*args: object, **options: object) -> str:
    with pytest.raises(AsrDeployError) as caught:
        open_data(*args, **options)  # type: ignore[arg-type]
    assert str(caught.value).endswith((".", "?"))
    return str(caught.value)


def told(data: DataSet) -> list[tuple[str, str]]:
    return [(each.id, each.reference) for each in data.utterances]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with the recordings a, b and, in a folder, c, and nothing else."""
    for each in ("a.wav", "b.flac", "more/c.mp3"):
        audio(tmp_path / "set" / each)
    return tmp_path / "set"


TWO = [("a", "one two"), ("b", "Three")]


@pytest.mark.parametrize(
    ("name", "text", "encoding"),
    [
        ("metadata.csv", "file_name,transcription\r\na.wav,one  two\r\nb.flac,Three\r\n", "utf-8"),
        ("metadata.csv", "file_name;text\na.wav;one two\n\nb.flac;Three\n", "utf-8-sig"),
        ("metadata.csv", 'id,Sentence,path\n1,"one\ntwo",a.wav\n2,Three,b.flac', "utf-16"),
        ("metadata.tsv", 'path\tsentence\na.wav\t"one two"\nb.flac\tThree\n', "utf-8"),
        (
            "metadata.jsonl",
            '{"file_name": "a.wav", "text": "one two", "duration": 0.1}\n{"file_name": "b.flac", "text": "Three"}\n',
            "utf-8",
        ),
        ("manifest.json", '{"audio_filepath": "a.wav", "text": "one two"}\n{"audio_filepath": "b.flac", "text": "Three"}', "utf-8"),
    ],
)
def test_a_table_or_manifest_is_read_alone_and_in_its_folder(place: Path, name: str, text: str, encoding: str) -> None:
    path = written(place / name, text, encoding)
    for given in (place, path):
        found = open_data(str(given))
        assert told(found) == TWO and found.name == "set" and found.bad == ()
        assert all(each.start == 0 and each.seconds is None for each in found.utterances)
    assert open_data(str(place)).split == "all" and open_data(str(path)).split == path.stem
    assert "has no splits, so --split dev does not fit" in refused(str(place), "dev")
    assert "--split dev does not fit" in refused(str(path), "dev")


def test_common_voice_is_read_by_its_splits_with_quotes_as_they_are(place: Path) -> None:
    audio(place / "clips" / "d.mp3")
    header = "client_id\tpath\tsentence\tup_votes\n"
    for split in ("test", "dev"):
        written(place / f"{split}.tsv", f'{header}x\td.mp3\tHe said "{split}" "twice\t2\n')
    written(place / "reported.tsv", "sentence_id\tsentence\treason\n1\ta\tb\n")
    found = open_data(str(place), "dev")
    assert told(found) == [("d", 'He said "dev" "twice')] and (found.split, found.layout) == ("dev", "Common Voice")
    assert open_data(str(place)).split == "test"
    assert "Did you mean dev? Known: dev, test." in refused(str(place), "dew")
    (place / "test.tsv").rename(place / "validated.tsv")
    assert "has the splits dev, validated. Name one with --split." in refused(str(place))
    audio(place / "d.mp3")
    assert "clips/d.mp3 or" in open_data(str(place), "dev").bad[0].reason


def test_splits_may_be_folders_of_any_layout(place: Path) -> None:
    audio(place / "train" / "x.wav")
    written(place / "train" / "metadata.csv", "file_name,text\nx.wav,one\n")
    audio(place / "test" / "y.ogg")
    written(place / "test" / "y.txt", "two\nthree\n")
    audio(place / "dev" / "z.wav")
    written(place / "dev" / "wav.scp", f"u1 {place / 'dev' / 'z.wav'}\n")
    written(place / "dev" / "text", "u1 four\n")
    assert told(open_data(str(place), "train")) == [("x", "one")]
    assert told(open_data(str(place))) == [("y", "two three")]
    assert told(open_data(str(place), "dev")) == [("u1", "four")]


def test_two_readings_are_asked_about_and_the_answer_decides(place: Path) -> None:
    table = written(place / "metadata.csv", "file_name,text\na.wav,table\n")
    for name in ("a.txt", "b.txt", "more/c.txt"):
        written(place / name, "pairs")
    sentence = refused(str(place))
    assert "can be read in 2 ways: as table" in sentence and f"--data {table} or --data pairs:{place}" in sentence
    assert told(open_data(str(table))) == [("a", "table")]
    assert told(open_data(f"pairs:{place}")) == [("a", "pairs"), ("b", "pairs"), ("more/c", "pairs")]
    assert "contains nothing in the layout kaldi" in refused(f"kaldi:{place}")
    written(place / "test.csv", "file_name,text\na.wav,one\n")
    written(place / "test.jsonl", json.dumps({"file_name": "a.wav", "text": "one"}))
    assert "test.csv" in (sentence := refused(str(place), "test")) and "test.jsonl" in sentence


def test_segments_of_a_manifest_are_cut_and_named_by_their_times(place: Path) -> None:
    lines = [{"audio_filepath": str(place / "a.wav"), "text": "x", "offset": start, "duration": 0.25} for start in (0.0, 0.25)]
    written(place / "manifest.json", "\n".join(map(json.dumps, lines)))
    found = open_data(str(place))
    assert [each.id for each in found.utterances] == ["a-0.000-0.250", "a-0.250-0.500"]
    parts = [read_audio(each.path, 16_000, each.part) for each in found.utterances]
    np.testing.assert_array_equal(np.concatenate(parts), read_audio(place / "a.wav", 16_000)[:8_000])
    assert len(set(check_recordings(found, NEEDS).digests.values())) == 2


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("m.csv", "file,start,end,text\na.wav,0,0.25,x\na.wav,0.25,0.5,y\n"),
        ("m.csv", "\n\nFile,Offset,Duration,Text\na.wav,0,0.25,x\na.wav,0.25,0.25,y\n"),
        ("m.jsonl", '{"file": "a.wav", "text": "x", "Start": 0, "END": 0.25}\n{"file": "a.wav", "text": "y", "start": 0.25, "end": 0.5}'),
        ("m.jsonl", "".join(f'{{"Audio_Filepath": "a.wav", "Text": "x", "Offset": {each}, "Duration": 0.25}}\n' for each in (0, 0.25))),
    ],
)
def test_segments_have_a_start_and_a_duration_or_an_end_in_upper_or_lower_case(place: Path, name: str, text: str) -> None:
    found = open_data(str(written(place / name, text)))
    assert [(each.start, each.seconds) for each in found.utterances] == [(0, 0.25), (0.25, 0.25)] and not found.bad


@pytest.mark.parametrize(
    ("name", "row", "words"),
    [
        ("m.csv", "file,start,end,text\n\na.wav,0.5,0.25,x\n", "m.csv line 3 has the end 0.25, which is not behind its start 0.5"),
        ("m.csv", "file,text\nhttps://x.org/a.wav,x\n", "names an address (https://…); download the recording"),
        ("m.jsonl", '{"file": "a.wav", "text": "x", "start": 0, "offset": 0}', "has several keys for a time: start, offset"),
        ("m.jsonl", '{"file": "a.wav", "text": "x", "start": 1, "end": "soon"}', "has the end 'soon'"),
    ],
)
def test_rows_that_name_no_file_or_no_segment(place: Path, name: str, row: str, words: str) -> None:
    (bad,) = open_data(str(written(place / name, row))).bad
    assert words in bad.reason


def test_sides_of_a_call_are_the_channels_of_one_file(place: Path) -> None:
    audio(place / "call.wav", np.stack([RAMP, -RAMP], axis=1))
    written(place / "wav.scp", "call-A call.wav\ncall-B call.wav\nalone a.wav\n")
    written(place / "text", "call-A one\ncall-B two\nalone three\n")
    written(place / "reco2file_and_channel", "call-A call A\ncall-B call B\nalone a B\n")
    assert [(each.id, each.channel) for each in open_data(str(place)).utterances] == [("alone", None), ("call-A", 0), ("call-B", 1)]
    written(place / "reco2file_and_channel", "call-A call A\ncall-B call left\n")
    assert "line 2 names the channel left. Write one of A, B, 1, 2." in refused(str(place))


def test_a_kaldi_directory_with_segments_and_a_channel(place: Path) -> None:
    audio(place / "s.wav", np.stack([RAMP, -RAMP], axis=1))
    written(place / "wav.scp", "r1 s.wav\n")
    written(place / "text", "r1-a one\nr1-b two\nr1-c\nr1-d three\nr1-e four\n")
    written(place / "segments", "r1-a r1 0.5 -1 0\nr1-b r1 0.00 0.50 1\nr1-d r1 0.5 0.25\nr1-f r1 0 1\n")
    found = open_data(str(place))
    assert [(each.id, each.start, each.seconds, each.channel) for each in found.utterances] == [
        ("r1-a", 0.5, None, 0),
        ("r1-b", 0.0, 0.5, 1),
    ]
    reasons = [each.reason for each in found.bad]
    assert len(reasons) == 4 and "ends before it starts" in reasons[1] and reasons[3].startswith("r1-f has no line in")
    checked = check_recordings(found, NEEDS, skip_bad=True)
    assert len(checked.data.left_out) == 4 and checked.data.bad == ()
    with pytest.raises(AsrDeployError, match=r"4 of 6 recordings .* cannot be transcribed"):
        check_recordings(found, NEEDS)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("r1 sph2pipe -f wav a.sph |", "is a command"),
        ("r1 raw.ark:1234", "names a Kaldi archive"),
        ("r1 a.wav\nr1 b.flac", "has the same key as"),
    ],
)
def test_commands_and_archives_in_wav_scp_are_refused(place: Path, line: str, words: str) -> None:
    written(place / "wav.scp", line)
    written(place / "text", "r1 one")
    assert words in refused(str(place))
    (place / "text").unlink()
    written(place / "wav.scp", "r1 a.wav")
    assert "has wav.scp but no text" in refused(str(place))


def test_pairs_name_what_has_no_partner(place: Path) -> None:
    written(place / "a.txt", "one")
    written(place / "more/c.TXT", "two")
    written(place / "d.txt", "three")
    written(place / "README.txt", "about")
    found = open_data(str(place))
    assert told(found) == [("a", "one"), ("more/c", "two")]
    assert sorted(each.reason.split("/")[-1] for each in found.bad) == [
        "b.flac has no reference; write it to b.txt.",
        "d.txt has no audio file of the same name; add it, or remove the text.",
    ]


BAD_ROWS: dict[str, tuple[object, str]] = {
    "missing": ({"file_name": "no.wav", "text": "x"}, "there is no such audio file"),
    "empty text": ({"file_name": "a.wav", "text": " \u200b "}, "has no words"),
    "no text": ({"file_name": "a.wav"}, "has no reference"),
    "null": ({"file_name": "a.wav", "text": None}, "has no text in text"),
    "leaves": ({"file_name": "../x.wav", "text": "x"}, "leaves the folder"),
    "home": ({"file_name": "~nobody-here/x.wav", "text": "x"}, "cannot be found"),
    "null character": ({"file_name": "a\0.wav", "text": "x"}, "there is no such audio file"),
    "long": ({"file_name": "a" * 5000, "text": "x"}, "there is no such audio file"),
    "two keys": ({"file_name": "a.wav", "text": "x", "sentence": "y"}, "several keys for the reference"),
    "NaN": ({"file_name": "a.wav", "text": "x", "offset": float("nan")}, "has the offset nan"),
    "negative": ({"file_name": "a.wav", "text": "x", "offset": 0, "duration": -1}, "has the duration -1"),
    "truth": ({"file_name": "a.wav", "text": "x", "offset": True}, "has the offset True"),
    "surrogate": ({"file_name": "a.wav", "text": "x \ud800"}, "half of a surrogate pair"),
    "twice": ({"file_name": "b.flac", "text": "x"}, "has the same id as"),
    "list": ([1], "is not a JSON object"),
    "empty path": ({"file_name": " ", "text": "x"}, "names no audio file"),
}


def test_every_bad_row_is_named_with_its_line(place: Path) -> None:
    good = json.dumps({"file_name": "b.flac", "text": "y"})
    path = written(
        place / "metadata.jsonl", "\n".join([good, *(json.dumps(each) for each, _ in BAD_ROWS.values()), "{not JSON", "[" * 9_999])
    )
    found = open_data(str(place))
    assert told(found) == [("b", "y")] and len(found.bad) == len(BAD_ROWS) + 2
    for number, (each, (_, words)) in enumerate(zip(found.bad, [*BAD_ROWS.values(), *[("", "is not JSON")] * 2], strict=True), 2):
        assert f"{path} line {number} " in each.reason and words in each.reason and each.reason.endswith(".")


def test_rows_of_tables_have_as_many_fields_as_the_header(place: Path) -> None:
    written(place / "metadata.tsv", "path\tsentence\na.wav\tone\tmore\nb.flac\tthree\n")
    found = open_data(str(place))
    assert told(found) == [("b", "three")] and "line 2 has 3 fields, and the header has 2" in found.bad[0].reason


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("t.csv", "a,b\n1,2\n", "It has: a, b. Add a header"),
        ("t.csv", "", "Add a header"),
        ("t.csv", "file_name,text\n", "contains no rows"),
        ("t.csv", "file_name,text,Sentence\na.wav,x,y\n", "several columns of references: text, Sentence"),
        ("t.csv", 'file_name,text\na.wav,"x" y\n', "line 2 of"),
        ("t.csv", 'file_name,text\na.wav,"x\n', "is not CSV"),
        ("t.jsonl", '[{"file_name": "a.wav", "text": "x"}]', "is a JSON array"),
        ("t.jsonl", '{"file": 1}', "has no line with an audio file"),
    ],
)
def test_a_file_that_is_no_table_or_manifest(place: Path, name: str, content: str, words: str) -> None:
    assert words in refused(str(written(place / name, content)))


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"sep=;\nfile_name;text\na.wav;one two\nb.flac;Three\n", None),
        (b"file_name,text\ra.wav,one two\rb.flac,Three\r", None),
        ("file_name,text\na.wav,one two ♪\n".encode("utf-16-le"), "UTF-16 without a byte order mark. Save the file as UTF-8."),
        (b"name,words\na.wav,one\n", "It has: name, words. Add a header, or rename the columns."),
    ],
)
def test_tables_of_spreadsheets_are_read_or_named_with_what_they_lack(place: Path, data: bytes, words: str | None) -> None:
    (place / "metadata.csv").write_bytes(data)
    if words is None:
        assert told(open_data(str(place))) == TWO
    else:
        assert words in refused(str(place)) and words in refused(str(place / "metadata.csv"))


def test_recordings_and_empty_names_are_no_data_sets(place: Path) -> None:
    assert "a.wav is a recording. Give a table or a folder" in refused(str(place / "a.wav"))
    assert "names no folder" in refused("pairs:")


def test_a_table_that_is_not_utf8(place: Path) -> None:
    assert "Line 2 of" in refused(str(written(place / "t.csv", "file_name,text\na.wav,caf\xe9\n", "latin-1")))


def test_channels_count_from_1(place: Path) -> None:
    audio(place / "a.wav", np.stack([RAMP, -RAMP], axis=1))
    path = str(written(place / "t.csv", "file_name,text\na.wav,x\n"))
    with pytest.raises(AsrDeployError, match="choose one with --channel"):
        check_recordings(open_data(path), NEEDS)
    digests = set()
    for channel, sign in ((1, 1), (2, -1)):
        found = open_data(path, channel=channel)
        digests |= set(check_recordings(found, NEEDS).digests.values())
        assert np.sign(read_audio(found.utterances[0].path, 16_000, found.utterances[0].part)[-1]) == sign
    assert len(digests) == 2
    assert "Channels count from 1" in refused(path, channel=0)
    with pytest.raises(AsrDeployError, match="has no channel 3: it has 2"):
        check_recordings(open_data(path, channel=3), NEEDS)


def test_librispeechs_layout_takes_other_formats_where_no_flac_is(place: Path) -> None:
    root = place / "test-clean" / "1" / "2"
    for name in ("1-2-0000.mp3", "1-2-0000.flac", "1-2-0001.opus"):
        audio(root / name)
    written(root / "1-2.trans.txt", "1-2-0000 ONE\n1-2-0001 TWO\n")
    assert [each.path.suffix for each in open_data(str(place)).utterances] == [".flac", ".opus"]


def test_common_voice_goes_from_its_description_to_a_report_in_three_commands(
    tmp_path: Path, cli: Callable[..., Completed], speech: tuple[Utterance, ...]
) -> None:
    corpus = tmp_path / "cv" / "en"
    (corpus / "clips").mkdir(parents=True)
    for split, utterances in (("test", speech[:3]), ("dev", open_data("digits", "dev-clean").sample(3).utterances)):
        rows = ["client_id\tpath\tsentence"]
        for each in utterances:
            samples, rate = soundfile.read(each.path)
            soundfile.write(corpus / "clips" / f"{each.id}.mp3", samples, rate)
            rows.append(f"x\t{each.id}.mp3\t{each.reference.capitalize()}")
        written(corpus / f"{split}.tsv", "\n".join(rows))
    shown = cli("data", corpus, "--model", "DIGITS_ASR_TINY", "-o", "durations.svg", "--json", "data.json")
    assert shown.returncode == 0 and "Common Voice" in shown.stdout, shown
    figures = json.loads((tmp_path / "data.json").read_text())
    assert (figures["utterances"], figures["outside"], figures["formats"]) == (3, {}, {"MP3 MPEG_LAYER_III": 3})
    assert (tmp_path / "durations.svg").stat().st_size > 1_000
    made = cli("evaluate", "DIGITS_ASR_TINY", "--data", corpus, "-o", "results/cv", "--workers", "1", "--threads", "1")
    assert made.returncode == 0, made
    assert json.loads((tmp_path / "results/cv/result.json").read_text())["wer"] < 0.3
    written(tmp_path / "sweep.toml", f'data = "{corpus}"\n[[method]]\ncodec = "uniform"\nrates = [3.0]\n')
    for arguments in (("sweep", "--config", "sweep.toml", "-o", "results/u"), ("report", "results/u", "--data", corpus)):
        done = cli(*arguments)
        assert done.returncode == 0, done
    assert (tmp_path / "results/report/report.html").read_text().count("data:audio/mpeg") > 0


def test_data_names_bad_recordings_and_duplicates(place: Path, cli: Callable[..., Completed]) -> None:
    shutil.copy(place / "a.wav", place / "copy.wav")
    (place / "m.wav").write_bytes(b"\x00\x00\x00\x1cftypM4A \x00\x00\x02\x00" + bytes(40))
    audio(place / "s.wav", np.stack([RAMP, RAMP], axis=1))
    names = ("a.wav", "copy.wav", "m.wav", "s.wav")
    written(place / "t.csv", "file_name,text\n" + "".join(f"{each},word {each[0]}é\n" for each in names))
    shown = cli("data", place / "t.csv", "--json", "data.json")
    figures = json.loads((place.parent / "data.json").read_text())
    assert figures["utterances"] == 2 and [each["id"] for each in figures["bad"]] == ["m", "s"]
    assert figures["duplicates"] == [{"ids": ["a", "copy"], "same_text": False}] and figures["channels"] == {"1": 2, "2": 1}
    assert figures["characters"]["é"] == 2 and figures["outside"] is None
    stderr = shown.stderr
    assert "ffmpeg -i" in stderr and "--channel" in stderr and "different references" in stderr
