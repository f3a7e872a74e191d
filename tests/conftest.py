"""Artifacts of the bundled model, exported once for all tests; bundled speech; the command line."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

# Tests run in as many processes as there are cores: more threads, in them and in what they start, would spin against each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pytest
import torch
from hypothesis import settings

from device_runner.artifact import Artifact, open_artifact
from device_runner.audio import read_audio
from tests.device_runner.phone.emulated_device.fixtures import adb_server, emulated  # noqa: F401  (fixtures)
from tests.exports import kept
from tests.helpers import TERMINAL_VARIABLES, Completed, run_command
from tests.toolchain.doctor.parts import no_adb_server, programs  # noqa: F401  (fixtures)
from toolchain.cli.main import main
from toolchain.data.datasets import DataSet, Utterance, open_data
from toolchain.models.anchor_model import AnchorModel
from toolchain.models.loading import load_model
from toolchain.scenario.exporting import export_model

# Timing never decides whether a test passes.
settings.register_profile("asrdeploy", deadline=None)
settings.load_profile("asrdeploy")


# What `make test-fast` leaves out: full-size models, the JVM, qemu, the browser, Ray, the runs of pages, and other long ways.
LONG = (
    *("android/", "asrdeploy/test_front_door.py::test_a_sweep", "asrdeploy/test_front_door.py::test_from_a_model", "exporters/executorch/"),
    *("device_runner/phone/test_arm_bundle.py", "device_runner/phone/test_phone.py", "device_runner/phone/test_phone_commands.py"),
    *("device_runner/test_devices.py", "device_runner/test_runners.py", "exporters/onnx/", "exporters/test_full_size.py"),
    *("repository/test_benchmarks.py", "repository/test_custom_model_page.py", "repository/test_package.py", "repository/test_plugins.py"),
    *("repository/test_docs.py::test_the_commands_of_a_page_run", "toolchain/accuracy/test_interruptions.py"),
    *("toolchain/accuracy/test_ray_workers.py", "toolchain/cli/test_command_line.py", "toolchain/cli/test_ctrl_c.py"),
    *(
        "toolchain/compression/test_updates.py",
        "toolchain/delivery/",
        "toolchain/reports/test_page.py",
        "toolchain/scenario/test_anchors_path.py",
    ),
    *("toolchain/training/", "toolchain/models/custom/test_hugging_face.py::test_three_commands"),
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the long tests, and put the longest file first: one of two processes begins with it, and the other takes the rest."""
    for item in items:
        if item.nodeid.removeprefix("tests/").startswith(LONG):
            item.add_marker(pytest.mark.long)
    items.sort(key=lambda item: item.path.name != "test_full_size.py")


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """More would spin against each other where the tests share their processor."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny() -> AnchorModel:
    """The bundled model; not to be changed."""
    return load_model("0")


@pytest.fixture(scope="session")
def exported_once(tiny: AnchorModel, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Artifact]:
    """The bundled model as an artifact, ``exported_once(format, scheme, max_seconds=…)``: made once, see ``tests.exports``."""
    copies = tmp_path_factory.mktemp("exported")

    def export(format_name: str, scheme: str, **options: float) -> Artifact:
        name = "-".join(["DIGITS_ASR_TINY", format_name, scheme, *(f"{value:g}" for value in options.values())])
        if not (copies / name).is_dir():
            kept(name, options, lambda folder: export_model(tiny, folder, format=format_name, quant=scheme, **options), copies / name)
        return open_artifact(copies / name)

    return export


@pytest.fixture(scope="session")
def tiny_fp32(exported_once: Callable[[str, str], Artifact]) -> Artifact:
    """The bundled model as ONNX in fp32; not to be changed."""
    return exported_once("onnx", "fp32")


@pytest.fixture(scope="session")
def tiny_int8(exported_once: Callable[[str, str], Artifact]) -> Artifact:
    """The bundled model as ONNX in int8; not to be changed."""
    return exported_once("onnx", "int8")


@pytest.fixture(scope="session")
def test_clean() -> DataSet:
    """The bundled test-clean."""
    return open_data("digits", "test-clean")


@pytest.fixture(scope="session")
def speech(test_clean: DataSet) -> tuple[Utterance, ...]:
    """The first bundled utterance of every speaker of test-clean."""
    return tuple(each for each in test_clean.utterances if each.id.endswith("-0000"))


@pytest.fixture(scope="session")
def waveform(speech: tuple[Utterance, ...]) -> np.ndarray:
    """One of these utterances as samples."""
    return read_audio(speech[0].path, 16_000)


@pytest.fixture
def asrdeploy(tmp_path: Path) -> Callable[..., Completed]:
    """The console command in a process of its own, in an empty folder: ``asrdeploy(*args, env=None)``."""
    folder = tmp_path / "cwd"
    folder.mkdir()
    return lambda *args, env=None: run_command(*args, cwd=folder, env=env)


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Completed]:
    """The command line's ``main`` in this process, in the test's temporary folder: ``cli(*args)``. For quick cases."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ASRDEPLOY_CACHE", str(tmp_path / "cache"))
    for name in TERMINAL_VARIABLES:
        monkeypatch.delenv(name, raising=False)

    def run(*args: object) -> Completed:
        command = ["asrdeploy", *map(str, args)]
        monkeypatch.setattr(sys, "argv", command)
        capsys.readouterr()
        code: object = 0
        try:
            main()
        except SystemExit as stop:
            code = stop.code or 0
        shown = capsys.readouterr()
        assert isinstance(code, int)
        return subprocess.CompletedProcess(command, code, shown.out, shown.err)

    return run
