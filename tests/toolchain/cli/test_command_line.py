"""Properties of all commands: help with a working example, shared options, --json, exit codes and completion."""

import csv
import json
import os
import shlex
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

import pytest
import typer

from device_runner.artifact import Artifact
from device_runner.errors import AsrDeployError, DeviceFailed
from device_runner.phone.adb import CommandFailed, DeviceLost
from tests.helpers import TERMINAL_VARIABLES, Completed, complaint, copied
from toolchain.cli.main import app, devices
from toolchain.cli.options import write_figures
from toolchain.data.datasets import Utterance
from toolchain.extras import EXTRAS, extra_of, lacking
from toolchain.scenario import job_limits

Command = Callable[..., Completed]
COMMANDS: dict[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]
EXAMPLES = {name: command.epilog.removeprefix("Example: ") for name, command in COMMANDS.items()}
# In this order each command finds its inputs; the server for `receive` only runs during it.
ORDER = (
    *(
        "testcases",
        "schemes",
        "codecs",
        "doctor",
        "devices",
        "setup",
        "export",
        "inspect",
        "transcribe",
        "data",
        "evaluate",
        "compare",
        "score",
    ),
    *("bench", "test", "parity", "compress", "decompress", "deliver", "receive", "sweep", "smallest", "report"),
)
JOBS = """
[[job]]
name = "int8"
artifact = "artifacts/DIGITS_ASR_TINY-onnx-int8"
protocol = "quick"
limit = 5
[job.limits]
artifact_mb = 3.0
wer = 30
"""


def words(example: str) -> list[str]:
    name, *rest = shlex.split(example)
    assert name == "asrdeploy"
    return rest


# Help


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_help_ends_with_an_example(cli: Command, command: str) -> None:
    done = cli(command, "--help")
    assert done.returncode == 0
    last = " ".join(done.stdout.split("╯")[-1].split())
    assert last == f"Example: {EXAMPLES[command]}" and last.startswith(f"Example: asrdeploy {command}")
    assert "Example" not in COMMANDS[command].help


def test_the_help_of_all_lists_every_command(cli: Command) -> None:
    text = cli("--help").stdout
    assert all(f" {command} " in text for command in COMMANDS) and len(COMMANDS) == len(ORDER) + 1


@contextmanager
def offered(bitstream: str, folder: Path) -> Iterator[int]:
    """Serve a bitstream on a free port and yield the port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "asrdeploy", "deliver", bitstream, "--serve", "--port", str(port)]
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            limit = time.monotonic() + 60
            while time.monotonic() < limit:
                with suppress(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port), timeout=5):
                    break
                time.sleep(0.05)
            yield port
        finally:
            server.kill()


@pytest.mark.slow
def test_every_example_works(cli: Command, speech: tuple[Utterance, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the examples one after the other in one folder, as a reader would; standard output contains only JSON.

    The example of `demo` runs in test_package.py.
    """
    assert sorted(ORDER) == sorted(COMMANDS.keys() - {"demo"}) and EXAMPLES["demo"] == "asrdeploy demo"
    monkeypatch.delenv("ASRDEPLOY_CACHE")  # use the Arm bundle that is already built
    shutil.copy(speech[0].path, tmp_path / "recording.wav")  # FLAC content: the format is detected from the content
    (tmp_path / "jobs.toml").write_text(JOBS)
    figures: dict[str, Any] = {}
    for command in ORDER:
        example = words(EXAMPLES[command])
        if command == "compare":  # with a second evaluation
            artifact = "artifacts/DIGITS_ASR_TINY-onnx-int8"
            assert cli("evaluate", artifact, "--limit", 20, "-o", "results/int8").returncode == 0
        with offered("tiny.asrb", tmp_path) if command == "receive" else nullcontext(8750) as port:
            done = cli(*(word.replace(":8750/", f":{port}/") for word in example), "--json", "-")
        assert done.returncode == 0, (command, done.stdout, done.stderr)
        figures[command] = json.loads(done.stdout)
    assert {each["name"] for each in figures["testcases"]} >= {"DIGITS_ASR_TINY", "HUBERT_ASR_LARGE"}
    assert "bits" in figures["codecs"]["uniform"] and figures["schemes"][0]["name"] == "fp32"
    (heard,) = figures["transcribe"]
    assert (heard["file"], heard["text"]) == ("recording.wav", speech[0].reference)
    assert " ".join(word["text"] for word in heard["words"]) == speech[0].reference
    written = json.loads((tmp_path / "results" / "fp32" / "result.json").read_text())
    assert figures["evaluate"] == written | {"normalised": None} and written["normalised"], "`score` added the normalised WER"
    assert figures["export"]["bytes"] == figures["inspect"]["bytes"] == sum(figures["inspect"]["bytes_by_kind"].values())
    assert figures["compress"]["bytes"] == (tmp_path / "tiny.asrb").stat().st_size == (tmp_path / "received.asrb").stat().st_size
    assert figures["decompress"]["weights"] == 1_524_892 - 31  # weight normalisation is folded into the weights
    assert figures["test"][0]["problem"] is None and len(figures["test"][0]["checks"]) == 2
    here, arm = figures["parity"]
    assert (here["device"], arm["device"], arm["kind"]) == ("local", "qemu-arm64", "emulated") and here["relative"] == 0
    assert arm["relative"] <= 0.03 and arm["equal_arg_max"] >= 0.98 and arm["wer"] < 0.1
    assert arm["transcripts_equal"] >= arm["utterances"] - 1
    rows = list(csv.DictReader((tmp_path / "results" / "report" / "points.csv").read_text().splitlines()))
    assert [point["configuration"] for point in figures["report"]["curve"]["points"]] == [row["configuration"] for row in rows]


# Options


def options() -> dict[str, list[tuple[str, Any]]]:
    found: dict[str, list[tuple[str, Any]]] = {}
    for name, command in COMMANDS.items():
        for parameter in command.params:
            for option in getattr(parameter, "opts", ()):
                if option.startswith("-"):
                    found.setdefault(option, []).append((name, parameter))
    return found


def test_an_option_is_the_same_thing_in_every_command() -> None:
    several = {option: used for option, used in options().items() if len(used) > 1}
    assert {"--json", "--output", "--threads", "--model", "--weights", "--limit", "--data", "--calibrate"} <= several.keys()
    for option, used in several.items():
        kinds = {(parameter.is_flag, parameter.multiple and option != "--codec", tuple(parameter.opts)) for _, parameter in used}
        assert len(kinds) == 1, (option, [name for name, _ in used], kinds)


def test_every_command_gives_its_figures_as_json() -> None:
    assert {name for name, _ in options()["--json"]} == set(COMMANDS)


def test_every_option_says_what_it_is_for() -> None:
    assert [(name, parameter.name) for used in options().values() for name, parameter in used if not parameter.help] == []


def test_figures_in_a_file_and_alone_on_standard_output(cli: Command, tmp_path: Path) -> None:
    done = cli("testcases", "--json", "out/cases.json")
    assert done.returncode == 0 and "DIGITS_ASR_TINY" in done.stdout and "JSON written to out/cases.json." in done.stdout
    written = json.loads((tmp_path / "out" / "cases.json").read_text())
    alone = cli("testcases", "--json", "-")
    assert json.loads(alone.stdout) == written and "DIGITS_ASR_TINY" in alone.stderr and not (tmp_path / "-").exists()
    assert "DIGITS_ASR_TINY" in cli("testcases").stdout, "--json - must not redirect the output of later commands"


def test_a_file_for_figures_that_cannot_be_written(cli: Command, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("work")
    assert "Cannot write" in complaint(cli("testcases", "--json", "file/cases.json"))
    assert (tmp_path / "file").read_text() == "work"


def test_figures_that_are_no_numbers_are_null(cli: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_figures(Path("a.json"), {"nan": float("nan"), "infinite": float("inf"), "path": Path("a/b")})
    assert json.loads(Path("a.json").read_text()) == {"nan": None, "infinite": None, "path": "a/b"}


def test_what_gives_no_figures_takes_no_json(cli: Command, tmp_path: Path) -> None:
    (tmp_path / "a.asrb").touch()
    assert "--serve measures nothing, so it has no result. Leave --json out." in complaint(
        cli("deliver", "a.asrb", "--serve", "--json", "a.json")
    )
    assert "--clean lists nothing, so it has no result. Leave --json out." in complaint(
        cli("devices", "--clean", "emulator-1", "--json", "a.json")
    )


# Exit codes


@pytest.mark.parametrize(
    ("error", "code"),
    [(AsrDeployError("Mend it."), 2), (DeviceLost("It is gone."), 3), (CommandFailed("a", "b", 1, ""), 3), (DeviceFailed("It broke."), 3)],
)
def test_a_device_that_failed_is_not_the_users_mistake(
    cli: Command, tiny_int8: Artifact, monkeypatch: pytest.MonkeyPatch, error: AsrDeployError, code: int
) -> None:
    def opened(*choice: object) -> None:
        raise error

    monkeypatch.setattr(devices, "open_chosen", opened)
    done = cli("parity", tiny_int8.folder, "--devices", "phone")
    assert done.returncode == code and done.stderr.endswith(f"asrdeploy: {error}\n")


@pytest.mark.parametrize(
    ("error", "code"), [(None, 0), (AsrDeployError("Mend it."), 2), (DeviceLost("It is gone."), 3)], ids=["done", "mendable", "device"]
)
def test_the_exit_code_of_test_jobs(
    cli: Command,
    tiny_int8: Artifact,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: AsrDeployError | None,
    code: int,
) -> None:
    copied(tiny_int8, tmp_path / "artifacts" / "DIGITS_ASR_TINY-onnx-int8")
    easy = JOBS.replace("wer = 30\n", "")
    (tmp_path / "jobs.toml").write_text(easy + JOBS.replace('"int8"', '"strict"').replace("artifact_mb = 3.0", "artifact_mb = 0.001"))
    if error is not None:

        def evaluated(*given: object) -> None:
            raise error

        monkeypatch.setattr(job_limits, "_evaluated", evaluated)
    done = cli("test", "jobs.toml", "--json", "outcome.json")
    assert done.returncode == (code or 1), "without an error the second job exceeds its limit"
    outcomes = json.loads((tmp_path / "outcome.json").read_text())
    assert [each["device_failed"] for each in outcomes] == [False, code == 3]


def test_a_runner_that_breaks_off_is_a_device_that_failed(cli: Command, tiny_int8: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("device_runner.devices.sys.executable", "/bin/false")
    done = cli("bench", tiny_int8.folder, "--seconds", "0.5", "--protocol", "quick")
    assert done.returncode == 3 and "ended with code 1 and without a result" in done.stderr and "Traceback" not in done.stderr


# Extras


def test_extras_know_their_modules() -> None:
    assert extra_of("torch.nn.functional") == "toolchain" and extra_of("onnx_ir") == "toolchain" and extra_of("ray") == "ray"
    assert extra_of("adbutils") == "phones" and extra_of("numpy") is None and extra_of("") is None
    modules = [module for packages in EXTRAS.values() for module in packages.values()]
    assert len(set(modules)) == len(modules)


def test_a_module_of_no_extra_is_a_defect() -> None:
    assert lacking(ModuleNotFoundError("No module named 'nothing'", name="nothing")) is None


BLOCKED = (
    "import sys; sys.modules.update(dict.fromkeys({blocked!r})); from toolchain.cli.main import main; sys.argv[1:] = {arguments!r}; main()"
)


def blocked_command(extra: str, *arguments: object, cwd: Path) -> Completed:
    """Run a command as if an extra were not installed."""
    code = BLOCKED.format(blocked=[*EXTRAS[extra].values()], arguments=[*map(str, arguments)])
    surroundings = {key: value for key, value in os.environ.items() if key not in TERMINAL_VARIABLES}
    return subprocess.run([sys.executable, "-c", code], cwd=cwd, env=surroundings, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize(
    "arguments",
    ["export", "codecs", "compress --codec fp16 -o a.asrb", "evaluate 0 --limit 1", "sweep --codec uniform -o a", "demo --limit 1"],
)
def test_a_command_that_misses_its_extra_says_which(tmp_path: Path, arguments: str) -> None:
    sentence = complaint(blocked_command("toolchain", *arguments.split(), cwd=tmp_path))
    assert "which is not installed. Install the extra toolchain: `" in sentence and "install 'asrdeploy[toolchain]'`." in sentence
    assert list(tmp_path.iterdir()) == []


def test_the_cluster_misses_its_extra(tiny_int8: Artifact, tmp_path: Path) -> None:
    done = blocked_command("ray", "evaluate", tiny_int8.folder, "--engine", "ray", "--limit", 1, cwd=tmp_path)
    assert "[ray]" in complaint(done)


# Completion by the shell


def completed(*typed: str) -> list[str]:
    """Return the completions that bash would offer."""
    script = Path(sys.executable).with_name("asrdeploy")
    asked = {"_ASRDEPLOY_COMPLETE": "complete_bash", "COMP_WORDS": " ".join(("asrdeploy", *typed)), "COMP_CWORD": str(len(typed))}
    return subprocess.run([script], env=os.environ | asked, capture_output=True, text=True, timeout=60).stdout.split()


def test_the_shell_completes_commands_options_and_names() -> None:
    assert completed("ev") == ["evaluate"] and set(completed("s")) == {"schemes", "score", "setup", "smallest", "sweep"}
    assert completed("export", "--qu") == ["--quant"]
    assert completed("export", "--quant", "int4+") == ["int4+conv8", "int4+reduce_range"]
    assert completed("export", "--model", "HUB") == ["HUBERT_ASR_LARGE", "HUBERT_ASR_XLARGE"]
    assert completed("evaluate", "--normalizer", "w") == ["whisper"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_can_be_shown(shell: str) -> None:
    script = Path(sys.executable).with_name("asrdeploy")
    surroundings = os.environ | {"_ASRDEPLOY_COMPLETE": f"source_{shell}"}
    done = subprocess.run([script], env=surroundings, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and "asrdeploy" in done.stdout
