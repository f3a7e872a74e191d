"""Commands with names that rich, matplotlib, URLs or encodings would interpret, with ~ in paths, and with outputs that are closed."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from device_runner.artifact import Artifact
from tests.helpers import REPOSITORY, Completed, complaint
from toolchain.cli.main import app
from toolchain.data.datasets import Utterance
from toolchain.scenario.job_limits import JobFile
from toolchain.scenario.sweep_file import SweepFile

Command = Callable[..., Completed]
BRACKETS = "[b]:smile:$x_y$#1?%41"
LATIN_1 = os.fsdecode(b"caf\xe9")
SHOWN = {BRACKETS: BRACKETS, LATIN_1: r"caf\xe9", "_a&<b>": "_a&<b>"}
names = pytest.mark.parametrize("name", SHOWN)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    return tmp_path / "home"


def written_set(folder: Path, speech: tuple[Utterance, ...]) -> Path:
    """Write two recordings in LibriSpeech layout."""
    place = folder / "test-clean" / folder.name / "1"
    place.mkdir(parents=True)
    for number, each in enumerate(speech[:2]):
        shutil.copy(each.path, place / f"u-1-{number}.flac")
    lines = [f"u-1-{number} {each.reference}\n" for number, each in enumerate(speech[:2])]
    (place / "u-1.trans.txt").write_text("".join(lines))
    return folder


# Names are printed as they are


@names
def test_names_of_folders_in_every_output(
    cli: Command, tmp_path: Path, tiny_int8: Artifact, speech: tuple[Utterance, ...], name: str
) -> None:
    shutil.copytree(tiny_int8.folder, tmp_path / name / name)
    data = written_set(tmp_path / f"data {name}", speech)
    artifact, first, second = f"{name}/{name}", f"{name}/first", f"{name}/second"
    for folder in (first, second):
        done = cli("evaluate", artifact, "--data", data, "-o", folder, "--workers", "1", "--json", f"{name}/{folder[-1]}.json")
        assert done.returncode == 0, done.stderr
        assert f"Transcripts and result are in {SHOWN[name]}/{Path(folder).name}." in done.stdout
        assert SHOWN[name] in done.stdout.split("configuration")[1].split("\n")[0]
    result = json.loads((tmp_path / first / "result.json").read_text(encoding="utf-8"))
    assert result["configuration"] == SHOWN[name] and result["data"] == f"data {SHOWN[name]}"
    done = cli("compare", first, second, "--plot", f"{name}/plot.svg", "--json", f"{name}/c.json")
    assert done.returncode == 0, done.stderr
    assert f"The plot is {SHOWN[name]}/plot.svg." in done.stdout
    done = cli("score", first, "--json", f"{name}/s.json")
    assert done.returncode == 0, done.stderr
    assert SHOWN[name][:15] in done.stdout  # the column of names is narrow
    written = json.loads((tmp_path / name / "s.json").read_text(encoding="utf-8"))
    assert Path(written["runs"][0]["folder"]) == Path(first), "the name of the file, not what is shown of it"
    done = cli("inspect", artifact)
    assert done.returncode == 0, done.stderr


@names
def test_names_of_recordings(cli: Command, tmp_path: Path, tiny_int8: Artifact, speech: tuple[Utterance, ...], name: str) -> None:
    for number in "12":
        shutil.copy(speech[0].path, tmp_path / f"{name} {number}.flac")
    done = cli("transcribe", tiny_int8.folder, f"{name} 1.flac", f"{name} 2.flac", "--json", "-")
    assert done.returncode == 0, done.stderr
    assert f"{SHOWN[name]} 1.flac: {speech[0].reference}" in done.stderr
    assert [each["file"] for each in json.loads(done.stdout)] == [f"{name} 1.flac", f"{name} 2.flac"]


@names
@pytest.mark.parametrize(
    "args", [("evaluate", "{}"), ("inspect", "{}/x"), ("score", "{}"), ("compress", "--codec", "{}", "-o", "x"), ("report", "{}")]
)
def test_names_in_messages(cli: Command, name: str, args: tuple[str, ...]) -> None:
    assert SHOWN[name] in complaint(cli(*(each.format(name) for each in args)))


@pytest.mark.parametrize("args", [("[/b]:smile:",), ("score", "--[/b]:smile:"), ("compare", "a", "b", "[/b]:smile:")])
def test_names_in_messages_about_the_command_line(cli: Command, args: tuple[str, ...]) -> None:
    done = cli(*args)
    assert done.returncode == 2 and "[/b]:smile:" in done.stderr, done.stderr


@names
def test_a_weights_file_and_a_bitstream(cli: Command, tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    bitstream, weights = f"{name}/{name}.asrb", f"{name}/{name}.safetensors"
    for args in (
        ("compress", "--codec", "uniform", "--set", "bits=8", "-o", bitstream),
        ("inspect", bitstream),
        ("decompress", bitstream, "-o", weights),
        ("testcases", "--model", "0"),
        ("evaluate", "DIGITS_ASR_TINY", "--weights", weights, "--limit", "1", "--workers", "1", "-o", f"{name}/e"),
    ):
        done = cli(*args)
        assert done.returncode == 0, (args, done.stderr)
    assert f"tensors are in {SHOWN[name]}/{SHOWN[name]}.safetensors." in cli("decompress", bitstream, "-o", weights).stdout


@names
def test_a_bitstream_is_served_under_its_name(cli: Command, tmp_path: Path, name: str) -> None:
    from toolchain.delivery.server import address_of, serving

    bitstream = tmp_path / f"{name}.asrb"
    assert cli("compress", "--codec", "uniform", "--set", "bits=8", "-o", bitstream).returncode == 0
    with serving([bitstream]) as address:
        done = cli("receive", f"{address}/{address_of(bitstream)}", "-o", "received.asrb")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "received.asrb").read_bytes() == bitstream.read_bytes()


# ~ is the home folder


def test_every_command_finds_the_home_folder() -> None:
    for command in app.registered_commands:
        assert command.callback.__wrapped__.__name__ == command.callback.__name__, "added with _add, which applies finds_home"


def test_options_and_arguments_may_begin_with_the_home_folder(cli: Command, home: Path, tiny_int8: Artifact) -> None:
    shutil.copytree(tiny_int8.folder, home / "artifact")
    done = cli("evaluate", "~/artifact", "--limit", "1", "--workers", "1", "--output=~/out", "--json=~/figures.json")
    assert done.returncode == 0, done.stderr
    assert (home / "out" / "result.json").is_file() and (home / "figures.json").is_file() and not Path("~").exists()
    assert f"{home}/no.flac" in complaint(cli("transcribe", "~/artifact", "~/no.flac"), alone=False)
    assert f"{home}/data" in complaint(cli("evaluate", "~/artifact", "--data=~/data"))
    assert f"{home}/w.safetensors" in complaint(cli("evaluate", "DIGITS_ASR_TINY", "--weights=~/w.safetensors"))
    assert "there is no user nosuchuser" in complaint(cli("inspect", "~nosuchuser/x"))


def test_files_may_name_the_home_folder(home: Path) -> None:
    sweep = SweepFile.model_validate({"testcase": "~/m", "weights": "~/w", "data": "~/d", "method": [{"codec": "ectcq"}]})
    assert (sweep.testcase, sweep.weights, sweep.data) == (f"{home}/m", f"{home}/w", f"{home}/d")
    jobs = [
        {"name": "a", "artifact": "~/a", "data": "~/d", "limits": {"wer": 1}},
        {"name": "b", "export": {"model": "~/m", "weights": "~/w"}, "limits": {"wer": 1}},
    ]
    first, second = JobFile.model_validate({"job": jobs}).job
    assert (first.artifact, first.data) == (home / "a", f"{home}/d")
    assert second.export is not None and (second.export.model, second.export.weights) == (f"{home}/m", f"{home}/w")


def test_functions_may_name_the_home_folder(home: Path, tiny_int8: Artifact) -> None:
    import asrdeploy

    shutil.copytree(tiny_int8.folder, home / "artifact")
    assert asrdeploy.open_artifact("~/artifact").folder == home / "artifact"
    assert asrdeploy.load(Path("~/artifact")).configuration == "artifact"


# Users without a home folder, deleted folders, closed outputs


HOMELESS = """
import pwd, runpy, sys
def unknown(user): raise KeyError(user)
pwd.getpwuid = unknown
sys.argv[0] = "asrdeploy"
runpy.run_module("asrdeploy", run_name="__main__", alter_sys=True)
"""


def homeless(*args: str, cwd: Path, **variables: str) -> Completed:
    """Run a command as a user without HOME and without an entry among the users."""
    surroundings = {"PATH": os.environ["PATH"], "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1", **variables}
    return subprocess.run([sys.executable, "-c", HOMELESS, *args], cwd=cwd, env=surroundings, capture_output=True, text=True, timeout=300)


def test_a_user_without_a_home_folder(tmp_path: Path) -> None:
    done = homeless("evaluate", "DIGITS_ASR_TINY", "--limit", "1", "-o", "out", cwd=tmp_path)
    assert done.returncode == 0 and "Traceback" not in done.stderr and "Warning" not in done.stderr, done.stderr
    for args in (("compress", "--codec", "ectcq", "--set", "bits=2", "--calibrate", "digits", "-o", "a.asrb"), ("setup", "arm64")):
        assert "Set ASRDEPLOY_CACHE to a folder." in complaint(homeless(*args, cwd=tmp_path))
    assert "Set TORCH_HOME." in complaint(homeless("evaluate", "WAV2VEC2_ASR_BASE_960H", cwd=tmp_path))
    plotted = homeless("compare", "out", "out", "--plot", "plot.png", cwd=tmp_path)
    assert plotted.returncode == 0 and plotted.stderr == "", plotted.stderr
    assert not (tmp_path / "~").exists()


def test_a_deleted_current_folder(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    command = ["sh", "-c", 'rmdir "$PWD" && exec "$0" -m asrdeploy testcases', sys.executable]
    done = subprocess.run(command, cwd=gone, env=os.environ | {"PYTHONPATH": str(REPOSITORY)}, capture_output=True, text=True, timeout=60)
    assert "The current folder was deleted." in complaint(done)


@pytest.mark.parametrize("redirection", ["| true", "| head -1 >/dev/null", ">&-", ">/dev/null 2>&-"])
def test_closed_outputs_leave_no_traceback_and_the_json_is_written(tmp_path: Path, redirection: str) -> None:
    script = f'"$0" -m asrdeploy testcases --json figures.json {redirection}'
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", script, sys.executable],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, ""), done
    assert json.loads((tmp_path / "figures.json").read_text())


def test_a_full_disk_behind_standard_output(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "asrdeploy", "testcases"]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(command, cwd=REPOSITORY, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60)
    assert done.returncode == 2 and done.stderr == "asrdeploy: Output cannot be read or written: No space left on device.\n"
