"""The wheel and the sdist: what they hold, a base install without torch, and the main job from an environment outside the checkout."""

import ast
import csv
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import venv
import zipfile
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from device_runner.artifact import Artifact
from tests.helpers import REPOSITORY, TERMINAL_VARIABLES, Completed, copied
from toolchain.data.datasets import Utterance
from toolchain.extras import EXTRAS

MEGABYTE = 1_000_000
Run = Callable[..., Completed]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel and the sdist, made of what git knows: building leaves folders beside the sources."""
    folder = tmp_path_factory.mktemp("built")
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    for name in filter(None, listed.stdout.split("\0")):
        if (REPOSITORY / name).is_file():
            (folder / "source" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(REPOSITORY / name, folder / "source" / name)
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(folder / "source")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture(scope="module")
def wheel(built: Path) -> Path:
    (found,) = built.glob("*.whl")
    return found


def command_of(environment: Path, *installed: object) -> Run:
    """Install into an environment by its own pip; return what runs its `asrdeploy`, without this process's paths."""
    surroundings = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON") and key not in TERMINAL_VARIABLES}
    pip = [str(environment / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *map(str, installed)]
    done = subprocess.run(pip, env=surroundings, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr

    def run(*arguments: object, cwd: Path, program: str = "asrdeploy") -> Completed:
        command = [str(environment / "bin" / program), *map(str, arguments)]
        return subprocess.run(command, cwd=cwd, env=surroundings, capture_output=True, text=True, timeout=600)

    return run


@pytest.fixture(scope="module")
def base(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """`pip install asrdeploy`, with what pip finds for it."""
    environment = tmp_path_factory.mktemp("base")
    venv.create(environment, with_pip=True)
    return command_of(environment, wheel)


@pytest.fixture(scope="module")
def whole(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The wheel, with the other packages of this environment: torch alone is gigabytes."""
    environment = tmp_path_factory.mktemp("whole")
    venv.create(environment, with_pip=True)
    here = Path(str(metadata.distribution("numpy").locate_file("")))
    (there,) = environment.glob("lib/python*/site-packages")
    # A line of a .pth file is a path alone: the .pth files in that folder, which lead to this checkout, are not read.
    (there / "others.pth").write_text(f"{here}\n")
    return command_of(environment, "--no-deps", wheel)


# What they hold


def test_what_the_wheel_holds(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        (top_level,) = (archive.read(name).decode() for name in names if name.endswith("top_level.txt"))
    assert {name.split("/")[0] for name in names if ".dist-info" not in name} == {"asrdeploy"} and top_level.split() == ["asrdeploy"]
    inside = {f"asrdeploy/{path.relative_to(REPOSITORY)}" for path in (REPOSITORY / "toolchain" / "assets").rglob("*") if path.is_file()}
    assert inside <= set(names) and len(inside) > 300
    for package in ("toolchain", "exporters", "device_runner"):
        sources = {f"asrdeploy/{path.relative_to(REPOSITORY)}" for path in (REPOSITORY / package).rglob("*.py")}
        assert sources | {f"asrdeploy/{package}/py.typed"} <= set(names)
    assert {f"asrdeploy/{path.name}" for path in (REPOSITORY / "asrdeploy").glob("*") if path.is_file()} <= set(names)


def test_the_wheel_refers_to_itself_alone(wheel: Path) -> None:
    """No import and no name of a module is left of the repository's top level, and lines keep their numbers."""
    packages = {"toolchain", "exporters", "device_runner"}
    with zipfile.ZipFile(wheel) as archive:
        sources = {name: archive.read(name).decode() for name in archive.namelist() if name.endswith(".py")}
    assert len(sources) > 100
    for name, source in sources.items():
        for node in ast.walk(ast.parse(source)):
            found = [each.name for each in node.names] if isinstance(node, ast.Import) else []
            found += [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and re.fullmatch(r"\w+(\.\w+)+", node.value):
                found.append(node.value)
            assert not [each for each in found if each.split(".")[0] in packages], (name, found)
        place = Path(name).relative_to("asrdeploy") if Path(name).parts[1] in packages else Path(name)
        assert len(source.splitlines()) == len((REPOSITORY / place).read_text(encoding="utf-8").splitlines())


def test_the_wheel_lives_beside_a_distribution_with_a_module_toolchain(wheel: Path, tmp_path: Path) -> None:
    """Another distribution may install modules of these common names: neither replaces the other, whichever came last."""
    other, site = tmp_path / "other", tmp_path / "site"
    for package in ("toolchain", "exporters"):
        (other / package).mkdir(parents=True)
        (other / package / "__init__.py").write_text("OWNER = 'somebody else'\n")
    (other / "pyproject.toml").write_text(
        '[project]\nname = "somebody-else"\nversion = "1"\n[tool.setuptools]\npackages = ["toolchain", "exporters"]\n'
    )
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--target", str(site)]
    subprocess.run([*pip, str(other)], check=True)
    subprocess.run([*pip, str(wheel)], check=True)
    code = (
        "import toolchain, exporters, asrdeploy, asrdeploy.toolchain; "
        "from asrdeploy.toolchain.models.test_cases import TEST_CASES; "
        "print(toolchain.OWNER, exporters.OWNER, TEST_CASES[0].name, asrdeploy.Artifact.__module__)"
    )
    surroundings = os.environ | {"PYTHONPATH": str(site)}
    done = subprocess.run([sys.executable, "-P", "-c", code], cwd=tmp_path, env=surroundings, capture_output=True, text=True)
    assert done.stdout.split() == ["somebody", "else", "somebody", "else", "DIGITS_ASR_TINY", "asrdeploy.device_runner.artifact"], (
        done.stderr
    )
    assert 8 * MEGABYTE < wheel.stat().st_size < 16 * MEGABYTE


def test_the_sdist_makes_the_same_wheel(built: Path, wheel: Path) -> None:
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        archive.extractall(built / "unpacked", filter="data")
    (source,) = (built / "unpacked").iterdir()
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(built / "again"), str(source)]
    subprocess.run(command, capture_output=True, check=True)
    with zipfile.ZipFile(wheel) as ours, zipfile.ZipFile(next((built / "again").iterdir())) as theirs:
        assert {each.filename: each.CRC for each in ours.infolist() if "RECORD" not in each.filename} == {
            each.filename: each.CRC for each in theirs.infolist() if "RECORD" not in each.filename
        }
    assert (source / "LICENSE").is_file() and (source / "README.md").is_file()


def test_the_packages_that_decide_figures_are_pinned() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    wanted = [Requirement(each) for each in (*project["dependencies"], *project["optional-dependencies"]["toolchain"])]
    pinned = {each.name for each in wanted if str(each.specifier).startswith("==")}
    assert {"torch", "torchaudio", "executorch", "onnx", "onnxruntime", "torcheval", "constriction"} <= pinned
    for each in wanted:  # what the tests run with is what an install gets
        assert each.specifier.contains(metadata.version(each.name), prereleases=True), each


# A base install


@pytest.mark.slow
def test_a_base_install_is_small_and_has_no_torch(base: Run, tmp_path: Path) -> None:
    listed = base("-m", "pip", "list", "--format", "json", cwd=tmp_path, program="python")
    names = {each["name"].lower().replace("_", "-") for each in json.loads(listed.stdout)}
    assert not names & (EXTRAS["toolchain"].keys() | {"ray", "adbutils"}) and {"onnxruntime", "numpy", "asrdeploy"} <= names
    where = base("-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=tmp_path, program="python").stdout.strip()
    size = sum(path.stat().st_size for path in Path(where).rglob("*") if path.is_file() and not path.is_symlink())
    assert size < 400 * MEGABYTE, f"{size / MEGABYTE:.0f} MB"


@pytest.mark.slow
def test_a_base_install_runs_times_and_scores_artifacts(
    base: Run, tiny_fp32: Artifact, tiny_int8: Artifact, speech: tuple[Utterance, ...], tmp_path: Path
) -> None:
    copied(tiny_fp32, tmp_path / "fp32")
    copied(tiny_int8, tmp_path / "int8")
    (tmp_path / "jobs.toml").write_text('[[job]]\nname = "int8"\nartifact = "int8"\nlimit = 3\n[job.limits]\nwer = 50\nc_size = 0.5\n')

    def figures(*arguments: object) -> object:
        done = base(*arguments, "--json", "-", cwd=tmp_path)
        assert done.returncode == 0, (arguments, done.stderr)
        return json.loads(done.stdout)

    assert figures("transcribe", "int8", speech[0].path) == [{"file": str(speech[0].path), "text": speech[0].reference}]
    for name in ("fp32", "int8"):
        result = figures("evaluate", name, "--limit", 12, "-o", f"results/{name}", "--normalizer", "whisper")
        assert isinstance(result, dict) and result["utterances"] == 12 and result["c_size"] > 0.3 and result["wer"] < 0.2
    for arguments in (
        ("compare", "results/fp32", "results/int8"),
        ("score", "results/fp32", "results/int8"),
        ("bench", "fp32", "int8", "--seconds", "0.5", "--protocol", "quick", "-o", "times"),
        ("parity", "int8", "--devices", "local,local"),
        ("test", "jobs.toml"),
        ("testcases",),
        ("schemes",),
        ("devices",),
        ("doctor",),
    ):
        assert figures(*arguments)
    assert (tmp_path / "times" / "bench-fp32,int8.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
@pytest.mark.parametrize("arguments", ["export", "codecs", "sweep --codec uniform -o out", "evaluate DIGITS_ASR_TINY", "inspect artifact"])
def test_a_base_install_says_what_adds_the_rest(base: Run, tiny_int8: Artifact, tmp_path: Path, arguments: str) -> None:
    copied(tiny_int8, tmp_path / "artifact")
    done = base(*arguments.split(), cwd=tmp_path)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1, done.stderr
    assert re.search(r"Install the extra toolchain: `\S+ -m pip install 'asrdeploy\[toolchain\]'`\.$", done.stderr)


@pytest.mark.slow
def test_the_front_door_of_a_base_install(base: Run, tiny_int8: Artifact, speech: tuple[Utterance, ...], tmp_path: Path) -> None:
    """`import asrdeploy` takes no torch there, and what needs none works."""
    copied(tiny_int8, tmp_path / "artifact")
    code = (
        "import sys, asrdeploy, soundfile; print(asrdeploy.__version__); "
        "samples, rate = soundfile.read(sys.argv[1], dtype='float32'); "
        "print(asrdeploy.load('artifact').transcribe(samples, rate)); print('torch' in sys.modules)"
    )
    done = base("-c", code, speech[0].path, cwd=tmp_path, program="python")
    assert done.stdout.splitlines() == [metadata.version("asrdeploy"), speech[0].reference, "False"], done.stderr


@pytest.mark.slow
def test_a_base_install_drives_devices(base: Run, tiny_int8: Artifact, tmp_path: Path) -> None:
    code = "import asrdeploy.device_runner.device_choice, asrdeploy.device_runner.phone.runners, sys; print('torch' in sys.modules)"
    assert base("-c", code, cwd=tmp_path, program="python").stdout.strip() == "False"
    done = base("evaluate", copied(tiny_int8, tmp_path / "artifact"), "--device", "nothing-1", "--limit", 1, cwd=tmp_path)
    assert done.returncode == 2 and "Traceback" not in done.stderr  # it asks adb, and adb knows none of this name


# The main job


@pytest.mark.slow
def test_the_demo_of_the_wheel_is_complete(whole: Run, tmp_path: Path) -> None:
    done = whole("demo", "-o", tmp_path / "demo", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    with (tmp_path / "demo" / "points.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0])[:4] == ["configuration", "size_bits", "c_size", "wer"]
    assert sum(row["in_range"] == "True" for row in rows) >= 5
    curve = json.loads((tmp_path / "demo" / "points.json").read_text())
    assert curve["anchor_wer"] <= 0.034
    assert [row["configuration"] for row in rows] == [point["configuration"] for point in curve["points"]]
    for row in rows:
        assert float(row["c_size"]) == pytest.approx(int(row["size_bits"]) / (1_524_892 * 32))
        inside = curve["anchor_wer"] <= float(row["wer"]) <= curve["anchor_wer"] + 0.05
        assert row["in_range"] == str(inside)
        assert row["configuration"] in done.stdout
    sizes = {row["configuration"]: int(row["size_bits"]) for row in rows}
    assert sizes["uniform-3"] < sizes["uniform-4"] < sizes["uniform-8"] < sizes["fp16"] < sizes["onnx-fp32"]
    assert (tmp_path / "demo" / "curve.png").read_bytes().startswith(b"\x89PNG")
    done = whole("bench", "demo/onnx-int8/artifact", "--seconds", "1", "--protocol", "quick", "--json", "bench.json", cwd=tmp_path)
    assert done.returncode == 0 and json.loads((tmp_path / "bench.json").read_text())[0]["steady"][0]["n"] >= 6
    report = whole("report", "demo", "-o", "report", cwd=tmp_path)
    assert report.returncode == 0 and (tmp_path / "report" / "report.html").stat().st_size > 10_000


def test_the_wheel_is_what_runs_there(whole: Run, tmp_path: Path) -> None:
    done = whole("-c", "import asrdeploy, torch; print(asrdeploy.__file__)", cwd=tmp_path, program="python")
    assert Path(done.stdout.strip()).is_file() and not Path(done.stdout.strip()).is_relative_to(REPOSITORY)
