"""Test the Arm bundle: build it from Debian's and PyPI's arm64 packages, run it with qemu-user, and pack it for a device."""

import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from device_runner.artifact import Artifact
from device_runner.engines import open_engine
from device_runner.errors import AsrDeployError
from device_runner.files import sha256_of
from device_runner.labels import select_labels
from device_runner.phone import arm_bundle
from device_runner.phone.arm_bundle import build_bundle, command, layers, pack_bundle, qemu_launcher
from toolchain.data.datasets import Utterance

MEGABYTE = 1_000_000

PROBE = """
import json, sys
from pathlib import Path
import numpy as np
from device_runner.artifact import open_artifact
from device_runner.audio import read_audio
from device_runner.engines import open_engine
from device_runner.facts import machine_facts
audio, out, *folders = map(Path, sys.argv[1:])
waveform = read_audio(audio, 16_000)
for number, folder in enumerate(folders):
    np.save(out / f"{number}.npy", open_engine(open_artifact(folder)).logits(waveform))
print(json.dumps(machine_facts()))
"""
SURROUNDINGS = """
import json, os, subprocess, sys, tempfile
child = subprocess.run([sys.executable, "-c", "import sys; print(sys.argv[1])", "a  b"], capture_output=True, text=True)
inherited = [name for name in ("LD_LIBRARY_PATH", "LD_PRELOAD", "PYTHONSTARTUP") if name in os.environ]
print(json.dumps([sys.argv[1:], sys.executable, tempfile.gettempdir(), os.environ["HOME"], sys.path, child.stdout, inherited]))
"""


@pytest.fixture(scope="session")
def bundle() -> Path:
    """Return the bundle in the cache folder, so that it is built only once for many test runs."""
    return build_bundle()


@pytest.fixture
def copy(bundle: Path, tmp_path: Path) -> Path:
    """Return a bundle with other folder times, whose files are links to the cache. Tests must not write into these files."""
    for layer in layers(bundle):
        shutil.copytree(layer, tmp_path / "copy" / layer.name, copy_function=os.link)
    return tmp_path / "copy" / bundle.name


def run(words: list[str], *arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    words = [*words, *map(str, arguments)]
    return subprocess.run(words, env=os.environ | environment, capture_output=True, text=True, timeout=300)


def refused(folder: Path) -> str:
    with pytest.raises(AsrDeployError) as caught:
        build_bundle(folder)
    assert [each.name for each in folder.glob("*")] in ([], [".arm64.lock"])
    return str(caught.value)


# Under qemu


@pytest.fixture(scope="module")
def arm(
    bundle: Path, tiny_fp32: Artifact, tiny_int8: Artifact, speech: tuple[Utterance, ...], tmp_path_factory: pytest.TempPathFactory
) -> tuple[dict[str, Any], list[np.ndarray]]:
    """Return the machine facts that Arm code reports, and its logits of the fp32 and int8 models."""
    out = tmp_path_factory.mktemp("arm")
    done = run(command(bundle, emulated=True, program="python"), "-c", PROBE, speech[0].path, out, tiny_fp32.folder, tiny_int8.folder)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), [np.load(out / f"{number}.npy") for number in range(2)]


def test_the_machine_is_an_arm_with_dot_products(arm: tuple[dict[str, Any], list[np.ndarray]], bundle: Path) -> None:
    facts, _ = arm
    assert facts["int8_exact"] and "asimddp" in facts["cpu_features"] and "aarch64" in facts["system"]
    pins = json.loads((layers(bundle)[0] / "packages.json").read_text())["wheels"]
    assert facts["versions"].items() >= {name: pins[name] for name in ("numpy", "onnxruntime")}.items() and "asrdeploy" in facts["versions"]


def test_fp32_agrees_with_this_machine(arm: tuple[dict[str, Any], list[np.ndarray]], tiny_fp32: Artifact, waveform: np.ndarray) -> None:
    there, here = arm[1][0], open_engine(tiny_fp32).logits(waveform)
    assert np.linalg.norm(there - here) <= 1e-5 * np.linalg.norm(here)


def test_int8_agrees_to_its_rounding(
    arm: tuple[dict[str, Any], list[np.ndarray]], tiny_int8: Artifact, waveform: np.ndarray, speech: tuple[Utterance, ...]
) -> None:
    there, here = arm[1][1], open_engine(tiny_int8).logits(waveform)
    assert np.linalg.norm(there - here) <= 0.03 * np.linalg.norm(here)
    assert (there.argmax(1) == here.argmax(1)).mean() >= 0.95
    labels = tiny_int8.manifest.labels
    assert select_labels(there, labels) == select_labels(here, labels) == select_labels(arm[1][0], labels) == speech[0].reference


# On a device


def test_archives_unpacked_in_a_path_with_a_space(bundle: Path, tmp_path: Path) -> None:
    folder = tmp_path / "on a device"
    folder.mkdir()
    for archive in pack_bundle(bundle):
        subprocess.run(["tar", "-xf", archive, "-C", folder], check=True)
    there = folder / bundle.name
    for layer in layers(there):
        assert not any(path.is_symlink() for path in layer.rglob("*"))
    # Run it with mksh, which is Android's shell.
    words = [*command(there, emulated=True, program="python")[:-2], "mksh", str(there / "python")]
    done = run(
        words, "-c", SURROUNDINGS, "a  b", "", LD_LIBRARY_PATH="/none", PYTHONSTARTUP="/none", PYTHONHOME="/none", PYTHONPATH="/none"
    )
    assert done.returncode == 0, done.stderr
    arguments, executable, temporary, home, path, child, inherited = json.loads(done.stdout)
    assert arguments == ["a  b", ""] and child == "a  b\n" and inherited == []
    assert executable == str(there / "python") and temporary == home == str(there / "tmp")
    assert all(each.startswith(str(folder)) for each in path)
    done = run(command(there, emulated=True))
    assert done.returncode == 2 and "JOB.json RESULT.json" in done.stderr


def test_a_bundle_without_its_runtime(bundle: Path, tmp_path: Path) -> None:
    shutil.copytree(bundle, tmp_path / bundle.name)
    done = run(command(tmp_path / bundle.name, emulated=False))
    assert done.returncode != 0 and "arm64-runtime-" in done.stderr


def test_a_bundle_is_small(bundle: Path) -> None:
    runtime, runner = (sum(path.stat().st_size for path in layer.rglob("*")) for layer in layers(bundle))
    assert runtime < 170 * MEGABYTE and runner < MEGABYTE


def test_equal_layers_give_equal_archives(bundle: Path, copy: Path) -> None:
    (copy / "tmp").mkdir(exist_ok=True)
    (copy / "tmp" / "left").write_text("by a job")
    (copy / "run").unlink()
    (copy / "run").write_text((bundle / "run").read_text())
    (copy / "run").chmod(0o700)
    archives = pack_bundle(bundle)
    assert [archive.name for archive in archives] == [f"{layer.name}.tar" for layer in layers(bundle)]
    assert [sha256_of(each) for each in pack_bundle(copy)] == [sha256_of(each) for each in archives]


# Built once, and never incomplete


def test_only_what_changed_is_built(copy: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))  # without apt-get and all other programs
    source = arm_bundle.own_source()
    monkeypatch.setattr(arm_bundle, "own_source", lambda: source)  # a checkout may change while its tests run
    first = build_bundle(copy.parent)
    made = (first / "run").stat().st_ino
    assert build_bundle(copy.parent) == first and (first / "run").stat().st_ino == made
    assert {name for name in source if not (first / name).is_file()} == set() and "device_runner/phone/arm_bundle.py" in source
    monkeypatch.setattr(arm_bundle, "own_source", lambda: source | {"device_runner/more.py": b"MORE = 1\n"})
    changed = build_bundle(copy.parent)
    assert changed != first and layers(changed)[0] == layers(first)[0] == layers(copy)[0]
    assert (changed / "device_runner/more.py").read_bytes() == b"MORE = 1\n" and not (first / "device_runner/more.py").exists()


def test_an_interrupted_build_leaves_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))

    def stop(line: str) -> None:
        if "wheels" in line:
            assert any((tmp_path / "cache").glob(".arm64-runtime-*/usr"))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_bundle(tmp_path / "cache", stop)
    assert [each.name for each in (tmp_path / "cache").iterdir()] == [".arm64.lock"]
    assert not any((tmp_path / "tmp").iterdir())


# Errors that a user can fix


def test_not_on_debian(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "Build it on Debian or Ubuntu" in refused(tmp_path / "cache")


def test_without_debians_keys(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(arm_bundle, "KEYRING", tmp_path / "none.gpg")
    assert "Install the package debian-archive-keyring" in refused(tmp_path / "cache")


def test_without_a_connection(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert "Check the connection to Debian" in refused(tmp_path / "cache")


def test_on_a_machine_without_a_debian_archive(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    apt = tmp_path / "apt-get"
    apt.write_text("#!/bin/sh\necho http://archive.example/ubuntu/\n")
    apt.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert "Set ASRDEPLOY_DEBIAN_ARCHIVE to the address of one" in refused(tmp_path / "cache")
    monkeypatch.setenv("ASRDEPLOY_DEBIAN_ARCHIVE", "http://archive.example/debian")
    assert arm_bundle._archives() == [("bookworm", "http://archive.example/debian")]


def test_a_wheel_that_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(AsrDeployError, match=r"No matching distribution found for numpy==0\.0\.1\)\. Check the connection to PyPI"):
        arm_bundle._fetch_wheels({"numpy": "0.0.1"}, tmp_path / "site")


def test_a_folder_that_cannot_hold_it(tmp_path: Path) -> None:
    assert "colon in its path" in refused(tmp_path / "a:b")
    (tmp_path / "file").write_text("")
    assert "Cannot write" in refused(tmp_path / "file" / "cache")


def test_without_qemu(bundle: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(AsrDeployError, match="Install Debian's package qemu-user-static"):
        command(bundle, emulated=True)
    assert command(bundle, emulated=False) == ["sh", str(bundle / "run")]
    other = tmp_path / "qemu-aarch64"
    other.touch(0o755)
    assert qemu_launcher() == ["qemu-aarch64", "-cpu", "cortex-a76"]
