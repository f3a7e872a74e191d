"""The command line: its output on success, and one error message and exit code 2 for mistakes that a user can fix."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from device_runner.artifact import MANIFEST, Artifact, open_artifact
from device_runner.latency import LatencyResult
from device_runner.transcripts import read_transcripts
from tests.helpers import TERMINAL_VARIABLES, Completed, artifact_of, complaint, convolution, copied, hears_ctrl_c
from toolchain.accuracy.scoring import RESULT, TRANSCRIPTS, Evaluation
from toolchain.data.datasets import DataSet, Utterance
from toolchain.scenario import demo
from toolchain.scenario.demo import CONFIGURATIONS

Command = Callable[..., Completed]
EASY = "101-1-0008"  # FOUR ZERO, transcribed correctly with the widest margin


@pytest.fixture(scope="session")
def easy(test_clean: DataSet) -> Utterance:
    return next(each for each in test_clean.utterances if each.id == EASY)


@pytest.fixture
def tiny_copy(tiny_int8: Artifact, tmp_path: Path) -> Path:
    """An artifact in the current folder of the test."""
    return copied(tiny_int8, tmp_path / "artifact")


def content(folder: Path) -> dict[str, bytes]:
    """Return all files below a folder, including hidden ones."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def printed(done: Completed) -> str:
    assert done.returncode == 0, (done.returncode, done.stderr)
    return done.stdout


# In a separate process, as installed


def test_export_to_int8_in_an_empty_folder(asrdeploy: Command, tmp_path: Path, tiny_int8: Artifact) -> None:
    text = printed(asrdeploy("export", "--quant", "int8"))
    artifact = open_artifact(tmp_path / "cwd" / "artifacts" / "DIGITS_ASR_TINY-onnx-int8")
    assert "artifacts/DIGITS_ASR_TINY-onnx-int8" in text and "onnx, int8" in text and "1,524,892" in text
    assert sorted(content(tmp_path / "cwd")) == [
        f"artifacts/DIGITS_ASR_TINY-onnx-int8/{name}" for name in (MANIFEST, "model.onnx", "tokens.txt")
    ]
    # Another process, possibly with other threads, must produce the same bytes.
    assert artifact.digest == tiny_int8.digest


def test_transcribe_prints_what_was_said(asrdeploy: Command, easy: Utterance) -> None:
    done = asrdeploy("transcribe", "DIGITS_ASR_TINY", easy.path)
    assert printed(done).strip() == easy.reference and done.stderr == ""


def test_a_mistake_is_a_sentence_and_exit_code_2(asrdeploy: Command, tmp_path: Path) -> None:
    assert "no audio file" in complaint(asrdeploy("transcribe", "0", "missing.flac"))
    assert content(tmp_path) == {}


def test_an_interrupted_evaluation_says_how_it_goes_on(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "asrdeploy", "evaluate", "DIGITS_ASR_TINY", "-o", "results"]

    with subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=hears_ctrl_c
    ) as process:
        try:
            limit = time.monotonic() + 60
            lines = tmp_path / "results" / TRANSCRIPTS
            while not (lines.exists() and lines.stat().st_size) and time.monotonic() < limit:  # the file is there before its first line
                time.sleep(0.005)
            process.send_signal(signal.SIGINT)
            _, shown = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 130 and "Traceback" not in shown
    assert shown.splitlines()[-1].startswith("asrdeploy: Interrupted")
    assert 0 < len(read_transcripts(tmp_path / "results" / TRANSCRIPTS)) < 210
    assert not (tmp_path / "results" / RESULT).exists()


def test_a_reader_that_goes_away_is_no_crash(tmp_path: Path) -> None:
    command = f"{sys.executable} -m asrdeploy schemes | true"
    done = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True)
    assert "Traceback" not in done.stderr


# Output


def test_testcases(cli: Command) -> None:
    text = printed(cli("testcases"))
    for figure in ("3021", "10095", "1524892", "94393245", "315463837"):
        assert figure in text.replace(",", ""), figure
    assert "3021 Mbit" in " ".join(text.replace(",", "").split()), "number and unit belong together"
    for name in ("DIGITS_ASR_TINY", "WAV2VEC2_ASR_BASE_960H", "HUBERT_ASR_LARGE"):
        assert name in text, "a name that is cut cannot be typed"


def test_schemes(cli: Command) -> None:
    text = printed(cli("schemes"))
    assert "fp32" in text and "int8" in text and "onnx" in text and "dynamic" in text


def test_transcribe_names_the_files_where_there_are_several(cli: Command, tiny_int8: Artifact, easy: Utterance, tmp_path: Path) -> None:
    samples, rate = soundfile.read(easy.path, dtype="float32")
    soundfile.write(tmp_path / "copy.wav", samples, rate)
    lines = printed(cli("transcribe", tiny_int8.folder, easy.path, "copy.wav")).splitlines()
    assert lines == [f"{easy.path}: {easy.reference}", f"copy.wav: {easy.reference}"]


def test_evaluate_writes_a_result(cli: Command, tiny_int8: Artifact, tmp_path: Path) -> None:
    text = printed(cli("evaluate", tiny_int8.folder, "--limit", 3))
    folder = tmp_path / "results" / "DIGITS_ASR_TINY-onnx-int8-digits-test-clean-3"
    result = Evaluation.model_validate_json((folder / RESULT).read_text())
    assert result.utterances == 3 and f"{result.wer:.2%}" in text and folder.name in text.replace("\n", "")
    before = content(folder)
    assert f"{result.wer:.2%}" in printed(cli("evaluate", tiny_int8.folder, "--limit", 3))
    assert content(folder) == before


def test_evaluate_of_a_folder_of_ones_own(cli: Command, tiny_copy: Path, easy: Utterance, tmp_path: Path) -> None:
    chapter = tmp_path / "speech" / "mine" / "1" / "2"
    chapter.mkdir(parents=True)
    samples, rate = soundfile.read(easy.path, dtype="float32")
    soundfile.write(chapter / "1-2-0000.wav", samples, rate)
    (chapter / "1-2.trans.txt").write_text("1-2-0000 four zero\n")
    printed(cli("evaluate", "artifact", "--data", "speech", "--split", "mine", "-o", "out"))
    result = Evaluation.model_validate_json((tmp_path / "out" / RESULT).read_text())
    assert (result.data, result.split, result.words, result.wer) == ("speech", "mine", 2, 0.0)


def test_bench_writes_samples_and_a_plot(cli: Command, tiny_copy: Path, tmp_path: Path) -> None:
    done = cli("bench", "artifact", "--seconds", "0.5,1", "--protocol", "quick")
    assert "p90" in printed(done)
    result = LatencyResult.model_validate_json((tmp_path / "results" / "bench-artifact.json").read_text())
    assert [each.audio_seconds for each in result.steady] == [0.5, 1.0] and not result.valid
    assert (tmp_path / "results" / "bench-artifact.png").read_bytes().startswith(b"\x89PNG")
    assert all(f"asrdeploy: Not a valid measurement: {reason}" in done.stderr for reason in result.reasons)


# Mistakes


def test_audio_that_cannot_be_read(cli: Command, easy: Utterance, tmp_path: Path) -> None:
    whole = easy.path.read_bytes()
    (tmp_path / "cut.flac").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.wav").write_text("four zero\n")
    (tmp_path / "empty.flac").touch()
    soundfile.write(tmp_path / "stereo.wav", np.zeros((16_000, 2), np.float32), 16_000)
    soundfile.write(tmp_path / "short.wav", np.zeros(743, np.float32), 16_000)
    (tmp_path / "folder").mkdir()
    for name, words in {
        "missing.flac": "no audio file missing.flac",
        "cut.flac": "cut.flac is cut short or damaged",
        "text.wav": "text.wav is a text file and cannot be read as audio",
        "empty.flac": "empty.flac",
        "stereo.wav": "2 channels",
        "short.wav": "short.wav lasts 0.046 s, and the model requires at least",
        "folder": "folder contains no audio files",
    }.items():
        assert words in complaint(cli("transcribe", "DIGITS_ASR_TINY", name))
    # Recordings before the failing one are printed.
    done = cli("transcribe", "DIGITS_ASR_TINY", easy.path, "missing.flac")
    complaint(done)
    assert done.stdout == f"{easy.path}: {easy.reference}\n"


@pytest.mark.parametrize(
    "arguments, words",
    [
        (("export", "--model", "DIGITS_ASR_TINI"), "Did you mean DIGITS_ASR_TINY?"),
        (("export", "--model", "7"), "Unknown model “7”"),
        (("export", "--format", "onx"), "Did you mean onnx?"),
        (("export", "--quant", "int9"), "Did you mean int8?"),
        (("export", "--quant", ""), "The argument behind --quant is empty"),
        (("export", "--weights", "none.safetensors"), "none.safetensors does not exist"),
        (("transcribe", "HUBERT_LARGE", "a.wav"), "Did you mean HUBERT_ASR_LARGE?"),
        (("transcribe", "artifacts/none", "a.wav"), "artifacts/none does not exist"),
        (("evaluate", "artifacts/none"), "artifacts/none does not exist"),
        (("evaluate", "digits"), "Did you mean DIGITS_ASR_TINY?"),
        (("evaluate", "0", "--data", "empty"), "empty contains no splits"),
        (("evaluate", "0", "--data", "digit"), "Did you mean digits?"),
        (("evaluate", "0", "--data", "none/at/all"), "Folder none/at/all does not exist"),
        (("evaluate", "0", "--split", "tst-clean"), "Did you mean test-clean?"),
        (("evaluate", "0", "--data", "librispeech", "--split", "test-other"), "Did you mean test-clean?"),
        (("evaluate", "0", "--limit", "0"), "1 or more"),
        (("evaluate", "0", "--limit", "-3"), "1 or more"),
        (("evaluate", "0", "--weights", "random", "--limit", "2"), "has random weights"),
        (("evaluate", "empty", "--weights", "random"), "--weights applies to models, and empty is an artifact, which contains its weights"),
        (("evaluate", "empty"), "it has no manifest.json"),
        (("bench", "empty"), "empty is not an artifact"),
        (("bench", "none"), "none is not an artifact"),
        (("bench", "file.txt"), "file.txt is a file"),
        (("demo", "--limit", "0"), "at least 1"),
        (("demo", "--limit", "-1"), "at least 1"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_a_mistake_is_one_sentence(cli: Command, tmp_path: Path, arguments: tuple[str, ...], words: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file.txt").write_text("")
    assert words in complaint(cli(*arguments))
    assert content(tmp_path) == {"file.txt": b""}


@pytest.mark.parametrize("seconds", ["two", "", "1,,2", "1;2", "2,two"])
def test_lengths_that_are_not_numbers(cli: Command, tiny_copy: Path, seconds: str) -> None:
    sentence = complaint(cli("bench", "artifact", f"--seconds={seconds}", "--protocol", "quick"))
    assert f"--seconds {seconds}: write numbers separated by commas" in sentence


@pytest.mark.parametrize("seconds", ["0", "-1", "nan", "inf", "61", "2,0"])
def test_lengths_that_are_out_of_range(cli: Command, tiny_copy: Path, seconds: str) -> None:
    sentence = complaint(cli("bench", "artifact", f"--seconds={seconds}", "--protocol", "quick"))
    assert ": give lengths above 0 and up to 60 seconds" in sentence


def test_an_unknown_protocol(cli: Command, tiny_copy: Path) -> None:
    assert "Did you mean quick?" in complaint(cli("bench", "artifact", "--protocol", "quik"))


def test_lengths_below_one_frame(cli: Command, tiny_copy: Path) -> None:
    assert "requires at least 744" in complaint(cli("bench", "artifact", "--seconds", "0.01", "--protocol", "quick"), alone=False)


@pytest.mark.parametrize("threads", ["0", "-1"])
@pytest.mark.parametrize("command", ["evaluate 0", "evaluate artifact", "transcribe 0", "transcribe artifact", "bench artifact"])
def test_threads_below_one(cli: Command, tiny_copy: Path, easy: Utterance, tmp_path: Path, command: str, threads: str) -> None:
    before = content(tmp_path)
    name, *transcriber = command.split()
    more: dict[str, tuple[object, ...]] = {"evaluate": ("--limit", 1), "transcribe": (easy.path,)}
    done = cli(name, *transcriber, *more.get(name, ()), "--threads", threads)
    assert "thread" in complaint(done, alone=False)
    assert content(tmp_path) == before


def test_no_workers_for_the_demo(cli: Command, tmp_path: Path) -> None:
    assert "--workers 0 is out of range" in complaint(cli("demo", "--limit", 1, "--workers", 0), alone=False)
    assert content(tmp_path) == {}


def test_a_changed_artifact(cli: Command, tiny_copy: Path, easy: Utterance) -> None:
    (tiny_copy / "model.onnx").write_bytes((tiny_copy / "model.onnx").read_bytes()[:-1])
    for command in (("transcribe", "artifact", easy.path), ("evaluate", "artifact"), ("bench", "artifact")):
        assert "does not match its sha256 in manifest.json" in complaint(cli(*command))


def test_an_artifact_of_random_weights_has_no_word_error_rate(cli: Command, tiny_int8: Artifact, tmp_path: Path) -> None:
    copied(tiny_int8, tmp_path / "artifact", trained=False)
    assert "has random weights" in complaint(cli("evaluate", "artifact", "--limit", 1), alone=False)
    assert not (tmp_path / "results").exists()


def test_a_foreign_model_in_an_artifact(cli: Command, easy: Utterance, tmp_path: Path) -> None:
    artifact_of(tmp_path / "names", convolution(entry="audio"))
    artifact_of(tmp_path / "garbage", b"no model at all")
    assert "its input must be input_values and its output logits" in complaint(cli("transcribe", "names", easy.path))
    done = cli("transcribe", "garbage", easy.path)
    assert done.returncode == 2 and "cannot load garbage/model.onnx" in done.stderr and len(done.stderr.splitlines()) == 1


def test_a_manifest_whose_labels_do_not_fit_the_model(cli: Command, tiny_int8: Artifact, easy: Utterance, tmp_path: Path) -> None:
    copied(tiny_int8, tmp_path / "artifact", labels=list(tiny_int8.manifest.labels[:-1]))
    assert "label" in complaint(cli("transcribe", "artifact", easy.path))


def test_weights_that_run_code_are_refused(cli: Command, tmp_path: Path) -> None:
    (tmp_path / "garbage.safetensors").write_bytes(b"garbage")
    (tmp_path / "garbage.pt").write_bytes(b"garbage")
    for name in ("garbage.safetensors", "garbage.pt"):
        assert "cannot be read as weights" in complaint(cli("export", "--weights", name))


def test_a_seed_that_is_too_large(cli: Command) -> None:
    assert "seed" in complaint(cli("export", "--weights", "random", "--seed", 2**64))


# Output folders


def test_foreign_folders_are_left_untouched(cli: Command, tiny_int8: Artifact, tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.txt").write_text("years of work")
    (tmp_path / "file").write_text("more work")
    before = content(tmp_path)
    assert "was not created by asrdeploy" in complaint(cli("export", "-o", "thesis"))
    assert "was not created by asrdeploy" in complaint(cli("export", "-o", "file"))
    complaint(cli("evaluate", tiny_int8.folder, "--limit", 1, "-o", "thesis"), alone=False)
    complaint(cli("evaluate", tiny_int8.folder, "--limit", 1, "-o", "file"), alone=False)
    complaint(cli("evaluate", tiny_int8.folder, "--limit", 1, "-o", "file/below"), alone=False)
    complaint(cli("demo", "--limit", 1, "-o", "file"), alone=False)
    assert content(tmp_path) == before


def test_a_plot_does_not_replace_the_result(cli: Command, tiny_copy: Path, tmp_path: Path) -> None:
    done = cli("bench", "artifact", "--seconds", "0.1", "--protocol", "quick", "-o", "bench.png")
    if done.returncode == 0:
        written = [path for path in tmp_path.iterdir() if path.is_file() and not path.read_bytes().startswith(b"\x89PNG")]
        assert [LatencyResult.model_validate_json(path.read_text()).threads for path in written] == [1]
    else:
        complaint(done, alone=False)


# The demo


def test_demo(cli: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run some of the configurations; test_full_size.py runs all of them."""
    some = [each for each in CONFIGURATIONS if each.name in ("onnx-fp32", "onnx-int8", "fp16", "uniform-4", "uniform-3")]
    monkeypatch.setattr(demo, "CONFIGURATIONS", some)
    text = printed(cli("demo", "--limit", 3, "-o", "out"))
    out = tmp_path / "out"
    first = (out / "points.csv").read_text()
    assert first.splitlines()[0].startswith("configuration,size_bits,c_size,wer,")
    rows = list(csv.DictReader(first.splitlines()))
    curve = json.loads((out / "points.json").read_text())
    assert [row["configuration"] for row in rows] == [point["configuration"] for point in curve["points"]]
    names = [each.name for each in some]
    assert [row["configuration"] for row in rows] == names and len(names) == 5
    assert (out / "curve.png").read_bytes().startswith(b"\x89PNG")
    # The bitstream is sent if there is one, otherwise the artifact.
    for row in rows:
        folder = out / row["configuration"]
        artifact, bitstream = open_artifact(folder / "artifact"), folder / "model.asrb"
        sent = bitstream.stat().st_size if bitstream.exists() else artifact.size_bytes
        assert int(row["size_bits"]) == 8 * sent == artifact.transmitted_bits
        assert float(row["c_size"]) == pytest.approx(8 * sent / (32 * 1_524_892))
        result = Evaluation.model_validate_json((folder / "evaluation" / RESULT).read_text())
        assert float(row["wer"]) == result.wer and result.utterances == 3
        assert row["configuration"] in text
    assert not (out / "onnx-fp32" / "model.asrb").exists() and (out / "uniform-3" / "model.asrb").exists()
    sizes = [int(row["size_bits"]) for row in rows if row["configuration"].startswith("uniform")]
    assert sizes == sorted(sizes, reverse=True)

    # A second run exports nothing and transcribes nothing again.
    kept = [path for path in out.rglob("*") if path.name in ("model.onnx", MANIFEST)]
    times = {path: path.stat().st_mtime_ns for path in kept}
    transcripts = {path: path.read_bytes() for path in out.rglob(TRANSCRIPTS)}
    assert len(kept) == 2 * len(names) and len(transcripts) == len(names) + 1
    printed(cli("demo", "--limit", 3, "-o", "out"))
    assert {path: path.stat().st_mtime_ns for path in kept} == times
    assert {path: path.read_bytes() for path in out.rglob(TRANSCRIPTS)} == transcripts
    again = list(csv.DictReader((out / "points.csv").read_text().splitlines()))
    for row in (*rows, *again):
        del row["real_time_factor"]
    assert again == rows


def test_the_console_script_is_installed(tmp_path: Path) -> None:
    script = shutil.which("asrdeploy", path=str(Path(sys.executable).parent))
    assert script
    surroundings = {key: value for key, value in os.environ.items() if key not in TERMINAL_VARIABLES}
    done = subprocess.run([script, "schemes"], cwd=tmp_path, env=surroundings, capture_output=True, text=True)
    assert "int8" in printed(done)
