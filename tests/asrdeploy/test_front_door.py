"""The front door: `import asrdeploy` is quick and lazy, its names are typed and documented, and they do the whole way."""

import copy
import inspect
import json
import logging
import pickle
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import asrdeploy
from device_runner.artifact import Artifact
from device_runner.audio import read_audio
from tests.helpers import REPOSITORY
from toolchain.data.datasets import DataSet, Utterance
from toolchain.models.anchor_model import AnchorModel

FUNCTIONS = [
    *(
        "benchmark",
        "calibrate",
        "compare",
        "compress",
        "decompress",
        "describe_data",
        "evaluate",
        "export",
        "inspect_artifact",
        "inspect_bitstream",
    ),
    *("load", "load_model", "make_curve", "open_artifact", "open_data", "plot_curve", "sweep"),
]


def loaded_by(code: str) -> set[str]:
    """Modules that a fresh interpreter has after some code."""
    script = f"import sys; before = set(sys.modules); {code}; print(*(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-c", script], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_the_import_brings_nothing_heavy() -> None:
    assert loaded_by("import asrdeploy") == {"asrdeploy"} | loaded_by("import importlib, typing")


def test_what_needs_no_torch_brings_none() -> None:
    for name in (
        "AsrDeployError",
        "DeviceFailed",
        "open_artifact",
        "open_data",
        "load",
        "evaluate",
        "compare",
        "benchmark",
        "inspect_bitstream",
    ):
        assert "torch" not in loaded_by(f"import asrdeploy; asrdeploy.{name}"), name


def test_every_name_is_there_and_is_listed() -> None:
    assert set(asrdeploy.__all__) <= set(dir(asrdeploy)) and len(asrdeploy.__all__) == len(set(asrdeploy.__all__)) > 30
    for name in asrdeploy.__all__:
        assert getattr(asrdeploy, name) is getattr(asrdeploy, name)
    with pytest.raises(AttributeError, match="has no attribute 'transmogrify'"):
        asrdeploy.transmogrify  # noqa: B018


def test_type_checkers_see_the_names_that_are_there() -> None:
    """The imports for type checkers and the table of names, which a type checker cannot read, say the same."""
    source = (REPOSITORY / "asrdeploy" / "__init__.py").read_text()
    typed = {}
    for line in source.splitlines():
        if line.startswith("    from ") and " import " in line and " as " in line:
            module, _, names = line.strip().removeprefix("from ").partition(" import ")
            defined, _, public = names.partition(" as ")
            typed[public] = (module, defined)
    assert typed == asrdeploy._NAMES and set(asrdeploy.__all__) == {"__version__", *typed}
    assert all((REPOSITORY / package / "py.typed").is_file() for package in ("asrdeploy", "toolchain", "exporters", "device_runner"))


def test_a_script_is_type_checked(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text("import asrdeploy\nwer: str = asrdeploy.evaluate('a', 'digits', 'b').wer\nasrdeploy.load([])\n")
    command = [sys.executable, "-m", "mypy", "--config-file", str(REPOSITORY / "pyproject.toml"), str(script)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert re.findall(r"script.py:(\d): error: .*\[(.*)\]", done.stdout) == [("2", "assignment"), ("3", "arg-type")], done.stdout


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_verb_has_an_example_and_types(name: str) -> None:
    function = getattr(asrdeploy, name)
    text = inspect.getdoc(function) or ""
    assert "Example:" in text and f"asrdeploy.{name}" in text and ">>> " in text and "Raises:" in text, text
    parameters = inspect.signature(function).parameters.values()
    assert all(each.annotation is not inspect.Parameter.empty for each in parameters)


def test_every_verb_is_listed_here() -> None:
    verbs = {name for name in asrdeploy.__all__ if inspect.isfunction(getattr(asrdeploy, name))}
    assert verbs == set(FUNCTIONS)


def test_an_artifact_transcribes_waveforms_of_any_rate(tiny_fp32: Artifact, speech: tuple[Utterance, ...]) -> None:
    transcriber = asrdeploy.load(tiny_fp32.folder)
    waveform = read_audio(speech[0].path, 16_000)
    assert transcriber.transcribe(waveform) == transcriber.transcribe(waveform, 16_000) == speech[0].reference
    logits = transcriber.logits(waveform, 16_000)
    assert logits.ndim == 2 and logits.shape[1] == len(transcriber.labels) and np.isfinite(logits).all()
    assert transcriber.transcribe(np.repeat(waveform, 3), 48_000) == speech[0].reference
    with pytest.raises(asrdeploy.AsrDeployError, match="unusual sample rate of 15999 Hz"):
        transcriber.transcribe(waveform, 15_999)


def test_from_a_model_to_its_transmitted_size(tiny: AnchorModel, test_clean: DataSet, tmp_path: Path) -> None:
    few = test_clean.limited(12)
    calibration = asrdeploy.calibrate(tiny, "digits")
    header = asrdeploy.compress(tiny, "ectcq", {"bits": 2}, str(tmp_path / "small.asrb"), calibration=calibration)
    size = (tmp_path / "small.asrb").stat().st_size
    assert asrdeploy.inspect_bitstream(str(tmp_path / "small.asrb")) == header
    model = asrdeploy.decompress(str(tmp_path / "small.asrb"))
    steps: list[str] = []
    artifact = asrdeploy.export(model, str(tmp_path / "artifact"), quant="int8", progress=steps.append).artifact
    assert artifact.transmitted_bits == 8 * size and artifact.manifest.codec == header.configuration and steps
    seen: list[str] = []
    by_artifact = asrdeploy.evaluate(artifact, few, str(tmp_path / "a"), progress=lambda transcript, timing: seen.append(transcript.id))
    by_model = asrdeploy.evaluate(model, few, str(tmp_path / "b"))
    assert by_artifact.c_size == by_model.c_size == pytest.approx(8 * size / (32 * 1_524_892)) and len(seen) == 12
    assert asrdeploy.inspect_artifact(str(tmp_path / "artifact")).artifact.manifest == artifact.manifest
    comparison = asrdeploy.compare(str(tmp_path / "a"), str(tmp_path / "b"))
    assert comparison.utterances == 12 and comparison.a.configuration == "artifact"


def test_names_are_taken_where_objects_are(tiny_fp32: Artifact, test_clean: DataSet, tmp_path: Path) -> None:
    few = test_clean.limited(3)
    by_name = asrdeploy.evaluate(str(tiny_fp32.folder), few, tmp_path / "name")
    again = asrdeploy.evaluate(asrdeploy.load(tiny_fp32.folder), few, tmp_path / "transcriber")
    assert by_name.score == again.score and by_name.identity == again.identity
    with pytest.raises(asrdeploy.AsrDeployError, match="Did you mean"):
        asrdeploy.evaluate("DIGITS_ASR_TINI", few, tmp_path / "x")
    with pytest.raises(asrdeploy.AsrDeployError, match="not a bitstream"):
        asrdeploy.inspect_bitstream(tiny_fp32.folder / "manifest.json")


def test_latency_of_one_artifact_and_of_several(tiny_fp32: Artifact, tiny_int8: Artifact) -> None:
    shares: list[float] = []
    (alone,) = asrdeploy.benchmark(tiny_fp32, [0.5], protocol="quick", progress=lambda what, share: shares.append(share))
    assert alone.steady[0].p90 > 0 and not alone.valid and shares == sorted(shares)
    both = asrdeploy.benchmark([tiny_fp32.folder, tiny_int8], [0.5], protocol="quick")
    assert [each.artifact.sha256 for each in both] == [each.manifest.files[0].sha256 for each in (tiny_fp32, tiny_int8)]
    wrong_seconds = ({"seconds": [0]}, "--seconds 0: give lengths above 0")
    cases = (({"protocol": "quik"}, "Did you mean quick"), ({"rounds": 0}, "measures nothing"), wrong_seconds)
    for wrong, words in cases:
        with pytest.raises(asrdeploy.AsrDeployError, match=words):
            asrdeploy.benchmark(tiny_fp32, **wrong)


def test_a_sweep_by_its_front_door_is_the_commands(tmp_path: Path) -> None:
    drawn: list[Path] = []
    curve = asrdeploy.sweep("uniform", tmp_path / "sweep", limit=6, draw=lambda found, path: drawn.append(path))
    assert {point.method for point in curve.points} == {"uniform"} and len(curve.points) >= 5 and drawn
    asrdeploy.plot_curve(curve, tmp_path / "curve.png")
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")
    command = [
        sys.executable,
        "-m",
        "asrdeploy",
        "sweep",
        "--codec",
        "uniform",
        "--limit",
        "6",
        "-o",
        str(tmp_path / "sweep"),
        "--json",
        "-",
    ]
    started = time.time_ns()
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert [each["configuration"] for each in json.loads(done.stdout)["points"]] == [point.configuration for point in curve.points]
    bitstreams = list((tmp_path / "sweep").rglob("*.asrb"))
    assert bitstreams and all(path.stat().st_mtime_ns < started for path in bitstreams)  # the command found the sweep done


def test_warnings_are_logged_and_nothing_is_printed(
    tiny_int8: Artifact, test_clean: DataSet, tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    from dataclasses import replace

    transcriber = replace(asrdeploy.load(tiny_int8.folder), warning="This CPU saturates.")
    with caplog.at_level(logging.WARNING, "asrdeploy"):
        asrdeploy.evaluate(transcriber, test_clean.limited(1), tmp_path / "out")
    assert [each.getMessage() for each in caplog.records if each.name == "asrdeploy"] == ["This CPU saturates."]
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("waveform", "rate", "words"),
    [
        (np.zeros((16_000, 2), np.float32), 16_000, r"shape \(16000, 2\)"),
        (np.zeros(16_000, np.int16), 16_000, "type int16"),
        (np.full(16_000, np.nan, np.float32), 16_000, "NaN or infinity"),
        (np.full(16_000, -1e30, np.float32), 16_000, r"as large as 1e\+30"),
        (np.full(16_000, 1e300), 16_000, "NaN or infinity"),
        (np.zeros(0, np.float32), 48_000, "no samples"),
        ([[0.1, "a"]], 16_000, "type <U"),
        ([[0.1], [0.1, 0.2]], 16_000, "a list that has no samples"),
        (torch.zeros(16_000, device="meta"), 16_000, "a Tensor that has no samples"),
        (torch.zeros(1, 16_000), 16_000, r"shape \(1, 16000\)"),
        (torch.zeros(16_000, dtype=torch.int16), 16_000, "type int16"),
        (np.zeros(16_000, np.float32), 44_100.0, "whole number of hertz"),
        (np.zeros(16_000, np.float32), 0, "whole number of hertz"),
    ],
)
def test_what_is_no_waveform_is_refused_in_a_sentence(tiny_fp32: Artifact, waveform: object, rate: object, words: str) -> None:
    with pytest.raises(asrdeploy.AsrDeployError, match=words):
        asrdeploy.load(tiny_fp32.folder).transcribe(waveform, rate)  # type: ignore[arg-type]


def test_a_waveform_may_be_a_view_of_another_type(tiny_fp32: Artifact, speech: tuple[Utterance, ...]) -> None:
    waveform = read_audio(speech[0].path, 16_000)
    tensor = torch.from_numpy(waveform)
    tensors: tuple[Any, ...] = (tensor, tensor.clone().requires_grad_(), tensor.bfloat16(), tensor.half())
    for each in (waveform.astype(np.float64), np.repeat(waveform, 2)[::2], waveform[::-1][::-1], waveform.tolist(), *tensors):
        assert asrdeploy.load(tiny_fp32.folder).transcribe(each, 16_000) == speech[0].reference


def test_copies_of_a_reconstruction_keep_their_bitstream(tiny: AnchorModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_model.py").write_text(
        "import asrdeploy\nfrom torch import nn\n"
        "class Net(nn.Module):\n"
        "    def __init__(self):\n        super().__init__()\n        self.conv = nn.Conv1d(1, 4, 400, 320)\n"
        "    def forward(self, waveform):\n        return self.conv(waveform[:, None]).transpose(1, 2)\n"
        "def make():\n    return asrdeploy.CtcModel(Net(), ['-', '|', 'A', 'B'], name='net')\n"
        "def other():\n    return asrdeploy.CtcModel(Net(), ['-', '|', 'B', 'A'], name='net')\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    model = asrdeploy.load_model("my_model:make")
    asrdeploy.compress(model, "fp16", {}, "net.asrb")
    received = asrdeploy.decompress("net.asrb", model=model)
    assert received.received is not None
    for copied in (copy.copy(received), copy.deepcopy(received), pickle.loads(pickle.dumps(received))):  # noqa: S301  # made here
        assert copied.received == received.received
    with pytest.raises(asrdeploy.AsrDeployError, match="is different, or has changed"):
        asrdeploy.decompress("net.asrb", model=asrdeploy.load_model("my_model:other"))


def test_a_model_can_be_sent_to_another_process(tiny: AnchorModel) -> None:
    again = pickle.loads(pickle.dumps(tiny))  # noqa: S301  # made here
    assert again.case == tiny.case and again.weights == tiny.weights
    assert all(np.array_equal(each, tiny.state()[name]) for name, each in again.state().items())


def test_parameters_may_be_numpys(tiny: AnchorModel, tmp_path: Path) -> None:
    for name, parameters in (("a", {"bits": 4, "symmetric": False}), ("b", {"bits": np.int64(4), "symmetric": np.bool_(False)})):
        asrdeploy.compress(tiny, "uniform", parameters, tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_missing_extra_is_a_sentence() -> None:
    code = (
        "import sys; sys.modules['torch'] = None; import asrdeploy\n"
        "try:\n    asrdeploy.load_model\nexcept asrdeploy.AsrDeployError as error:\n    print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True)
    assert "requires torch, which is not installed" in done.stdout, done.stderr


def test_plots_leave_the_backend_alone(tmp_path: Path) -> None:
    code = "import matplotlib; matplotlib.use('svg'); import asrdeploy; asrdeploy.plot_curve; print(matplotlib.get_backend())"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "svg"
