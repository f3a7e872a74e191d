"""Tests of the Android app that require no Android SDK: its classes compile, and its files agree with the host."""

import os
import re
import shlex
import shutil
import subprocess
import tarfile
import tomllib
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml

from device_runner.phone.runners import APP, APP_FILES, APP_VERSION_CODE, INSTRUMENTATION, AppRunner
from device_runner.phone.transfers import ROOT
from tests.android.fixtures import benchcore_jar
from tests.helpers import REPOSITORY
from toolchain.cli.main import app as cli

ANDROID = REPOSITORY / "android"
APP_FOLDER = ANDROID / "app"
SOURCES = sorted((APP_FOLDER / "src/main/kotlin").rglob("*.kt"))
WORKFLOW = REPOSITORY / ".github/workflows/android-emulator.yml"
NAME = "{http://schemas.android.com/apk/res/android}"
POM = "{http://maven.apache.org/POM/4.0.0}"


def manifest() -> ElementTree.Element:
    return ElementTree.parse(APP_FOLDER / "src/main/AndroidManifest.xml").getroot()


def gradle(module: str = "app") -> str:
    return (ANDROID / module / "build.gradle.kts").read_text()


def setting(name: str) -> str:
    """Return the value of a setting in the app's Gradle build."""
    return re.findall(rf'^\s*{name} = "?([^"\n]+)"?$', gradle(), re.MULTILINE)[0]


def constant(file: str, name: str) -> str:
    """Return the value of a constant in the sources of the app or the core."""
    source = next(ANDROID.glob(f"*/src/main/kotlin/**/{file}.kt")).read_text()
    return re.findall(rf'const val {name} = "?([^"\n]+)"?', source)[0]


def catalogue() -> dict[str, Any]:
    return tomllib.loads((ANDROID / "gradle/libs.versions.toml").read_text())


def pom_properties() -> dict[str, str]:
    properties = ElementTree.parse(ANDROID / "pom.xml").getroot().find(f"{POM}properties")
    assert properties is not None
    return {each.tag.removeprefix(POM): each.text or "" for each in properties}


# The compile check


def test_every_source_of_the_app_is_compiled() -> None:
    benchcore_jar()
    classes = [path.read_bytes() for path in (APP_FOLDER / "target/classes").rglob("*.class")]
    assert len(SOURCES) >= 7
    assert [path.name for path in SOURCES if not any(path.name.encode() in each for each in classes)] == []  # classes name their source


def test_its_tests_are_run() -> None:
    benchcore_jar()
    reports = [ElementTree.parse(path).getroot() for path in (APP_FOLDER / "target/surefire-reports").glob("TEST-*.xml")]
    assert {each.get("name", "").rpartition(".")[2] for each in reports} == {
        path.stem for path in (APP_FOLDER / "src/test/kotlin").rglob("*Test.kt")
    }
    assert sum(int(each.get("tests", 0)) for each in reports) >= 20
    assert sum(int(each.get(kind, 0)) for each in reports for kind in ("errors", "failures", "skipped")) == 0


# What the host knows about the app


def test_the_manifest_declares_what_the_host_starts() -> None:
    instrumentation = manifest().find("instrumentation")
    assert instrumentation is not None
    assert f"{APP}/{instrumentation.get(f'{NAME}name')}" == INSTRUMENTATION
    assert instrumentation.get(f"{NAME}targetPackage") == setting("applicationId") == setting("namespace") == APP


def test_the_manifest_declares_an_activity_that_can_be_tapped() -> None:
    (activity,) = manifest().findall("application/activity")
    names = [each.get(f"{NAME}name", "") for each in activity.findall("intent-filter/*")]
    assert names == ["android.intent.action.MAIN", "android.intent.category.LAUNCHER"]
    assert activity.get(f"{NAME}exported") == "true"


def test_the_manifest_names_classes_that_are_there() -> None:
    named = [each.get(f"{NAME}name", "") for each in (*manifest().findall("instrumentation"), *manifest().findall("application/activity"))]
    assert {each.removeprefix(".") for each in named} <= {path.stem for path in SOURCES} and len(named) == 2


def test_the_app_asks_for_nothing_but_to_stay_awake() -> None:
    assert [each.get(f"{NAME}name") for each in manifest().findall("uses-permission")] == ["android.permission.WAKE_LOCK"]


def test_versions_agree() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["version"]
    poms = [
        ElementTree.parse(ANDROID / path).getroot().findtext(f".//{POM}version") for path in ("pom.xml", "app/pom.xml", "benchcore/pom.xml")
    ]
    assert {setting("versionName"), constant("Contract", "VERSION"), *poms} == {project}
    assert int(setting("versionCode")) == APP_VERSION_CODE


def test_the_app_and_the_host_look_in_the_same_places() -> None:
    assert constant("JobRequest", "PUSHED_JOBS") == f"{ROOT}/jobs"
    digits = int(constant("JobRequest", "DIGITS_OF_A_JOB"))
    there = AppRunner().place("0" * digits)
    assert there.result == f"{APP_FILES}/jobs/{'0' * digits}/result.json"
    assert f"digest[:{digits}]" in (REPOSITORY / "device_runner/phone/device.py").read_text()


def test_the_app_runs_on_what_the_issue_of_devices_names() -> None:
    assert setting("minSdk") == "26"
    assert re.findall(r'"((?:arm|x86)[\w-]+)"', gradle()) == ["arm64-v8a", "x86_64"]


# Texts and versions inside the app


def test_texts_are_there_and_used() -> None:
    texts = {each.get("name") for each in ElementTree.parse(APP_FOLDER / "src/main/res/values/strings.xml").getroot()}
    sources = "".join(path.read_text() for path in (*SOURCES, APP_FOLDER / "src/main/AndroidManifest.xml"))
    assert set(re.findall(r"R\.string\.(\w+)", sources)) | set(re.findall(r"@string/(\w+)", sources)) == texts


@pytest.mark.parametrize("name", ["kotlin", "serialization", "onnxruntime", "junit"])
def test_maven_and_gradle_use_the_same_versions(name: str) -> None:
    assert pom_properties()[f"{name}.version"] == catalogue()["versions"][name]


def test_gradle_uses_only_what_the_catalogue_has() -> None:
    known = catalogue()
    aliases = {
        f"{prefix}{name}".replace("-", ".") for key, prefix in (("libraries", "libs."), ("plugins", "libs.plugins.")) for name in known[key]
    }
    used = set(re.findall(r"\((libs\.[\w.]+)\)", "".join(gradle(module) for module in (".", "app", "benchcore"))))
    assert used == aliases
    assert {each["version"]["ref"] for key in ("libraries", "plugins") for each in known[key].values() if "version" in each} == {
        *known["versions"]
    }


def test_the_app_knows_the_release_of_executorch() -> None:
    assert constant("ExecuTorchEngine", "EXECUTORCH_VERSION") == catalogue()["versions"]["executorch"]


# The workflow


def steps() -> list[dict[str, Any]]:
    (job,) = yaml.safe_load(WORKFLOW.read_text())["jobs"].values()
    found: list[dict[str, Any]] = job["steps"]
    return found


def test_the_workflow_says_that_it_was_not_run() -> None:
    assert "This workflow is untested" in WORKFLOW.read_text()
    assert all(re.search(r"@v\d", each["uses"]) for each in steps() if "uses" in each)


def test_the_workflow_calls_what_is_there() -> None:
    (script,) = (each["with"]["script"] for each in steps() if "script" in each.get("with", {}))
    program, command, jobs, *options = shlex.split(script.partition(";")[0])
    assert program == ".venv/bin/asrdeploy" and (REPOSITORY / jobs).is_file()
    known = {name for each in typer.main.get_command(cli).commands[command].params for name in each.opts}
    assert set(options[::2]) == {"--device", "--apk", "--junit"} <= known
    assert Path(options[options.index("--apk") + 1]).is_relative_to("android/app/build/outputs/apk/debug")
    settings = (ANDROID / "settings.gradle.kts").read_text()
    tasks = [word for each in steps() for word in each.get("run", "").split() if word.startswith(":")]
    assert {task.rpartition(":")[0] for task in tasks} == {":app"} and '":app"' in settings and ":app:assembleDebug" in tasks
    assert all((REPOSITORY / each["working-directory"]).is_dir() for each in steps() if "working-directory" in each)


def test_the_workflow_uses_the_wrapper_s_gradle() -> None:
    (version,) = (each["with"]["gradle-version"] for each in steps() if "gradle-version" in each.get("with", {}))
    properties = (ANDROID / "gradle/wrapper/gradle-wrapper.properties").read_text()
    assert f"gradle-{version}-bin.zip" in properties and re.search(r"^distributionSha256Sum=[0-9a-f]{64}$", properties, re.MULTILINE)


# ExecuTorch's classes


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of the folder `android` without ExecuTorch's classes, and a folder `bin` with the only programs that the script finds."""
    (tmp_path / "android").mkdir()
    shutil.copy(ANDROID / "fetch-executorch", tmp_path / "android")
    (tmp_path / "bin").mkdir()
    for name in ("bash", "dirname", "gzip", "mkdir", "mktemp", "mv", "rm", "sha256sum", "tail", "tar", "cp"):
        (tmp_path / "bin" / name).symlink_to(shutil.which(name) or pytest.fail(f"{name} is missing"))
    return tmp_path


def fetch(checkout: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [checkout / "android/fetch-executorch"],
        env=os.environ | {"PATH": str(checkout / "bin")},
        capture_output=True,
        text=True,
        timeout=60,
    )


def give_npm(checkout: Path, script: str) -> None:
    npm = checkout / "bin/npm"
    npm.write_text(f"#!/bin/bash\n{script}\n")  # npm pack PACKAGE --pack-destination FOLDER
    npm.chmod(0o755)


def test_the_fetch_and_maven_mean_the_same_release() -> None:
    version = pom_properties()["executorch.classes.version"]
    assert f"react-native-executorch@{version}\n" in (ANDROID / "fetch-executorch").read_text()
    assert f"react-native-executorch {version} " in (ANDROID / "README.md").read_text()


def test_without_npm_the_fetch_names_its_package(checkout: Path) -> None:
    done = fetch(checkout)
    assert done.returncode == 2
    assert done.stderr == "fetch-executorch: npm is missing; install it with: sudo apt-get install npm\n"


def test_the_fetch_refuses_other_classes(checkout: Path) -> None:
    archive = checkout / "react-native-executorch-0.8.5.tgz"
    (checkout / "classes.jar").write_bytes(b"other classes")
    with tarfile.open(archive, "w:gz") as file:
        file.add(checkout / "classes.jar", "package/android/libs/classes.jar")
    give_npm(checkout, f'cp {shlex.quote(str(archive))} "$4"')
    done = fetch(checkout)
    assert done.returncode == 2 and "does not have its known sha256" in done.stderr
    assert list((checkout / "android/target/executorch").iterdir()) == []


def test_a_fetch_that_fails_tells_npm_s_reason(checkout: Path) -> None:
    give_npm(checkout, "echo 'npm error network request failed' >&2; exit 1")
    done = fetch(checkout)
    assert done.returncode == 2
    assert done.stderr.splitlines()[0] == "npm error network request failed" and "cannot fetch" in done.stderr.splitlines()[-1]


def test_the_fetch_does_nothing_where_the_classes_are(checkout: Path) -> None:
    benchcore_jar()
    (checkout / "android/target/executorch").mkdir(parents=True)
    shutil.copy(ANDROID / "target/executorch/classes.jar", checkout / "android/target/executorch")
    done = fetch(checkout)  # there is no npm
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
