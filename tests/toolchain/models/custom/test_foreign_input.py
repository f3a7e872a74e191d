"""Custom models: files never run code, results of two models are never mixed, and every error is one sentence."""

import itertools
import json
import shutil
import struct
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from device_runner.bitstream import decoders
from device_runner.bitstream.decoders import decode_record
from device_runner.bitstream.format import Header, Record, write_bitstream
from device_runner.errors import AsrDeployError
from exporters.recogniser import shortest_input
from tests.helpers import Completed, complaint
from toolchain.accuracy.scoring import RESULT
from toolchain.accuracy.torch_engine import TorchEngine
from toolchain.compression import defaults
from toolchain.compression.bitstreams import base_for, compress
from toolchain.models.anchor_model import AnchorModel
from toolchain.models.custom import hugging_face
from toolchain.models.custom.labels import our_labels
from toolchain.models.loading import BUNDLED_WEIGHTS, load_model
from toolchain.models.test_cases import LABELS
from toolchain.reports.savings import merged
from toolchain.scenario import exporting
from toolchain.scenario.job_limits import read_job_file
from toolchain.scenario.points import read_curve, write_curve

TOML = f'architecture = "DIGITS_ASR_TINY"\nlabels = {json.dumps(LABELS)}\nsample_rate = 16000\n'
MODULE = """
from pathlib import Path
import torch
from torch import nn
from asrdeploy import CtcModel
from toolchain.models.test_cases import LABELS

Path("was_imported").touch()
print("an import that talks")


class Frames(nn.Module):
    def __init__(self, stride=160):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.head = nn.Conv1d(1, 8, 400, stride), nn.Linear(8, len(LABELS))

    def forward(self, waveform):
        return self.head(torch.relu(self.first(waveform[:, None])).transpose(1, 2))


class Choosy(Frames):
    def forward(self, waveform):
        assert waveform.shape[1] >= 800, "too short for me"
        assert waveform.shape[1] != 12345, "not this one"
        return super().forward(waveform)


class Deciding(Frames):
    def forward(self, waveform):
        logits = super().forward(waveform)
        return logits if logits.sum() > 0 else -logits


def make():
    return CtcModel(Frames(), LABELS, name="frames")


def other():
    network = Frames()
    network.head.bias.data += 1
    return CtcModel(network, LABELS, name="other")


def named():
    return CtcModel(Frames(), LABELS, name=5)


def separated():
    return CtcModel(Frames(), LABELS, word_separator=5)


def choosy():
    return CtcModel(Choosy(), LABELS, name="choosy")


def deciding():
    return CtcModel(Deciding(), LABELS, name="deciding")


def slow():
    return CtcModel(Frames(), LABELS, name="slow", sample_rate=8000)
"""
numbers = itertools.count()


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Return the name of a module in the current folder."""
    name = f"foreign_model_{next(numbers)}"
    (tmp_path / f"{name}.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield name
    sys.modules.pop(name, None)


@pytest.fixture
def described(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the TOML file of the bundled weights as a custom model, in the current folder."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(BUNDLED_WEIGHTS, "mine.safetensors")
    Path("mine.toml").write_text(TOML)
    return Path("mine.toml")


# Code


@pytest.mark.parametrize("base", ["own", "mine.safetensors"])
def test_a_bitstream_that_names_a_factory_calls_nobody(module: str, base: str, cli: Callable[..., Completed], tmp_path: Path) -> None:
    shutil.copy(BUNDLED_WEIGHTS, "mine.safetensors")
    header = Header(codec="fp16", model=f"{module}:make", base="0" * 64)
    (tmp_path / "evil.asrb").write_bytes(write_bitstream(header, []))
    with pytest.raises(AsrDeployError, match="Unknown model"):
        base_for(header, "evil.asrb", base, None)
    complaint(cli("decompress", "evil.asrb", "--base", base, "-o", "out.safetensors"))
    complaint(cli("export", "--from", "evil.asrb", "--base", base, "-o", "artifact"))
    assert module not in sys.modules and not (tmp_path / "was_imported").exists()


def test_a_model_that_is_not_the_bitstreams_is_not_passed_over(described: Path, tiny: AnchorModel, cli: Callable[..., Completed]) -> None:
    compress(tiny, "fp16", {}, Path("tiny.asrb"))
    assert "is different, or has changed since" in complaint(cli("export", "--from", "tiny.asrb", "--model", described, "-o", "artifact"))
    assert "is different, or has changed since" in complaint(cli("decompress", "tiny.asrb", "--model", described, "-o", "out.safetensors"))


def test_weights_of_another_factory_go_into_ones_own_network(module: str, waveform: np.ndarray) -> None:
    model, other = load_model(f"{module}:make"), load_model(f"{module}:other")
    taken = load_model(f"{module}:make", f"{module}:other")
    assert taken.case == model.case and taken.weights == other.weights != model.weights
    np.testing.assert_array_equal(TorchEngine(taken).logits(waveform), TorchEngine(other).logits(waveform))


# Identities


def test_a_factory_that_was_changed_is_another_model(module: str, tmp_path: Path) -> None:
    first = load_model(f"{module}:make").weights
    assert load_model(f"{module}:make").weights == first
    path = tmp_path / f"{module}.py"
    for old, new in (("Frames(), LABELS, name", "Frames(stride=200), LABELS, name"), ("name=5", "name=6")):  # a field; the file alone
        path.write_text(path.read_text().replace(old, new))
        sys.modules.pop(module)
        assert load_model(f"{module}:make").weights != first
        first = load_model(f"{module}:make").weights


@pytest.mark.parametrize("weights", ["random", "reconstructed.safetensors"])
def test_what_a_description_says_is_in_the_identity_of_other_weights(weights: str, described: Path, cli: Callable[..., Completed]) -> None:
    if weights != "random":
        assert cli("compress", "--model", described, "--codec", "fp16", "-o", "own.asrb").returncode == 0
        assert cli("decompress", "own.asrb", "-o", weights).returncode == 0
    first = load_model(str(described), weights)
    assert load_model(str(described), weights).weights == first.weights
    described.write_text(TOML + "normalised_waveform = true\n")
    assert load_model(str(described), weights).weights != first.weights


def test_curves_of_two_anchors_of_one_name_are_not_merged(tmp_path: Path, cli: Callable[..., Completed]) -> None:
    assert cli("sweep", "--codec", "uniform", "--limit", 2, "-o", "one").returncode == 0
    shutil.copytree("one", "two")
    one, two = read_curve(Path("one")), read_curve(Path("two"))
    assert len(merged([one, two]).points) == len(one.points)
    result = two.anchor_evaluation / RESULT
    result.write_text(json.dumps(json.loads(result.read_text()) | {"identity": "another one"}))
    with pytest.raises(AsrDeployError, match="same name but different weights"):
        merged([one, two])
    write_curve(two, tmp_path / "two")
    shutil.rmtree(two.anchor_evaluation)  # without its evaluation, a curve has no identity
    assert len(merged([one, two]).points) == len(one.points)


# Sample rates and labels


def test_calibration_has_the_models_sample_rate(module: str, cli: Callable[..., Completed], monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def noted(recogniser: object, facts: object, **more: object) -> None:
        seen.append(more["calibration"])
        raise AsrDeployError("Enough.")

    monkeypatch.setattr(exporting, "export", noted)
    complaint(cli("export", "--model", f"{module}:slow", "--quant", "int8-static", "-o", "artifact"), alone=False)
    with pytest.raises(AsrDeployError, match="Enough"):
        exporting.export_model(load_model(f"{module}:slow"), Path("artifact"), quant="int8-static")
    assert [each.sample_rate for each in seen] == [8000, 8000]
    assert len(next(iter(seen[0]))) <= 15 * 8000


@pytest.mark.parametrize("separator", [None, ""])
def test_where_nothing_separates_words_no_label_becomes_a_space(separator: str | None) -> None:
    assert our_labels(["-", "a", "b"], 0, "it", separator=separator) == ("-", "A", "B")
    with pytest.raises(AsrDeployError, match="which stands for the space between words"):
        our_labels(["-", "|", "b"], 0, "it", separator=separator)


# Sentences


@pytest.mark.parametrize(
    ("attribute", "words"), [("named", "name of its CtcModel is of type int"), ("separated", "word_separator of its CtcModel")]
)
def test_fields_of_another_type_are_refused(module: str, attribute: str, words: str) -> None:
    with pytest.raises(AsrDeployError, match=words):
        load_model(f"{module}:{attribute}")


def test_a_module_that_fails_while_it_is_imported(module: str, tmp_path: Path) -> None:
    (tmp_path / f"{module}.py").write_text("import math\nmath.nothing\n")
    with pytest.raises(AsrDeployError, match=r"importing .* failed: AttributeError: .*nothing"):
        load_model(f"{module}:make")


def test_a_network_that_says_no_in_its_own_way(module: str, waveform: np.ndarray) -> None:
    model = load_model(f"{module}:choosy")
    assert model.minimum_samples == 800
    with pytest.raises(AsrDeployError, match="fails on 12345 samples: not this one"):
        TorchEngine(model).logits(np.zeros(12345, np.float32))


@given(st.integers(1, 999))
def test_the_shortest_input_is_found_whatever_is_raised(least: int) -> None:
    def frames(samples: int) -> int:
        assert samples >= least
        return 1

    assert shortest_input(frames, 1000) == least


@pytest.mark.parametrize("format_name", ["onnx", "executorch"])
def test_a_network_that_cannot_be_traced(module: str, format_name: str, cli: Callable[..., Completed], tmp_path: Path) -> None:
    done = cli("export", "--model", f"{module}:deciding", "--format", format_name, "-o", "artifact")
    assert "PyTorch cannot trace this network for" in complaint(done, alone=False) and not (tmp_path / "artifact").exists()


@pytest.mark.parametrize("name", ["cut.safetensors", "empty.safetensors"])
def test_damaged_weights_for_an_own_model(name: str, described: Path, cli: Callable[..., Completed]) -> None:
    Path(name).write_bytes(BUNDLED_WEIGHTS.read_bytes()[:1000] if name.startswith("cut") else b"")
    assert "cannot be read as weights" in complaint(cli("export", "--model", described, "--weights", name, "-o", "artifact"))


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("config.json", {"architectures": 5}),
        ("config.json", {"architectures": "Wav2Vec2ForCTC"}),
        ("processor_config.json", {"feature_extractor": [1]}),
        ("processor_config.json", {"feature_extractor": "that one"}),
    ],
    ids=str,
)
def test_hugging_face_files_of_another_shape(file: str, content: dict[str, object], tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"architectures": ["Wav2Vec2ForCTC"]}))
    (tmp_path / file).write_text(json.dumps(content))
    with pytest.raises(AsrDeployError):
        hugging_face.read_folder(tmp_path)


def test_another_packages_decoder_that_stumbles_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def stumbles(record: Record, payload: bytes) -> np.ndarray:
        raise struct.error("unpack requires a buffer of 4 bytes")

    monkeypatch.setattr(decoders, "decoder_plugin", lambda kind: stumbles)
    with pytest.raises(AsrDeployError, match="record a is not valid: unpack requires"):
        decode_record(Record(name="a", kind="foreign", shape=(1,), bytes=0), b"")


def test_defaults_that_are_made_are_shown() -> None:
    from dataclasses import dataclass, field

    @dataclass(frozen=True)
    class Made:
        """A codec."""

        needed: int
        levels: list[int] = field(default_factory=lambda: [1, 2])

    assert defaults(Made) == {"needed": "?", "levels": [1, 2]}  # type: ignore[arg-type]


@pytest.mark.parametrize("names", [("a b", "a-b"), ("..", "b")])
def test_jobs_whose_results_would_lie_in_one_folder(names: tuple[str, str], tmp_path: Path) -> None:
    jobs = "".join(f'[[job]]\nname = "{name}"\nartifact = "x"\n[job.limits]\nartifact_mb = 1\n' for name in names)
    (tmp_path / "jobs.toml").write_text(jobs)
    with pytest.raises(AsrDeployError, match="name"):
        read_job_file(tmp_path / "jobs.toml")


def test_a_job_that_misses_an_extra_is_one_of_several(
    cli: Callable[..., Completed], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "jobs.toml").write_text('[[job]]\nname = "a"\nexport = { model = 0 }\n[job.limits]\nartifact_mb = 9\n')
    monkeypatch.setitem(sys.modules, "toolchain.scenario.exporting", None)
    monkeypatch.setattr("toolchain.scenario.job_limits.lacking", lambda error: "This needs torch.")
    done = cli("test", "jobs.toml", "--junit", "report.xml", "--json", "outcomes.json")
    assert done.returncode == 2 and "a could not run: This needs torch." in done.stderr
    assert (tmp_path / "report.xml").is_file() and json.loads((tmp_path / "outcomes.json").read_text())[0]["problem"]


# Output and deliveries


def test_a_factory_that_talks_does_not_disturb_the_figures(module: str, cli: Callable[..., Completed]) -> None:
    done = cli("testcases", "--model", f"{module}:make", "--json", "-")
    assert json.loads(done.stdout)[0]["name"] == "frames" and "an import that talks" in done.stderr
    failed = cli("testcases", "--model", f"{module}:named", "--json", "-")
    assert failed.returncode == 2 and failed.stdout == ""
    assert "frames" in cli("testcases", "--model", f"{module}:make").stdout


def test_a_delivery_finds_files_beside_the_command_and_knows_its_model(
    described: Path, module: str, cli: Callable[..., Completed], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = Path(f"{module}.py").read_text().replace("torch.manual_seed(0)", "torch.manual_seed(int(Path('seed.txt').read_text()))")
    Path(f"{module}.py").write_text(text)
    Path("seed.txt").write_text("3")
    assert cli("compress", "--model", f"{module}:make", "--codec", "fp16", "-o", "own.asrb").returncode == 0
    for count in (1, 2):
        done = cli("deliver", "own.asrb", "--rates", "50", "--model", f"{module}:make", "-o", "out")
        assert done.returncode == 0, done.stderr
        assert len(list(Path("out/receptions").iterdir())) == count, "another code is another reception"
        Path(f"{module}.py").write_text(text + "\n# changed\n")
        sys.modules.pop(module)
