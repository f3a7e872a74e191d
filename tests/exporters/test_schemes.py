"""Schemes: what can be named, their variants, and schemes of other packages."""

import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from device_runner import plugins
from device_runner.errors import AsrDeployError
from exporters import schemes
from exporters.schemes import SCHEMES, Scheme, find_scheme, scheme_plugins
from tests.helpers import Completed, complaint


def test_variants_say_what_they_do() -> None:
    assert find_scheme("int8+conv8", "onnx").convolutions == "stored8"
    full = find_scheme("int8-full+conv8", "executorch")
    assert (full.name, full.convolutions, full.rest_stored8) == ("int8-full+conv8", "int8", True)
    assert find_scheme("int8+reduce_range+conv8", "onnx").name == "int8+conv8+reduce_range"
    assert find_scheme("int8+reduce_range", "onnx").reduce_range and not SCHEMES["int8"].reduce_range


@pytest.mark.parametrize(
    ("name", "format_name", "words"),
    [
        ("int8-static", "executorch", "Supported: onnx"),
        ("int8+reduce_range", "executorch", "Supported: onnx"),
        ("int4+reduce_range", "onnx", "requires int8 weights"),
        ("int8+conv9", "onnx", r"Did you mean conv8\?"),
        ("int8+conv8+conv8", "onnx", "repeats a variant"),
        ("in8", "onnx", r"Did you mean int8\?"),
    ],
)
def test_what_cannot_be_chosen_is_answered(name: str, format_name: str, words: str) -> None:
    with pytest.raises(AsrDeployError, match=words):
        find_scheme(name, format_name)


@pytest.mark.parametrize(
    "wrong", [{"products": "int3"}, {"convolutions": "int2"}, {"activations": "static"}, {"products": "int4", "group": 48}]
)
def test_fields_that_no_exporter_knows_are_refused(wrong: dict) -> None:
    with pytest.raises(ValueError, match="odd"):
        Scheme(**{"name": "odd", "summary": "", "formats": ("onnx",), "products": "float32"} | wrong)


def test_schemes_of_other_packages(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "their_schemes.py").write_text(
        "from exporters.schemes import Scheme\n"
        "one = Scheme('int4-fine', 'groups of 16', ('onnx',), 'int4', activations='dynamic', group=16)\n"
        "several = [one, Scheme('int8', 'takes a name', ('onnx',), 'int8')]\n"
        "nothing = 3\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    points = [EntryPoint(name, f"their_schemes:{name}", schemes.ENTRY_POINTS) for name in ("one", "several", "nothing", "missing")]
    monkeypatch.setattr(plugins, "entry_points", lambda group: points if group == schemes.ENTRY_POINTS else [])
    found, broken = scheme_plugins()
    assert list(found) == ["int4-fine"] and set(broken) == {"nothing", "missing", "int8"}
    assert find_scheme("int4-fine+conv8", "onnx").group == 16 and find_scheme("int8", "onnx") is SCHEMES["int8"]
    with pytest.raises(AsrDeployError, match="cannot be used"):
        find_scheme("nothing", "onnx")


def test_an_installed_package_brings_a_scheme(tmp_path: Path) -> None:
    info = tmp_path / "theirs-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[asrdeploy.schemes]\nmixed = theirs:mixed\n")
    (tmp_path / "theirs.py").write_text(
        "from exporters.schemes import Scheme\n"
        "mixed = Scheme('mixed', 'aux in float', ('onnx',), 'int8', activations='dynamic', keep=('aux',))\n"
    )
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); sys.argv[1:] = ['schemes']; from toolchain.cli.main import main; main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0 and "mixed" in done.stdout and "int8-full" in done.stdout, done.stderr


def test_the_list_names_schemes_and_variants(cli: Callable[..., Completed]) -> None:
    shown = cli("schemes").stdout
    assert all(name in shown for name in [*SCHEMES, "NAME+conv8", "NAME+reduce_range"])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--format", "executorch", "--quant", "int8-static"], "Supported: onnx"),
        (["--quant", "int8-static", "--calibrate-split", "test-clean"], "Cannot calibrate on test-clean"),
        (["--max-seconds", "0.01"], "below the model's shortest input"),
        (["--max-seconds", "nan"], "below the model's shortest input"),
        (["--max-seconds", "1000"], "exceeds 300 s"),
    ],
)
def test_mistakes_of_an_export_are_one_sentence(cli: Callable[..., Completed], tmp_path: Path, arguments: list[str], words: str) -> None:
    done = cli("export", *arguments, "-o", tmp_path / "artifact")
    assert words in complaint(done) and not list(tmp_path.iterdir())
