"""Rules for the whole repository: the directions of imports, the sizes of files, the bundled speech."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from device_runner.artifact import Artifact
from tests.helpers import REPOSITORY, run_command
from toolchain.data.datasets import DataSet, Utterance, open_data
from toolchain.extras import EXTRAS
from toolchain.training.voices import DEV_SPEAKERS, TEST_SPEAKERS, TRAIN_VOICES

ASSETS = REPOSITORY / "toolchain" / "assets"
PACKAGES = ("device_runner", "exporters", "toolchain")
CODE = (*PACKAGES, "asrdeploy", "tests", "benchmarks", "scripts", "android")
MEGABYTE = 1_000_000

# Of pyproject.toml, but what makes the documentation.
EXTRA_MODULES = {module for extra, packages in EXTRAS.items() if extra != "docs" for module in packages.values()}
BLOCKED = """
import importlib, sys
sys.modules.update(dict.fromkeys({blocked!r}))
for name in {modules!r}:
    importlib.import_module(name)
"""


def contracts() -> dict[str, dict[str, Any]]:
    """The contracts of imports by their names."""
    settings = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["tool"]["importlinter"]
    return {each["name"]: each for each in settings["contracts"]}


def modules_of(package: str) -> set[str]:
    """A package's modules, or the module itself."""
    place = REPOSITORY / package.replace(".", "/")
    paths = place.rglob("*.py") if place.is_dir() else [place.with_suffix(".py")]
    return {".".join(path.relative_to(REPOSITORY).with_suffix("").parts).removesuffix(".__init__") for path in paths}


def import_without(blocked: set[str], modules: set[str]) -> None:
    """Import modules where others cannot be imported."""
    code = BLOCKED.format(blocked=sorted(blocked), modules=sorted(modules))
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_imports_point_downwards() -> None:
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache", "--config", str(REPOSITORY / "pyproject.toml")]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert int(re.findall(r"Contracts: (\d+) kept, 0 broken", done.stdout)[0]) == len(contracts()) >= 7


def test_the_floors_are_of_all_rooms() -> None:
    floors = [each for each in contracts().values() if each.get("exhaustive")]
    assert [each["containers"] for each in floors] == [["toolchain"], ["exporters"], ["device_runner"]]


def test_toolchain_has_rooms_and_no_loose_modules() -> None:
    loose = {path.name for path in (REPOSITORY / "toolchain").glob("*.py")}
    assert loose == {"__init__.py", "extras.py"}  # what every room uses
    for path in (REPOSITORY / "toolchain").rglob("*.py"):
        assert not path.stem.startswith((f"{path.parent.name}_", f"{path.parent.name.rstrip('s')}_")), path


def test_the_tests_have_the_same_rooms() -> None:
    for package in PACKAGES:
        tested = {
            str(path.parent.relative_to(REPOSITORY / "tests" / package)) for path in (REPOSITORY / "tests" / package).rglob("test_*.py")
        }
        there = {str(path.parent.relative_to(REPOSITORY / package)) for path in (REPOSITORY / package).rglob("*.py")}
        assert {each for each in tested if "emulated_device" not in each} <= there
        assert len(tested) >= len(there) - 2, (package, there - tested)


def test_the_device_runner_needs_nothing_of_the_rest() -> None:
    modules = modules_of("device_runner")
    assert len(modules) > 20
    import_without(EXTRA_MODULES | {"exporters", "toolchain"}, modules - {"device_runner.__main__"})


def test_what_a_base_install_has_needs_no_extra() -> None:
    contract = contracts()["The commands of a base install need no extra"]
    modules = set().union(*map(modules_of, contract["source_modules"]))
    assert len(modules) > 40
    import_without(EXTRA_MODULES, modules)


def test_the_contracts_of_imports_name_all_that_they_are_about() -> None:
    known = contracts()
    forbidden = [set(each["forbidden_modules"]) for each in known.values() if each["type"] == "forbidden"]
    assert forbidden == [EXTRA_MODULES] * 2
    assert known["Only the command line imports the command line"]["protected_modules"] == ["toolchain.cli"]
    assert "toolchain.cli" in known["The commands of a base install need no extra"]["source_modules"]


@pytest.mark.parametrize("module", ["exporters.export", "device_runner.engines"])
def test_lower_packages_do_not_import_the_toolchain(module: str) -> None:
    code = f"import sys; sys.modules['toolchain'] = None; import {module}"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_nothing_is_recorded_for_anybody(tiny_fp32: Artifact, speech: tuple[Utterance, ...], tmp_path: Path) -> None:
    """onnxruntime's own record of its use would lie in the home folder."""
    done = run_command("transcribe", tiny_fp32.folder, speech[0].path, cwd=tmp_path, env={"HOME": str(tmp_path), "XDG_CACHE_HOME": ""})
    assert done.returncode == 0 and done.stdout and list(tmp_path.iterdir()) == []


def test_the_command_line_answers_mistakes_without_torch() -> None:
    code = (
        "import sys; sys.modules['torch'] = None; sys.argv[1:] = ['evaluate', 'DIGITS_ASR_TINI']; "
        "from toolchain.cli.main import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 2 and "Did you mean DIGITS_ASR_TINY?" in done.stderr and "Traceback" not in done.stderr


def test_the_codecs_are_registered_by_the_registry_itself() -> None:
    code = "from toolchain.compression.codec import CODECS; print(*sorted(CODECS))"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True)
    assert {"fp16", "uniform"} <= set(done.stdout.split()), done.stderr


def test_every_file_can_be_read_in_one_sitting() -> None:
    lengths = {
        str(path.relative_to(REPOSITORY)): len(path.read_text(encoding="utf-8").splitlines())
        for folder in CODE
        for suffix in ("py", "kt")
        for path in (REPOSITORY / folder).rglob(f"*.{suffix}")
    }
    assert len(lengths) > 150 and {path.split("/")[0] for path in lengths} == {
        *PACKAGES,
        "asrdeploy",
        "tests",
        "benchmarks",
        "scripts",
        "android",
    }
    assert {path: length for path, length in lengths.items() if length > 400} == {}


# The bundled model and speech


def size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def test_assets_are_small() -> None:
    assert 4 * 1_524_892 < size(ASSETS / "digits_asr_tiny") <= 8 * MEGABYTE
    assert 4 * MEGABYTE < size(ASSETS / "speech") <= 8 * MEGABYTE


@pytest.fixture(scope="module")
def dev_clean() -> DataSet:
    return open_data("digits", "dev-clean")


def speakers(data: DataSet) -> set[str]:
    return {each.id.split("-")[0] for each in data.utterances}


def test_the_bundled_sets_are_large_enough(test_clean: DataSet, dev_clean: DataSet) -> None:
    assert len(test_clean.utterances) >= 200 and len(dev_clean.utterances) >= 150
    assert sum(len(each.reference.split()) for each in test_clean.utterances) >= 800
    for data in (test_clean, dev_clean):
        assert {len(each.reference.split()) for each in data.utterances} == {2, 3, 4, 5, 6, 7}
        assert {word for each in data.utterances for word in each.reference.split()} == {
            *("ZERO", "ONE", "TWO", "THREE", "FOUR", "FIVE", "SIX", "SEVEN", "EIGHT", "NINE")
        }


def test_the_bundled_sets_share_no_text_and_no_speaker(test_clean: DataSet, dev_clean: DataSet) -> None:
    texts = [each.reference for data in (test_clean, dev_clean) for each in data.utterances]
    assert len(texts) == len(set(texts))
    assert not speakers(test_clean) & speakers(dev_clean)


def test_the_speakers_are_not_those_of_training() -> None:
    trained = {voice for voice, _ in TRAIN_VOICES}
    tested, developed = ({voice for voice, *_ in each} for each in (TEST_SPEAKERS, DEV_SPEAKERS))
    assert not tested & developed and not (tested | developed) & trained


def test_the_speakers_are_of_several_families(test_clean: DataSet, dev_clean: DataSet) -> None:
    for data, known in ((test_clean, TEST_SPEAKERS), (dev_clean, DEV_SPEAKERS)):
        families = {str(number): voice.family for voice, number, _ in known}
        assert families.keys() == speakers(data)
        others = [each for each in data.utterances if families[each.id.split("-")[0]] != "espeak-ng"]
        assert len(others) >= len(data.utterances) / 4
        counts = {str(number): count for _, number, count in known}
        assert counts == {each: sum(one.id.startswith(f"{each}-") for one in data.utterances) for each in counts}
