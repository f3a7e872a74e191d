"""Default outputs of inputs with the same name, folders that hold another input's result, and several inputs of which one is bad."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from device_runner.artifact import Artifact, open_artifact
from tests.helpers import Completed, artifact_of, complaint, convolution, copied
from tests.toolchain.models.custom.hugging_face_folders import write_folder
from toolchain.accuracy.scoring import RESULT
from toolchain.cli.latency import _result_files
from toolchain.cli.outputs import output_folder, record_inputs

Command = Callable[..., Completed]
QUICK = ("--seconds", "0.5", "--protocol", "quick", "--rounds", 1)


def content(folder: Path) -> dict[str, bytes]:
    """Return all files below a folder, including hidden ones."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def ok(done: Completed) -> Completed:
    assert done.returncode == 0, (done.returncode, done.stderr)
    return done


@pytest.fixture
def twins(tmp_path: Path) -> tuple[Path, Path]:
    """Two artifacts in folders of the same name."""
    for run, width in (("run-a", 27), ("run-b", 28)):
        artifact_of(tmp_path / run / "artifact", convolution(width=width), labels=tuple("-|abcdefghijklmnopqrstuvwxyz0"[:width]))
    return tmp_path / "run-a" / "artifact", tmp_path / "run-b" / "artifact"


# export


def test_exports_of_folders_with_the_same_name_do_not_overwrite_each_other(cli: Command, tmp_path: Path) -> None:
    first, second = tmp_path / "run-a" / "checkpoint-1000", tmp_path / "run-b" / "checkpoint-1000"
    write_folder(first)
    shutil.copytree(first, second)
    state = load_file(second / "model.safetensors")
    name = next(key for key, each in state.items() if each.dtype.is_floating_point and each.ndim > 1)
    save_file(state | {name: state[name] * 1.01}, second / "model.safetensors", {"format": "pt"})
    plain = tmp_path / "artifacts" / "checkpoint-1000-onnx-fp32"

    ok(cli("export", "--model", first))
    before = content(plain)
    ok(cli("export", "--model", second))
    (other,) = (each for each in plain.parent.iterdir() if each != plain)
    assert other.name.startswith(f"{plain.name}-") and content(plain) == before
    assert open_artifact(other).manifest.weights != open_artifact(plain).manifest.weights
    kept = content(other)
    ok(cli("export", "--model", first))
    ok(cli("export", "--model", second))
    assert sorted(plain.parent.iterdir()) == [plain, other]  # the same inputs replace their own artifacts
    assert content(plain)["model.onnx"] == before["model.onnx"] and content(other)["model.onnx"] == kept["model.onnx"]

    before = content(plain)
    refused = complaint(cli("export", "--model", second, "-o", plain))
    assert f"{plain} holds the artifact of other weights of this model." in refused and "--replace" in refused
    assert content(plain) == before
    ok(cli("export", "--model", second, "-o", plain, "--replace"))
    assert open_artifact(plain).manifest.weights == open_artifact(other).manifest.weights


def test_an_artifact_with_another_scheme_is_not_replaced_unasked(cli: Command, tiny_int8: Artifact, tmp_path: Path) -> None:
    copied(tiny_int8, tmp_path / "here")
    before = content(tmp_path / "here")
    assert "with another quantisation scheme" in complaint(cli("export", "-o", "here"))
    (tmp_path / "here" / "manifest.json").write_text("{")
    assert "that its manifest does not name" in complaint(cli("export", "-o", "here"))
    assert content(tmp_path / "here") == before | {"manifest.json": b"{"}
    ok(cli("export", "-o", "here", "--replace"))
    assert open_artifact(tmp_path / "here").manifest.scheme == "fp32"


def test_an_export_deletes_no_file_that_no_export_wrote(cli: Command, tiny_int8: Artifact, tmp_path: Path) -> None:
    copied(tiny_int8, tmp_path / "here")
    (tmp_path / "here" / ".git").mkdir()
    (tmp_path / "here" / ".git" / "HEAD").write_text("x")
    before = content(tmp_path / "here")
    for arguments in (("--quant", "int8"), ("--quant", "int8", "--layout", "transformers", "--replace")):
        assert "here holds .git, which no export wrote" in complaint(cli("export", *arguments, "-o", "here"))
    assert content(tmp_path / "here") == before


# bench


def test_measurements_of_folders_with_the_same_name_do_not_overwrite_each_other(
    cli: Command, twins: tuple[Path, Path], tmp_path: Path
) -> None:
    first, second = (open_artifact(each).digest for each in twins)
    ok(cli("bench", twins[0], *QUICK))
    plain, other = (tmp_path / "results" / name for name in ("bench-artifact.json", f"bench-artifact-{second[:8]}.json"))
    before = plain.read_bytes()
    ok(cli("bench", twins[1], *QUICK))
    assert plain.read_bytes() == before and json.loads(other.read_text())["artifact"]["sha256"] == second
    ok(cli("bench", *twins, *QUICK))
    assert {json.loads(path.read_text())["artifact"]["sha256"] for path in (plain, other)} == {first, second}
    assert sorted(each.name for each in plain.parent.glob("*.json")) == sorted([plain.name, other.name])
    assert (plain.parent / f"bench-artifact,artifact-{second[:8]}.png").is_file() and plain.with_suffix(".png").is_file()


def test_a_folder_of_other_measurements_is_refused(twins: tuple[Path, Path], tmp_path: Path, tiny_int8: Artifact) -> None:
    first, second = map(open_artifact, twins)
    out = tmp_path / "out"
    files, _ = _result_files([first, tiny_int8], out, "local", replace=False)
    assert len(set(files)) == 2
    out.mkdir()
    files[0].write_text(json.dumps({"artifact": {"sha256": first.digest}}))
    assert _result_files([first, tiny_int8], out, "local", replace=False)[0] == files
    with pytest.raises(Exception, match=r"bench-artifact\.json holds the result of another artifact\. .* --replace"):
        _result_files([second, tiny_int8], out, "local", replace=False)
    assert _result_files([second, tiny_int8], out, "local", replace=True)[0] == files
    for pair in ([first, second], [second, first], [first, first]):
        assert len(set(_result_files(pair, out, "local", replace=False)[0])) == 2


def test_a_bad_artifact_is_named_and_the_others_are_measured(cli: Command, twins: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    done = cli("bench", twins[0], "empty", *QUICK, "--json", "-")
    assert done.returncode == 2 and "empty is not an artifact" in done.stderr
    assert len(json.loads(done.stdout)) == 1 and (tmp_path / "results" / "bench-artifact.json").is_file()
    broken = artifact_of(tmp_path / "broken", b"no model")
    done = cli("bench", broken.folder, twins[0], *QUICK, "-o", "out")
    assert done.returncode in (2, 3) and f"{broken.folder} was left out: " in done.stderr
    assert [each.name for each in (tmp_path / "out").glob("*.json")] == ["bench-artifact.json"]
    assert cli("bench", broken.folder, *QUICK).returncode in (2, 3)


# Folders of several results


def test_a_default_folder_is_shared_by_the_same_inputs_and_those_that_include_them(tmp_path: Path) -> None:
    plain = tmp_path / "report"
    assert output_folder(None, plain, ["a"]) == plain
    record_inputs(plain, ["a"])
    assert output_folder(None, plain, ["a"]) == output_folder(None, plain, ["b", "a"]) == plain
    other = output_folder(None, plain, ["b"])
    assert other.name.startswith("report-") and other != output_folder(None, plain, ["c"])
    record_inputs(other, ["b"])
    assert output_folder(None, plain, ["b"]) == other
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    assert output_folder(None, foreign, ["a"]) == foreign
    (foreign / "file").touch()
    assert output_folder(None, foreign, ["a"]) != foreign
    assert output_folder(foreign, plain, ["a"]) == foreign  # -o may name a folder of the user
    with pytest.raises(Exception, match=r"report holds the result of other inputs\. .* --replace"):
        output_folder(plain, plain, ["b"])
    assert output_folder(plain, plain, ["b"], replace=True) == plain


JOBS = '[[job]]\nname = "size"\nartifact = "{artifact}"\n[job.limits]\nartifact_mb = {most}\n'


def test_job_files_with_the_same_name_do_not_share_a_folder(cli: Command, tiny_int8: Artifact, tmp_path: Path) -> None:
    for run, most in (("ci", 9), ("nightly", 8)):
        (tmp_path / run).mkdir()
        (tmp_path / run / "jobs.toml").write_text(JOBS.format(artifact=tiny_int8.folder, most=most))
    told = [ok(cli("test", f"{run}/jobs.toml")).stdout.split("Results are in ")[1] for run in ("ci", "nightly", "ci")]
    assert told[0] == told[2] == "results/test-jobs.\n" and told[1].startswith("results/test-jobs-")
    ok(cli("test", "ci/jobs.toml", "-o", "out"))
    before = content(tmp_path / "out")
    assert "out holds the result of other inputs." in complaint(cli("test", "nightly/jobs.toml", "-o", "out"))
    assert content(tmp_path / "out") == before
    ok(cli("test", "nightly/jobs.toml", "-o", "out", "--replace"))


def test_bitstreams_of_another_delivery_do_not_overwrite_it(cli: Command, tmp_path: Path) -> None:
    for name, bits in (("a", 8), ("b", 4)):
        ok(cli("compress", "--codec", "uniform", "--set", f"bits={bits}", "-o", f"{name}.asrb"))
    ok(cli("deliver", "a.asrb", "--rates", "100"))
    before = content(tmp_path / "results" / "delivery")
    ok(cli("deliver", "b.asrb", "--rates", "100"))
    assert content(tmp_path / "results" / "delivery") == before and len(list((tmp_path / "results").iterdir())) == 2
    assert "holds the result of other inputs." in complaint(cli("deliver", "b.asrb", "--rates", "100", "-o", "results/delivery"))
    ok(cli("deliver", "a.asrb", "b.asrb", "--rates", "100"))  # the former delivery is part of this one
    assert len(json.loads((tmp_path / "results" / "delivery" / "delivery.json").read_text())["bitstreams"]) == 2


def test_a_report_of_other_sweeps_does_not_overwrite_it_and_a_bad_folder_is_named(cli: Command, tmp_path: Path) -> None:
    sweeps = 'testcase = "0"\ndata = "digits"\nlimit = 6\n[[method]]\ncodec = "uniform"\nname = "{name}"\nrates = [{rates}]\n'
    for name, rates in (("one", "6, 4"), ("two", "5")):
        (tmp_path / f"{name}.toml").write_text(sweeps.format(name=name, rates=rates))
        ok(cli("sweep", "--config", f"{name}.toml", "-o", name))
    ok(cli("report", "one"))
    before = content(tmp_path / "results" / "report")
    ok(cli("report", "two"))
    assert content(tmp_path / "results" / "report") == before and len(list((tmp_path / "results").iterdir())) == 2
    done = cli("report", "one", "missing", "two", "--json", "-")
    assert done.returncode == 2 and "missing has no points.json" in done.stderr
    assert {each["method"] for each in json.loads(done.stdout)["curve"]["points"]} == {"one", "two"}
    assert cli("report", "missing").returncode == 2

    curve = content(tmp_path / "one")
    refused = complaint(cli("sweep", "--config", "two.toml", "-o", "one"))
    assert "one holds the curve of “one”, which this sweep does not contain." in refused
    assert {name: each for name, each in content(tmp_path / "one").items() if not name.startswith("points/")} == {
        name: each for name, each in curve.items() if not name.startswith("points/")
    }
    ok(cli("sweep", "--config", "two.toml", "-o", "one", "--replace"))


# score


def test_a_bad_evaluation_is_named_and_the_others_are_scored(cli: Command, tiny_int8: Artifact, tmp_path: Path) -> None:
    ok(cli("evaluate", tiny_int8.folder, "--limit", 2, "-o", "good"))
    shutil.copytree(tmp_path / "good", tmp_path / "bad")
    (tmp_path / "bad" / RESULT).write_text("{")
    done = cli("score", "bad", "good", "missing", "--normalizer", "whisper", "--json", "-")
    assert done.returncode == 2 and "bad/result.json" in done.stderr and "missing is not a finished evaluation" in done.stderr
    assert [each["folder"] for each in json.loads(done.stdout)["runs"]] == ["good"]
    assert json.loads((tmp_path / "good" / RESULT).read_text())["normalised"]["normalizer"] == "whisper"


# --json


@pytest.mark.parametrize("content", [b"RIFF....WAVEfmt ", b'{"id": 1}\n{"id": 2}\n'])
def test_json_does_not_replace_a_file_of_another_kind(content: bytes, cli: Command, tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(content)
    assert "--json a.wav: the file exists and is not JSON, so it stays." in complaint(cli("schemes", "--json", "a.wav"))
    assert (tmp_path / "a.wav").read_bytes() == content
    for _ in range(2):  # a result may replace an earlier one
        ok(cli("schemes", "--json", "s.json"))
