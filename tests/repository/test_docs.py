"""The documentation: it builds strictly and needs no network, its commands are run, what it names is there."""

import contextlib
import importlib
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from device_runner.artifact import Artifact
from device_runner.bitstream import decoders
from exporters import schemes
from tests.helpers import REPOSITORY, TERMINAL_VARIABLES
from tests.repository.doc_pages import PAGES, Block, blocks, blocks_of, read_page, spans
from toolchain.cli.main import app
from toolchain.compression import codec
from toolchain.models.loading import BUNDLED_WEIGHTS
from toolchain.scenario.job_limits import JobFile
from toolchain.scenario.sweep_file import SweepFile

# Why a block is not run; nothing else is a reason.
REASONS = (
    r"needs a phone",
    r"needs the Internet",
    r"needs a GPU",
    r"needs a cluster",
    r"needs your own (model|machine|program)",
    r"takes \d+ minutes: (?:run|a smaller one is run) by `(?P<by>make [a-z-]+|tests/[\w/]+\.py)`",
)
RUN = ("sh", "console", "python")
LANGUAGES = {*RUN, "toml", "json", "yaml", "text", "js"}
ELSEWHERE = {"docs/custom-models.md": "tests/repository/test_custom_model_page.py"}  # a page whose blocks another file runs and reads
TARGETS = set(re.findall(r"^([a-z-]+):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE))
ENTRY_POINTS = {schemes.ENTRY_POINTS, codec.ENTRY_POINTS, decoders.ENTRY_POINTS}
COMMANDS: dict[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]
SHELL_SECONDS = 300
WIDEST = 76  # columns of a block: what is longer is cut off on a page
FOLDERS = r"(?:asrdeploy|tests|benchmarks|scripts|exporters|toolchain|device_runner|android|jobs|docs|examples)"
every_page = pytest.mark.parametrize("page", PAGES)

# Programs of a page's commands: those of this environment; what pip installs goes into a folder of the page.
PROGRAMS = {
    "asrdeploy": '-m asrdeploy "$@"',
    "python": '"$@"',
    "pytest": '-m pytest -p no:cacheprovider "$@"',
    "pip": '-m pip "$@" --no-index --quiet --target "$PLUGINS"',
}


# The site


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The documentation, built strictly."""
    folder = tmp_path_factory.mktemp("site")
    # Zensical builds into the folder that its configuration names, so it builds a copy.
    for name in ("docs", "device_runner", "exporters", "toolchain"):
        shutil.copytree(REPOSITORY / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "assets"))
    shutil.copy(REPOSITORY / "mkdocs.yml", folder)
    command = [sys.executable, "-m", "zensical", "build", "--strict"]
    done = subprocess.run(command, cwd=folder, env=surroundings(), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "build" / "docs"


def test_the_site_fetches_nothing_from_elsewhere(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert len(pages) > 15
    fetched = re.compile(r"<(?:script|img|iframe|source|audio|video)\b[^>]*\bsrc=[\"']?(?:https?:)?//|@import|url\([\"']?https?:")
    linked = re.compile(r"<link\b[^>]*>")
    for page in pages:
        text = page.read_text(encoding="utf-8")
        assert not fetched.search(text), page
        assert not [each for each in linked.findall(text) if "//" in each and 'rel="canonical"' not in each], page
    for sheet in site.rglob("*.css"):
        assert not re.search(r"@import|url\([\"']?(?:https?:)?//", sheet.read_text(encoding="utf-8")), sheet


def test_every_page_has_a_place_in_the_site(site: Path) -> None:
    for page in (each.removeprefix("docs/") for each in PAGES if each.startswith("docs/")):
        assert (site / page).with_suffix(".html").is_file(), page


def test_the_page_of_commands_is_current() -> None:
    script = REPOSITORY / "scripts" / "commands_page.py"
    code = f"import runpy; print(runpy.run_path({str(script)!r})['commands_page'](__import__('toolchain.cli.main').cli.main.app), end='')"
    made = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout
    assert made == read_page("docs/reference/commands.md"), "run: python scripts/commands_page.py"


def test_the_reference_has_every_command_with_its_options(site: Path) -> None:
    text = (site / "reference" / "commands.html").read_text(encoding="utf-8")
    for name, command in COMMANDS.items():
        assert f'id="{name}"' in text, name
        for option in options_of(command):
            assert f"<code>{option}</code>" in text, (name, option)


def test_the_reference_has_what_plug_ins_need(site: Path) -> None:
    for page, names in {
        "toolchain": ("toolchain.compression.codec.Codec.code", "toolchain.compression.codec.Coded", "toolchain.accuracy.workers.Workers"),
        "exporters": ("exporters.schemes.Scheme", "exporters.export.export"),
        "device_runner": (
            "device_runner.bitstream.decoders.Parts",
            "device_runner.bitstream.format.Record",
            "device_runner.devices.Device",
        ),
    }.items():
        text = (site / "reference" / f"{page}.html").read_text(encoding="utf-8")
        assert all(f'id="{name}"' in text for name in names), page


# Blocks


@every_page
def test_a_block_is_run_or_says_why_not(page: str) -> None:
    for block in blocks(page):
        assert block.language in LANGUAGES, f"{block.place}: {block.language or 'no language'}"
        assert block.language != "text" or not re.search(r"^\$|\b(asrdeploy|make|python|pip) ", block.text, re.MULTILINE), block.place
        if block.reason is not None:
            found = next((match for each in REASONS if (match := re.fullmatch(each, block.reason))), None)
            assert found is not None, f"{block.place}: {block.reason}"
            if by := found.groupdict().get("by"):
                assert by.removeprefix("make ") in TARGETS or (REPOSITORY / by).is_file(), block.place


@pytest.mark.parametrize("page", [each for each in PAGES if each not in ELSEWHERE and any(block.language in RUN for block in blocks(each))])
def test_the_commands_of_a_page_run(page: str, page_folder: Callable[[str], tuple[Path, dict[str, str]]]) -> None:
    folder, env = page_folder(page)
    for block in blocks(page):
        if block.file is not None:
            (folder / block.file).parent.mkdir(parents=True, exist_ok=True)
            (folder / block.file).write_text(block.text, encoding="utf-8")
        if block.reason is not None or block.file is not None or block.language not in RUN:
            continue
        program = [sys.executable, "-c", block.text] if block.language == "python" else ["bash", "-euo", "pipefail", "-c", shell_of(block)]
        code, shown = run(program, folder, env)
        assert code == 0, f"{block.place} ended with {code}:\n{block.text}\n{shown[-3000:]}"
        assert "Traceback" not in shown, f"{block.place}:\n{shown[-3000:]}"


@every_page
def test_the_blocks_of_a_page_fit_its_width(page: str) -> None:
    for block in blocks(page):
        assert not [line for line in block.text.splitlines() if len(line) > WIDEST], block.place


@every_page
def test_descriptions_of_a_page_are_read(page: str) -> None:
    for block in blocks(page):
        if block.language == "json":
            json.loads(block.text)
        elif block.language == "yaml":
            assert isinstance(yaml.safe_load(block.text), dict), block.place
        elif block.language == "toml" and page not in ELSEWHERE:
            check_toml(block)


def check_toml(block: Block) -> None:
    """Read a block of TOML by what reads it in the product."""
    described = tomllib.loads(block.text)
    if "method" in described:
        SweepFile.model_validate(described)
    elif "job" in described:
        JobFile.model_validate(described)
    elif "project" in described:
        assert set(described["project"]["entry-points"]) <= ENTRY_POINTS, block.place
    else:  # a command of the page reads it
        assert block.file is not None, f"{block.place}: nothing reads this"


def shell_of(block: Block) -> str:
    """Return the commands of a block; in a console's, those that stand behind the prompt."""
    if block.language == "sh":
        return block.text
    joined = block.text.replace("\\\n", "\\\0")  # a command goes on in the next line after a backslash
    commands = [line.removeprefix("$ ").replace("\\\0", "\\\n") for line in joined.splitlines() if line.startswith("$ ")]
    assert commands, block.place
    return "\n".join(commands)


def run(program: list[str], folder: Path, env: dict[str, str]) -> tuple[int, str]:
    """Run a program in a session of its own, of which nothing is left; return its code and what it printed."""
    shown = folder / ".shown"
    with shown.open("w") as sink:
        process = subprocess.Popen(program, cwd=folder, env=env, stdout=sink, stderr=subprocess.STDOUT, start_new_session=True)
        try:
            code = process.wait(timeout=SHELL_SECONDS)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    return code, shown.read_text(encoding="utf-8", errors="replace")


def surroundings() -> dict[str, str]:
    """Return the environment of commands: this copy of the source, no terminal."""
    kept = {key: value for key, value in os.environ.items() if key not in TERMINAL_VARIABLES}
    return kept | {"PYTHONPATH": str(REPOSITORY)}


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the programs that pages call."""
    folder = tmp_path_factory.mktemp("programs")
    for name, arguments in PROGRAMS.items():
        path = folder / name
        path.write_text(f"#!/bin/sh\nexec {shlex.quote(sys.executable)} {arguments}\n")
        path.chmod(0o755)
    return folder


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache of calibrations for all pages."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def page_folder(
    programs: Path, cache: Path, tmp_path: Path, tiny_fp32: Artifact, tiny_int8: Artifact
) -> Callable[[str], tuple[Path, dict[str, str]]]:
    """Make the folder in which a page's commands run, with what pages start from, and their environment."""

    def make(page: str) -> tuple[Path, dict[str, str]]:
        folder, plugins = tmp_path / "page", tmp_path / "plugins"
        if page.startswith("examples/"):
            shutil.copytree((REPOSITORY / page).parent, folder)
        else:
            folder.mkdir()
            for name in ("examples", "jobs"):
                shutil.copytree(REPOSITORY / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "build", "*.egg-info"))
        # What pages speak of: artifacts of the bundled model (A in fp32, B in int8), weights as after a fine-tuning, a recording.
        for name, artifact in (("A", tiny_fp32), ("B", tiny_int8)):
            shutil.copytree(artifact.folder, folder / "artifacts" / name)
        shutil.copy(BUNDLED_WEIGHTS, folder / "tuned.safetensors")
        recording = min((REPOSITORY / "toolchain" / "assets" / "speech" / "test-clean").rglob("*.flac"))
        shutil.copy(recording, folder / "recording.flac")
        env = surroundings() | {"PLUGINS": str(plugins), "ASRDEPLOY_CACHE": str(cache), "PORT": str(free_port())}
        env["OMP_NUM_THREADS"] = "1"  # more would spin against each other where the tests share their processor
        env |= {"PYTHONPATH": f"{REPOSITORY}:{plugins}", "PATH": f"{programs}:{os.environ['PATH']}"}
        return folder, env

    return make


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


# What is named


def options_of(command: Any) -> set[str]:
    """Return the options of a command."""
    return {option for each in command.params for option in [*each.opts, *each.secondary_opts] if option.startswith("-")}


def named_options(words: str) -> list[str]:
    """Return the options that a command line names."""
    return re.findall(r"(?<![\w/.=-])--?[a-zA-Z][\w-]*", re.sub(r"\"[^\"]*\"|'[^']*'", "", words))


def command_lines(page: str) -> list[str]:
    """Return the command lines of a page, in its text and its blocks, each without comments and what follows a pipe or a semicolon."""
    lines = [
        line
        for block in blocks(page)
        if block.language in ("sh", "console", "yaml")
        for line in block.text.replace("\\\n", " ").splitlines()
    ]
    parts = [part for each in [*spans(page), *lines] for part in re.split(r"[;&](?!\S*=)|\s\|\s|(?<!\S)#", each)]
    return [part.strip().removeprefix("$ ").removeprefix("- run: ").strip() for part in parts]


def what_is_wrong(line: str) -> str | None:
    """Return what a command line names that `asrdeploy` does not have; None where it has all, or is no command line of it."""
    words = line.replace(".venv/bin/asrdeploy", "asrdeploy").split()
    if "asrdeploy" not in words[:3] or words[0] in ("pip", "import", "name", "from"):
        return None
    name, *rest = [*words[words.index("asrdeploy") + 1 :], "COMMAND"]
    if name == "COMMAND" or name.startswith("--"):
        return None
    if name not in COMMANDS:
        return name
    unknown = set(named_options(" ".join(rest))) - options_of(COMMANDS[name]) - {"--help"}
    return " ".join(sorted(unknown)) or None


@every_page
def test_the_commands_that_a_page_names_are_there(page: str) -> None:
    for line in command_lines(page):
        assert what_is_wrong(line) is None, f"{page}: {line}: {what_is_wrong(line)}"


def arguments_of(*scripts: Path) -> set[str]:
    """Return the options that scripts parse."""
    return {each for script in scripts for each in re.findall(r"add_argument\(\s*\"(--?[\w-]+)\"", script.read_text(encoding="utf-8"))}


@every_page
def test_the_scripts_that_a_page_names_take_their_options(page: str) -> None:
    shared = [REPOSITORY / "benchmarks" / name for name in ("__main__.py", "common.py", "running.py")]
    for line in command_lines(page):
        if found := re.match(r"python (?:-m (benchmarks\.\w+)|((?:benchmarks|scripts)/\w+\.py))(.*)", line):
            source = REPOSITORY / (found[2] or f"{found[1].replace('.', '/')}.py")
            assert source.is_file(), f"{page}: {line}"
            assert set(named_options(found[3])) <= arguments_of(source, *shared), f"{page}: {line}"


@every_page
def test_the_options_that_a_page_names_alone_are_those_of_some_command(page: str) -> None:
    known = {option for each in COMMANDS.values() for option in options_of(each)} | {"--help", "--break-system-packages"}
    known |= arguments_of(*(REPOSITORY / "benchmarks").glob("*.py"))
    unknown = {option for span in spans(page) if span.startswith("--") for option in named_options(span)} - known
    assert not unknown, page


@every_page
def test_the_targets_and_files_that_a_page_names_are_there(page: str) -> None:
    for span in spans(page):
        if found := re.fullmatch(r"make ([a-z-]+)", span):
            assert found[1] in TARGETS, f"{page}: {span}"
        elif found := re.fullmatch(rf"({FOLDERS}/[\w./-]+\w)(?:::(\w+))?", span):
            path = REPOSITORY / found[1]
            assert path.exists(), f"{page}: {span}"
            assert found[2] is None or re.search(rf"^def {found[2]}\(", path.read_text(encoding="utf-8"), re.MULTILINE), f"{page}: {span}"


@every_page
def test_the_names_of_python_that_a_page_names_are_there(page: str) -> None:
    for span in spans(page):
        if re.fullmatch(r"(?:asrdeploy|toolchain|exporters|device_runner)(?:\.\w+)+", span):
            assert is_there(span), f"{page}: {span}"


def is_there(name: str) -> bool:
    """Tell whether a dotted name is a module, or something in one."""
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        try:
            found: Any = importlib.import_module(".".join(parts[:length]))
        except ModuleNotFoundError:
            continue
        for each in parts[length:]:
            fields = getattr(found, "__dataclass_fields__", {}) | getattr(found, "model_fields", {})
            if not hasattr(found, each) and each not in fields:
                return False
            found = getattr(found, each, None)
        return True
    return False


# The checks themselves


def test_a_block_without_a_reason_and_a_wrong_reason_are_seen() -> None:
    noted = "<!-- not run: needs a phone -->\n\n```sh\nasrdeploy devices\n```\n"
    text = noted + "\n```sh\nfalse\n```\n<!-- file: a/b.toml -->\n```toml\nx = 1\n```\n"
    found = blocks_of("page", text)
    assert [(each.reason, each.file, each.language) for each in found] == [
        ("needs a phone", None, "sh"),
        (None, None, "sh"),
        (None, "a/b.toml", "toml"),
    ]
    assert not any(re.fullmatch(each, "is slow") for each in REASONS)
    assert [each.place for each in found] == ["page:3", "page:7", "page:11"]


def test_options_are_found_in_a_command_line() -> None:
    assert named_options("export --format onnx|executorch -o DIR --set k=v 'a --b'") == ["--format", "-o", "--set"]
    assert (
        what_is_wrong("asrdeploy exprot --quant int8") == "exprot" and what_is_wrong(".venv/bin/asrdeploy export --qant int8") == "--qant"
    )
    assert what_is_wrong("asrdeploy export --quant int8 -o DIR") is None and what_is_wrong("pip install asrdeploy --pre") is None
    assert not is_there("toolchain.accuracy.metrics.nothing") and is_there("toolchain.models.test_cases.TestCase.in_range")


def test_all_pages_are_read() -> None:
    assert all(page in PAGES and Path(page).name in (REPOSITORY / by).read_text(encoding="utf-8") for page, by in ELSEWHERE.items())
    assert {"README.md", "CONTRIBUTING.md", "docs/index.md", "docs/reference/toolchain.md"} <= set(PAGES)
    assert sum(page.startswith("examples/") for page in PAGES) >= 2 and all(read_page(page) for page in PAGES)
