"""Tuning data and test data share no utterance, whatever their folders and splits are called."""

import hashlib
import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from device_runner.artifact import MANIFEST, open_artifact
from device_runner.bitstream.format import BitstreamReader, Header, Record, in_memory, read_header, write_bitstream
from device_runner.errors import AsrDeployError
from tests.helpers import Completed, artifact_of, complaint, convolution
from toolchain.accuracy.evaluation import evaluate
from toolchain.accuracy.progress import NoProgress
from toolchain.accuracy.transcriber import Transcriber, artifact_transcriber, model_transcriber
from toolchain.compression.bitstreams import calibration_of, compress, decompress
from toolchain.compression.calibration import Calibration
from toolchain.data.datasets import DataSet, Utterance, open_data
from toolchain.data.speech import calibration_speech
from toolchain.data.splits import LIBRISPEECH_TEST_CLEAN, check_tuning_data, check_unseen
from toolchain.models.anchor_model import AnchorModel
from toolchain.scenario import sweep
from toolchain.scenario.demo import Configuration, _earlier_codec

IDS = st.text("0123456789-abcé", min_size=1, max_size=12)


def data_of(*ids: str) -> DataSet:
    """Return a set of utterances whose recordings are never opened."""
    return DataSet("mine", "dev-clean", tuple(Utterance(each, Path(f"{each}.flac"), "ONE") for each in ids))


def recorded(folder: Path, split: str, *ids: str) -> Path:
    """Write recordings of the bundled dev-clean as a custom split with other ids; return the folder of the splits."""
    for number, (each, of) in enumerate(zip(ids, open_data("digits", "dev-clean").utterances, strict=False)):
        place = folder / split / "speaker" / str(number)
        place.mkdir(parents=True)
        shutil.copy(of.path, place / f"{each}.flac")
        (place / f"{number}.trans.txt").write_text(f"{each} {of.reference}\n")
    return folder


def copied_split(split: str, place: Path) -> None:
    """Copy a bundled split under another name."""
    first = open_data("digits", split).utterances[0].path
    shutil.copytree(first.parents[2], place)


# The check


@given(tuned_on=st.lists(IDS), ids=st.lists(IDS, unique=True))
def test_a_set_is_refused_if_and_only_if_an_id_is_shared(tuned_on: list[str], ids: list[str]) -> None:
    shared = [each for each in ids if each in tuned_on]
    if not shared:
        check_unseen(tuned_on, data_of(*ids), "x")
        return
    with pytest.raises(AsrDeployError) as caught:
        check_unseen(frozenset(tuned_on), data_of(*ids), "x")
    sentence = f"x used {len(shared)} of the {len(ids)} utterances of mine dev-clean for tuning (first: {shared[0]}), so WER "
    assert str(caught.value).startswith(sentence) and str(caught.value).endswith("or tune on others.")


@given(ids=st.lists(IDS, unique=True), known=st.sampled_from(["101-1-0000", "121-1-0003", "121-121726-0000", "8555-284447-0012"]))
def test_tuning_data_is_refused_if_and_only_if_it_holds_an_evaluated_utterance(ids: list[str], known: str) -> None:
    check_tuning_data(data_of(*ids))  # ids this short belong to neither set
    with pytest.raises(AsrDeployError, match=rf"mine dev-clean contains 1 utterances with ids of .*test-clean \(first: {known}\)"):
        check_tuning_data(data_of(*ids, known))


@pytest.mark.parametrize(
    "other",
    [
        "201-1-0000",  # the bundled dev-clean
        "121-2-0000",  # a user's own speaker 121, in the format of the bundled sets
        "1272-128104-0000",  # LibriSpeech's dev-clean
        "61-70968",
        "61-70968-00000",
        "061-70968-0000",
        "61-70968-0000b",
        "a61-70968-0000",
        "٦١-70968-0000",
    ],
)
def test_other_recordings_may_be_tuned_with(other: str) -> None:
    check_tuning_data(data_of(other))


def test_the_sets_that_are_known(test_clean: DataSet) -> None:
    speakers = LIBRISPEECH_TEST_CLEAN.split()
    assert len(set(speakers)) == len(speakers) == 40
    check_tuning_data(open_data("digits", "dev-clean"))
    for each in test_clean.utterances:
        with pytest.raises(AsrDeployError, match="the bundled test-clean"):
            check_tuning_data(data_of(each.id))
    for speaker in speakers:
        with pytest.raises(AsrDeployError, match="LibriSpeech's test-clean"):
            check_tuning_data(data_of(f"{speaker}-960-0000"))


# Before anything begins, by commands


@pytest.mark.parametrize(
    "command",
    [
        ("export", "--quant", "int8-static", "--calibrate", "mine", "--calibrate-split", "train", "-o", "out"),
        ("compress", "--codec", "fp16", "--calibrate", "mine", "--calibrate-split", "train", "-o", "out"),
        ("sweep", "--codec", "uniform", "--data", "mine", "-o", "out"),
        ("smallest", "--codec", "uniform", "--wer-budget", 2, "--data", "mine", "-o", "out"),
    ],
    ids=lambda command: command[0],
)
def test_a_test_set_under_another_name_is_not_tuned_with(
    command: tuple[object, ...], cli: Callable[..., Completed], tmp_path: Path
) -> None:
    for split in ("train", "dev-clean"):
        copied_split("test-clean", tmp_path / "mine" / split)
    copied_split("dev-clean", tmp_path / "mine" / "test-clean")
    sentence = complaint(cli(*command), alone=False)
    assert "contains 210 utterances with ids of the bundled test-clean (first: 101-1-0000)" in sentence
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


@pytest.mark.parametrize("command", [("sweep",), ("smallest", "--wer-budget", 2)], ids=lambda command: command[0])
@pytest.mark.parametrize(
    ("more", "words"), [((), "The search on mine"), (("--limit", 1, "--calibrated"), "The codec's calibration on mine")]
)
def test_a_search_and_its_result_share_no_utterance(
    command: tuple[object, ...], more: tuple[object, ...], words: str, cli: Callable[..., Completed], tmp_path: Path
) -> None:
    recorded(tmp_path / "mine", "dev-clean", "a", "b", "c")
    recorded(tmp_path / "mine", "test-clean", "b", "d")
    sentence = complaint(cli(*command, "--codec", "uniform", "--data", "mine", *more, "-o", "out"), alone=False)
    assert words in sentence and " utterances of mine test-clean for tuning (first: b)" in sentence
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


# Ids of the tuning data are kept, from the recordings to the artifact


def test_from_recordings_to_an_artifact(cli: Callable[..., Completed], tmp_path: Path, tiny: AnchorModel, test_clean: DataSet) -> None:
    recorded(tmp_path / "mine", "dev-clean", "a", "b")
    recorded(tmp_path / "mine", "more", "c")
    done = cli("compress", "--codec", "uniform", "--set", "bits=6", "--calibrate", "mine", "-o", "a.asrb")
    assert done.returncode == 0, done.stderr
    assert read_header(tmp_path / "a.asrb").tuned_on == ("a", "b")
    model = decompress(tmp_path / "a.asrb")
    assert model_transcriber(model).tuned_on == {"a", "b"}
    command = ("export", "--from", "a.asrb", "--quant", "int8-static", "--calibrate", "mine", "--calibrate-split", "more", "-o", "artifact")
    done = cli(*command)
    assert done.returncode == 0, done.stderr
    artifact = open_artifact(tmp_path / "artifact")
    assert artifact.manifest.tuned_on == ("a", "b", "c")
    transcriber = artifact_transcriber(artifact)
    check_unseen(transcriber.tuned_on, test_clean, transcriber.configuration)
    with pytest.raises(AsrDeployError, match=r"artifact used 1 of the 1 utterances of mine more for tuning \(first: c\)"):
        check_unseen(transcriber.tuned_on, open_data(str(tmp_path / "mine"), "more"), transcriber.configuration)
    assert tiny.tuned_on == ()


def test_an_update_is_tuned_with_what_its_base_is(tiny: AnchorModel, tmp_path: Path) -> None:
    held = AnchorModel(tiny.case, tiny.network, tiny.weights, True, tuned_on=("a", "b"))
    header = compress(tiny, "fp16", {}, tmp_path / "update.asrb", base=held)
    assert header.tuned_on == ("a", "b") and decompress(tmp_path / "update.asrb", base=held).tuned_on == ("a", "b")


def test_a_measurement_that_was_kept_has_the_ids_too(tiny: AnchorModel, tmp_path: Path) -> None:
    data = str(recorded(tmp_path / "mine", "dev-clean", "a", "b"))
    found = [calibration_of(tiny, data, "dev-clean", cache=tmp_path / "cache") for _ in range(2)]
    assert [each.tuned_on for each in found] == [("a", "b")] * 2
    assert calibration_speech(data, "dev-clean").ids == ("a", "b")


def test_a_search_hears_what_its_codec_knows_and_the_result_does_not(
    tiny: AnchorModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded(tmp_path / "mine", "dev-clean", "a", "b")
    recorded(tmp_path / "mine", "test-clean", "c")
    dev, test = (open_data(str(tmp_path / "mine"), split) for split in ("dev-clean", "test-clean"))
    seen: list[tuple[str, frozenset[str]]] = []

    def noted(transcriber: Transcriber, data: DataSet, *arguments: Any, **more: Any) -> Any:
        seen.append((data.split, transcriber.tuned_on))
        return evaluate(transcriber, data, *arguments, **more)

    monkeypatch.setattr(sweep, "evaluate", noted)
    searched = sweep.Sweep(tiny, "uniform", {}, str(tmp_path / "mine"), dev, test, tmp_path / "out", 1, NoProgress())
    for data in (dev, test):
        searched._evaluate(6.0, data)
    assert seen == [("dev-clean", frozenset()), ("test-clean", {"a", "b"})]


def test_the_demo_makes_a_bitstream_again_that_does_not_say_what_it_was_tuned_with(tiny: AnchorModel, tmp_path: Path) -> None:
    configuration = Configuration("x", codec="uniform", bits=4, calibrated=True)
    header = compress(tiny, "uniform", {"bits": 4}, tmp_path / "a.asrb", calibration=Calibration("s", tuned_on=("a",)))
    assert _earlier_codec(configuration, tmp_path / "a.asrb") == header.configuration
    compress(tiny, "uniform", {"bits": 4}, tmp_path / "a.asrb", calibration=Calibration("s"))
    with pytest.raises(AsrDeployError, match="made with other settings"):
        _earlier_codec(configuration, tmp_path / "a.asrb")


# Files


def test_an_older_manifest_opens(tmp_path: Path) -> None:
    artifact = artifact_of(tmp_path / "artifact", convolution(), tuned_on=("a",))
    assert artifact.manifest.tuned_on == ("a",)
    written = json.loads((artifact.folder / MANIFEST).read_text())
    del written["tuned_on"]
    (artifact.folder / MANIFEST).write_text(json.dumps(written))
    assert open_artifact(artifact.folder).manifest.tuned_on == ()


@given(tuned_on=st.lists(st.text(), max_size=40))
def test_bitstreams_have_ids_where_there_are_some(tuned_on: list[str]) -> None:
    record = Record(name="w", kind="fp16", shape=(1,), bytes=2)
    plain = write_bitstream(Header(codec="x", records=(record,)), [b"00"])
    made = write_bitstream(Header(codec="x", records=(record,), tuned_on=tuple(tuned_on)), [b"00"])
    reader = BitstreamReader(in_memory(made))
    assert [payload for _, payload in reader.records()] == [b"00"] and reader.header.tuned_on == tuple(tuned_on)
    assert (made == plain) == (not tuned_on)  # a bitstream without calibration is unchanged


def test_ids_cost_a_bitstream_little_and_less_than_their_digests(tiny: AnchorModel, tmp_path: Path) -> None:
    header = compress(tiny, "uniform", {"bits": 4}, tmp_path / "a.asrb")
    payloads = [bytes(each.bytes) for each in header.records]

    def cost(ids: list[str]) -> int:
        plain, more = (write_bitstream(header.model_copy(update={"tuned_on": tuple(each)}), payloads) for each in ([], ids))
        return len(more) - len(plain)

    bundled = list(calibration_speech("digits", "dev-clean").ids)
    rng = random.Random(0)
    librispeech = sorted(f"{rng.randrange(84, 8900)}-{rng.randrange(1000, 300_000)}-{rng.randrange(60):04d}" for _ in range(32))
    for ids, most in ((bundled, 150), (librispeech, 350)):
        digests = [hashlib.sha256(each.encode()).hexdigest()[:16] for each in ids]
        assert cost(ids) < min(most, cost(digests))
