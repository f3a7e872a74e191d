"""The packages under examples/: installed into a fresh folder, they bring a codec and a scheme to the real command line."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from device_runner.bitstream import decoders
from device_runner.bitstream.format import Header, Record, in_memory, read_header, write_bitstream
from device_runner.errors import AsrDeployError
from tests.helpers import REPOSITORY, Completed, complaint, run_command

EXAMPLES = tuple(sorted(path.name for path in (REPOSITORY / "examples").iterdir() if (path / "pyproject.toml").is_file()))
Command = Callable[..., Completed]

NO_TORCH = """
import sys
for name in ("torch", "toolchain", "exporters"):
    sys.modules[name] = None
from device_runner.bitstream.format import open_bitstream
from device_runner.bitstream.decoders import decode_bitstream
with open_bitstream(__import__("pathlib").Path(sys.argv[1])) as stream:
    print(len(decode_bitstream(stream)[1]))
"""


@pytest.fixture(scope="module")
def plugins(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the examples, built and installed by pip without a network."""
    sources, target = tmp_path_factory.mktemp("sources"), tmp_path_factory.mktemp("plugins")
    for name in EXAMPLES:  # copies, so that builds leave nothing in the repository
        shutil.copytree(REPOSITORY / "examples" / name, sources / name, ignore=shutil.ignore_patterns("build", "*.egg-info", "__pycache__"))
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check", "--quiet", "--target", str(target)]
    command = [sys.executable, "-m", "pip", "install", *options, *(str(sources / name) for name in EXAMPLES)]
    done = subprocess.run(command, cwd=sources, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return target


@pytest.fixture
def with_plugins(plugins: Path, tmp_path: Path) -> Command:
    """The console command in an empty folder, in an environment that has the examples."""
    return lambda *args: run_command(*args, cwd=tmp_path, env=environment(plugins, tmp_path))


def environment(plugins: Path, folder: Path) -> dict[str, str]:
    """Return what an environment with the examples adds."""
    return {
        "PYTHONPATH": os.pathsep.join((str(REPOSITORY), str(plugins))),
        "ASRDEPLOY_CACHE": str(folder / "cache"),
        "OMP_NUM_THREADS": "1",
    }


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_tests_of_an_example_pass(name: str, plugins: Path, tmp_path: Path) -> None:
    shutil.copytree(REPOSITORY / "examples" / name / "tests", tmp_path / "tests")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests"]
    done = subprocess.run(
        command, cwd=tmp_path, env=os.environ | environment(plugins, tmp_path), capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr


# The codec


def test_a_codec_of_a_package_is_listed_and_codes_and_decodes(with_plugins: Command, plugins: Path, tmp_path: Path) -> None:
    assert "log" in with_plugins("codecs").stdout.split()
    for step in (2, 6):
        done = with_plugins("compress", "--codec", "log", "--set", f"step={step}", "-o", f"log-{step}.asrb")
        assert done.returncode == 0, done.stderr
    fine, coarse = (tmp_path / f"log-{step}.asrb" for step in (2, 6))
    assert fine.stat().st_size > coarse.stat().st_size > 0
    header = read_header(fine)
    assert header.codec == "log" and {each.kind for each in header.records} == {"log", "fp16"}
    done = with_plugins("decompress", fine, "-o", "log.safetensors")
    assert done.returncode == 0 and f"{len(header.records)} tensors" in done.stdout, done.stderr
    # The receiver's side of the package needs no torch.
    command = [sys.executable, "-c", NO_TORCH, str(fine)]
    done = subprocess.run(command, env=os.environ | environment(plugins, tmp_path), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 and int(done.stdout) == len(header.records), done.stderr


def test_a_receiver_without_the_package_says_what_it_lacks(with_plugins: Command, tmp_path: Path) -> None:
    assert with_plugins("compress", "--codec", "log", "--set", "step=6", "-o", "log.asrb").returncode == 0
    said = complaint(run_command("decompress", "log.asrb", "-o", "log.safetensors", cwd=tmp_path))
    assert "has the unknown kind log" in said and "the package that provides its codec" in said
    assert not (tmp_path / "log.safetensors").exists()
    assert "Unknown codec “log”" in complaint(run_command("compress", "--codec", "log", "-o", "other.asrb", cwd=tmp_path))


def test_what_a_codec_of_a_package_refuses_is_one_sentence(with_plugins: Command) -> None:
    assert "requires a step" in complaint(with_plugins("compress", "--codec", "log", "--set", "step=0", "-o", "log.asrb"))
    assert "parameter of log “stp”" in complaint(with_plugins("compress", "--codec", "log", "--set", "stp=3", "-o", "log.asrb"))


def test_a_codec_of_a_package_is_swept_and_reported(with_plugins: Command, tmp_path: Path) -> None:
    (tmp_path / "log.toml").write_text('limit = 12\n[[method]]\ncodec = "log"\nvary = "step"\nrates = [12, 6, 2]\n')
    done = with_plugins("sweep", "--config", "log.toml", "-o", "results/log")
    assert done.returncode == 0, done.stderr
    points = json.loads((tmp_path / "results" / "log" / "points.json").read_text())["points"]
    assert len(points) >= 3 and {each["method"] for each in points} == {"log"}
    sizes = [each["size_bits"] for each in points]
    assert len(set(sizes)) == len(sizes) and all(0.05 < each["c_size"] < 0.25 for each in points)
    assert with_plugins("report", "results/log", "-o", "results/report").returncode == 0
    assert "log" in (tmp_path / "results" / "report" / "report.html").read_text()


def test_decoders_of_other_packages(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "their_decoders.py").write_text(
        "import numpy as np\ndef ones(record, payload):\n    return np.full(record.elements, payload[0], np.float32)\nnothing = 3\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    names = {"plug-ones": "ones", "plug-nothing": "nothing", "plug-missing": "missing", "fp32": "ones"}
    points = [EntryPoint(name, f"their_decoders:{value}", decoders.ENTRY_POINTS) for name, value in names.items()]
    monkeypatch.setattr("device_runner.plugins.entry_points", lambda group, name: [each for each in points if each.name == name])

    def decoded(kind: str, payload: bytes) -> list[float]:
        record = Record(name="w", kind=kind, shape=(2,), bytes=len(payload))
        written = write_bitstream(Header(codec="theirs", records=(record,)), [payload])
        return decoders.decode_bitstream(in_memory(written))[1]["w"].tolist()

    assert decoded("plug-ones", b"\x07") == [7.0, 7.0]
    assert decoded("fp32", b"\0" * 8) == [0.0, 0.0]  # ours cannot be replaced
    for kind, words in (("plug-nothing", "is not a function"), ("plug-missing", "cannot be used"), ("plug-unknown", "unknown kind")):
        with pytest.raises(AsrDeployError, match=words):
            decoded(kind, b"\x07")
    with pytest.raises(AsrDeployError, match="not valid"):
        decoded("plug-ones", b"")


# The scheme


def test_a_scheme_of_a_package_is_listed_exported_and_evaluated(with_plugins: Command, plugins: Path, tmp_path: Path) -> None:
    assert "fine4" in with_plugins("schemes").stdout
    done = with_plugins("export", "--quant", "fine4", "-o", "artifacts/fine4")
    assert done.returncode == 0, done.stderr
    manifest = json.loads((tmp_path / "artifacts" / "fine4" / "manifest.json").read_text())
    assert manifest["scheme"] == "fine4" and manifest["quantised"]["matrix products in float"] == 1
    # Smaller than 8 bits a weight of the products; the labels' layer and small groups cost something against int4.
    assert 1.85e6 < manifest["files"][0]["bytes"] < 2.3e6
    # The artifact needs the package no more.
    done = run_command("evaluate", "artifacts/fine4", "--limit", "12", "-o", "results/fine4", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "results" / "fine4" / "result.json").read_text())["wer"] < 0.15
