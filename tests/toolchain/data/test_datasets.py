"""Data sets in LibriSpeech's layout: order, references, messages about every mismatch, and downloads of the corpus."""

import hashlib
import io
import os
import shutil
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from device_runner.errors import AsrDeployError
from tests.http_files import FileServer, serving
from toolchain.data import download as download_module
from toolchain.data.datasets import LIBRISPEECH_SHA256, DataSet, open_data, parse_transcript, read_folder

IDS = ("121-121726-0000", "1089-134686-0001", "1089-134686-0000", "1089-134691-0000", "61-70968-0010", "61-70968-0009")


def add(root: Path, utterance: str, reference: str | None = "ONE TWO", *, suffix: str = ".flac", samples: int = 160) -> Path:
    """Add an utterance to a split; ``reference=None`` writes no transcript line, ``samples=0`` no audio."""
    speaker, chapter, _ = utterance.split("-")
    folder = root / speaker / chapter
    folder.mkdir(parents=True, exist_ok=True)
    if reference is not None:
        with (folder / f"{speaker}-{chapter}.trans.txt").open("a", encoding="utf-8") as file:
            file.write(f"{utterance} {reference}\n")
    if samples:
        soundfile.write(folder / (utterance + suffix), np.zeros(samples, dtype=np.float32), 16_000)
    return folder / (utterance + suffix)


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """A folder with the splits test-clean (six utterances) and dev-clean (one)."""
    for number, utterance in enumerate(IDS):
        add(tmp_path / "data" / "test-clean", utterance, f"it's number {'n' * number}")
    add(tmp_path / "data" / "dev-clean", IDS[0])
    return tmp_path / "data"


def refused(folder: Path, split: str = "test-clean") -> str:
    with pytest.raises(AsrDeployError) as caught:
        read_folder(folder, split, "name")
    assert "\n" not in str(caught.value) and str(caught.value).endswith(".")
    return str(caught.value)


def test_utterances_come_in_torchaudios_order_with_its_references(corpus: Path) -> None:
    from torchaudio.datasets import LIBRISPEECH

    (corpus.parent / "LibriSpeech").symlink_to(corpus)
    theirs = LIBRISPEECH(corpus.parent, "test-clean")
    ours = read_folder(corpus, "test-clean", "mine")
    assert (ours.name, ours.split) == ("mine", "test-clean")
    assert [each.id for each in ours.utterances] == theirs._walker
    for number, each in enumerate(ours.utterances):
        path, _, reference, *_ = theirs.get_metadata(number)
        assert each.path.samefile(corpus.parent / "LibriSpeech" / path)
        assert each.reference == reference


def test_the_corpus_may_lie_in_a_folder_librispeech(corpus: Path) -> None:
    corpus.rename(corpus.parent / "LibriSpeech")
    assert len(read_folder(corpus.parent, "test-clean", "name").utterances) == len(IDS)


def test_references_keep_their_case_and_apostrophes(tmp_path: Path) -> None:
    add(tmp_path / "split", IDS[0], "  it's\tnot  one ")
    assert read_folder(tmp_path, "split", "name").utterances[0].reference == "it's not one"


def test_wav_and_flac_and_leftovers_of_file_managers(tmp_path: Path) -> None:
    add(tmp_path / "split", IDS[1], suffix=".wav")
    flac = add(tmp_path / "split", IDS[2])
    flac.with_name("._" + flac.name).write_bytes(b"\x00\x05\x16\x07")
    flac.with_name(".DS_Store").write_bytes(b"")
    (tmp_path / "split" / "README.TXT").write_text("")
    (tmp_path / ".hidden").mkdir()
    assert [each.path.suffix for each in read_folder(tmp_path, "split", "name").utterances] == [".flac", ".wav"]


def test_names_and_references_are_composed(tmp_path: Path) -> None:
    audio = add(tmp_path / "split", "1-100-0000", "CAFE\u0301")
    audio.rename(audio.with_name("e\u0301.flac"))
    lines = audio.parent / "1-100.trans.txt"
    lines.write_text(lines.read_text().replace("1-100-0000", "\u00e9"))
    (utterance,) = read_folder(tmp_path, "split", "name").utterances
    assert (utterance.id, utterance.reference) == ("\u00e9", "CAF\u00c9") and utterance.path.is_file()


def test_a_name_that_is_not_utf_8_gets_an_id_that_can_be_written(tmp_path: Path) -> None:
    audio = add(tmp_path / "split", "1-100-0000", "ONE")
    audio.rename(audio.parent / os.fsdecode(b"caf\xe9.flac"))
    lines = audio.parent / "1-100.trans.txt"
    lines.write_text(lines.read_text().replace("1-100-0000", "caf\\xe9"))
    (utterance,) = read_folder(tmp_path, "split", "name").utterances
    assert utterance.id == "caf\\xe9" and utterance.path.is_file()


def test_limited(corpus: Path) -> None:
    data = read_folder(corpus, "test-clean", "name")
    assert data.limited(2).utterances == data.utterances[:2]
    assert data.limited(100) == data
    for n in (0, -1):
        with pytest.raises(AsrDeployError, match="at least 1"):
            data.limited(n)


def test_missing_folder(tmp_path: Path) -> None:
    assert f"Folder {tmp_path / 'none'} does not exist" in refused(tmp_path / "none")


def test_unknown_split(corpus: Path) -> None:
    sentence = refused(corpus, "tst-clean")
    assert "Did you mean test-clean?" in sentence and "dev-clean, test-clean" in sentence


@pytest.mark.parametrize("split", ["", ".", "..", "../data/test-clean", "test-clean/61"])
def test_a_split_is_a_name_and_no_path(corpus: Path, split: str) -> None:
    assert f"“{split}”" in refused(corpus, split)


def test_empty_folders(tmp_path: Path) -> None:
    assert "contains no splits" in refused(tmp_path)
    (tmp_path / "other").mkdir()
    assert "contains no splits" in refused(tmp_path)
    (tmp_path / "test-clean").mkdir()
    assert "contains no audio" in refused(tmp_path)


def test_audio_without_a_transcript_line(corpus: Path) -> None:
    path = add(corpus / "test-clean", "61-70968-0011", None)
    assert refused(corpus).startswith(f"{path} has no line in its transcript file. ")
    add(corpus / "test-clean", "7-7-0000", None)
    assert "(and 1 more)" in refused(corpus)


def test_a_transcript_line_without_audio(corpus: Path) -> None:
    add(corpus / "test-clean", "61-70968-0011", samples=0)
    assert refused(corpus).startswith("61-70968-0011 has a transcript line but no audio file")


def test_ids_that_are_there_twice(corpus: Path) -> None:
    path = add(corpus / "test-clean", IDS[0], None, suffix=".wav")
    assert "have the same id 121-121726-0000" in refused(corpus)
    path.unlink()
    add(corpus / "test-clean", IDS[0], samples=0)
    assert "a second line for 121-121726-0000" in refused(corpus)


def test_an_empty_reference(corpus: Path) -> None:
    add(corpus / "test-clean", "61-70968-0011", " ")
    assert "contains no words for 61-70968-0011" in refused(corpus)


def test_a_transcript_that_is_no_text(corpus: Path) -> None:
    path = corpus / "test-clean" / "61" / "70968" / "61-70968.trans.txt"
    path.write_bytes(b"\xff\xfe\x00")
    assert f"{path} cannot be read as UTF-8" in refused(corpus)


WORDS = st.lists(st.text("ABCXYZ'", min_size=1, max_size=8), min_size=1, max_size=6)


@settings(max_examples=100, deadline=None)
@given(table=st.dictionaries(st.from_regex(r"[0-9]{1,4}-[0-9]{1,6}-[0-9]{4}", fullmatch=True), WORDS, max_size=8), data=st.data())
def test_transcripts_are_parsed_back(table: dict[str, list[str]], data: st.DataObject) -> None:
    blank = st.sampled_from([" ", "  ", "\t", " \t "])
    lines = []
    for utterance, words in table.items():
        lines.append(utterance + "".join(data.draw(blank) + word for word in words))
        lines.append(data.draw(st.sampled_from(["", "  ", "\r"])))
    assert dict(parse_transcript(lines, Path("a.trans.txt"))) == {utterance: " ".join(words) for utterance, words in table.items()}


def test_a_folder_is_opened_by_its_path(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert open_data(str(corpus), "dev-clean").name == "data"
    monkeypatch.setenv("HOME", str(corpus.parent))
    assert len(open_data("~/data", "test-clean").utterances) == len(IDS)


def test_a_name_that_is_neither_known_nor_a_folder(tmp_path: Path) -> None:
    with pytest.raises(AsrDeployError, match=r"“librispech”\. Did you mean librispeech"):
        open_data("librispech", "test-clean")
    (tmp_path / "file").write_text("")
    with pytest.raises(AsrDeployError, match=r"The first line of .*file names no columns of audio files"):
        open_data(str(tmp_path / "file"), "test-clean")
    for path in (tmp_path / "none",):
        with pytest.raises(AsrDeployError, match=f"Folder {path} does not exist"):
            open_data(str(path), "test-clean")


@pytest.fixture
def archive(corpus: Path) -> bytes:
    """An archive of the split test-clean as OpenSLR packs it."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        tar.add(corpus / "test-clean", "LibriSpeech/test-clean")
    return packed.getvalue()


@pytest.fixture
def mirror(archive: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    """A mirror of LibriSpeech that the environment points to, with an empty cache at tmp_path/cache."""
    with serving({"/12/test-clean.tar.gz": archive}) as server:
        monkeypatch.setattr(download_module, "RETRY_PAUSES", (0.01, 0.01, 0.01))
        monkeypatch.setenv("no_proxy", "127.0.0.1,localhost")
        monkeypatch.setenv("ASRDEPLOY_CACHE", str(tmp_path / "cache"))
        monkeypatch.setenv("ASRDEPLOY_LIBRISPEECH_URL", server.url + "/12/")
        monkeypatch.setenv("ASRDEPLOY_LIBRISPEECH_SHA256", hashlib.sha256(archive).hexdigest())
        yield server


def test_librispeech_is_fetched_once_even_over_a_cut_connection(mirror: FileServer, corpus: Path) -> None:
    mirror.cuts = [300]
    first = open_data("librispeech", "test-clean")
    assert first.name == "librispeech"
    expected = read_folder(corpus, "test-clean", "").utterances
    assert [(each.id, each.reference) for each in first.utterances] == [(each.id, each.reference) for each in expected]
    assert mirror.asked == [("/12/test-clean.tar.gz", None), ("/12/test-clean.tar.gz", "bytes=300-")]
    assert open_data("librispeech", "test-clean", download_allowed=False) == first
    assert len(mirror.asked) == 2


def test_an_archive_placed_by_hand_needs_no_server(mirror: FileServer, archive: bytes, tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "test-clean.tar.gz").write_bytes(archive)
    assert len(open_data("librispeech", "test-clean").utterances) == len(IDS)
    assert mirror.asked == []


def test_another_archive_than_the_published_one_is_refused(
    mirror: FileServer, archive: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ASRDEPLOY_LIBRISPEECH_SHA256")
    with pytest.raises(AsrDeployError, match="expected 39fde525e596…"):
        open_data("librispeech", "test-clean")
    assert list((tmp_path / "cache").iterdir()) == []
    monkeypatch.setenv("ASRDEPLOY_LIBRISPEECH_SHA256", hashlib.sha256(archive).hexdigest())
    assert open_data("librispeech", "test-clean").utterances


def test_an_archive_that_escapes_is_refused(mirror: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        tar.addfile(tarfile.TarInfo("LibriSpeech/../../evil"))
    mirror.files["/12/test-clean.tar.gz"] = packed.getvalue()
    monkeypatch.setenv("ASRDEPLOY_LIBRISPEECH_SHA256", hashlib.sha256(packed.getvalue()).hexdigest())
    with pytest.raises(AsrDeployError, match="not safe to unpack"):
        open_data("librispeech", "test-clean")
    assert not (tmp_path / "evil").exists() and not (tmp_path / "cache" / "LibriSpeech").exists()


def test_without_leave_to_download_the_sentence_says_where_it_belongs(mirror: FileServer, tmp_path: Path) -> None:
    with pytest.raises(AsrDeployError, match="place the folder there by hand") as caught:
        open_data("librispeech", "test-clean", download_allowed=False)
    assert str(tmp_path / "cache" / "LibriSpeech" / "test-clean") in str(caught.value)
    assert mirror.asked == []


def test_a_split_that_librispeech_does_not_have(mirror: FileServer) -> None:
    with pytest.raises(AsrDeployError, match="Did you mean test-clean"):
        open_data("librispeech", "../test-clean")
    assert mirror.asked == []


def test_the_checksums_are_torchaudios() -> None:
    from torchaudio.datasets.librispeech import _CHECKSUMS

    for split, sha256 in LIBRISPEECH_SHA256.items():
        assert _CHECKSUMS[f"http://www.openslr.org/resources/12/{split}.tar.gz"] == sha256


def test_a_sample_is_spread_over_the_set(test_clean: DataSet) -> None:
    sample = test_clean.sample(30)
    assert [each.id for each in sample.utterances] == [each.id for each in test_clean.utterances[::7]]
    assert test_clean.sample(10_000) == test_clean and test_clean.sample(1).utterances == test_clean.utterances[:1]
    with pytest.raises(AsrDeployError, match="Select at least 1"):
        test_clean.sample(0)


# What other people's corpora are like: docs/tests.md, "Reports from other projects"


def rewritten(audio: Path, change: Callable[[str], str], *, encoding: str = "utf-8", name: str | None = None) -> Path:
    """Change the transcript file of a recording."""
    (lines,) = audio.parent.glob("*.trans.txt")
    text = change(lines.read_text(encoding="utf-8"))
    lines.unlink()
    path = lines.with_name(name or lines.name)
    path.write_bytes(text.encode(encoding))
    return path


INVISIBLE = {
    "a zero-width space": "\u200b",
    "a byte order mark": "\ufeff",
    "a soft hyphen": "\u00ad",
    "a mark of direction": "\u200e",
    "a word joiner": "\u2060",
}


@pytest.mark.parametrize("character", INVISIBLE.values(), ids=INVISIBLE)
def test_invisible_characters_are_no_part_of_words_and_ids(tmp_path: Path, character: str) -> None:
    audio = add(tmp_path / "split", IDS[0], "ONE TWO")
    rewritten(audio, lambda text: character + text.replace("ONE TWO", f"{character}ONE{character} {character}TWO{character}"))
    (utterance,) = read_folder(tmp_path, "split", "name").utterances
    assert (utterance.id, utterance.reference) == (IDS[0], "ONE TWO")


def test_a_zero_width_space_ends_a_word_and_joiners_stay() -> None:
    persian = "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645"  # one word, with a zero-width non-joiner
    assert parse_transcript([f"1 A\u200bB {persian}"], Path("a.trans.txt")) == [("1", f"A B {persian}")]


def test_the_suffix_of_a_transcript_file_may_be_in_upper_case(tmp_path: Path) -> None:
    rewritten(add(tmp_path / "split", IDS[0], suffix=".FLAC"), str, name="121-121726.TRANS.TXT")
    assert read_folder(tmp_path, "split", "name").utterances[0].reference == "ONE TWO"


@pytest.mark.parametrize("between", [" ", "\t"])
def test_names_of_recordings_may_contain_spaces(tmp_path: Path, between: str) -> None:
    audio = add(tmp_path / "split", IDS[0])
    for name in ("my  file", "my  file 2", "my"):
        shutil.copy(audio, audio.with_name(f"{name}.flac"))
    audio.unlink()
    rewritten(audio, lambda text: "".join(f"{name}{between}WORD OF {name}\n" for name in ("my  file", "my  file 2", "my")))
    found = {each.id: each.reference for each in read_folder(tmp_path, "split", "name").utterances}
    assert found == {"my": "WORD OF my", "my  file": "WORD OF my file", "my  file 2": "WORD OF my file 2"}


@pytest.mark.parametrize("written", ["ABC-1", "abc-1.flac", "ABC-1.FLAC"])
def test_an_id_that_is_spelt_in_another_way_is_named(tmp_path: Path, written: str) -> None:
    audio = add(tmp_path / "split", IDS[0])
    rewritten(audio, lambda text: text.replace(IDS[0], written))
    audio.rename(audio.with_name("abc-1.flac"))
    assert f"It has one for {written}: write ids as the file names without their suffix." in refused(tmp_path, "split")


@pytest.mark.parametrize("end", ["\r\n", "\r", "\n"])
@pytest.mark.parametrize("encoding", ["utf-16", "utf-8-sig"])
def test_transcripts_of_windows_programs_are_read(tmp_path: Path, encoding: str, end: str) -> None:
    audio = add(tmp_path / "split", IDS[0], "\u00c9T\u00c9\u00a0CHAUD")
    add(tmp_path / "split", "121-121726-0001", "TWO")
    rewritten(audio, lambda text: text.replace("\n", end), encoding=encoding)
    assert [each.reference for each in read_folder(tmp_path, "split", "name").utterances] == ["\u00c9T\u00c9 CHAUD", "TWO"]


def test_a_split_in_place_of_its_folder_is_told_how_to_name_it(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sentence = refused(corpus / "test-clean")
    assert sentence.endswith(f"--data {corpus} --split test-clean.")
    monkeypatch.chdir(corpus / "test-clean")
    assert refused(Path()).endswith(f"--data {corpus} --split test-clean.")


def test_two_recordings_of_one_name_should_be_renamed(tmp_path: Path) -> None:
    first = add(tmp_path / "split", "1-1-01")
    second = tmp_path / "split" / "2" / "1" / first.name
    second.parent.mkdir(parents=True)
    shutil.copy(first, second)
    assert refused(tmp_path, "split").endswith("have the same id 1-1-01. Rename one of them, and its line in the transcript file.")
