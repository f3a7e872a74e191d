"""Custom models from factories: any network with CTC logits, whose code is never in a bitstream."""

import itertools
import pickle
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torchaudio.models import wav2vec2_model

from device_runner.audio import read_audio
from device_runner.errors import AsrDeployError
from device_runner.labels import select_labels
from exporters.export import compare
from exporters.recogniser import fold_weight_norm, shortest_input
from exporters.rewrites import for_device
from tests.helpers import Completed, complaint
from tests.toolchain.models.custom.factory_module import MODULE
from toolchain.accuracy.torch_engine import TorchEngine
from toolchain.accuracy.transcriber import open_transcriber
from toolchain.compression.bitstreams import calibration_of, compress, decompress
from toolchain.data.datasets import DataSet
from toolchain.models.digits_model import PARAMETERS
from toolchain.models.loading import load_model
from toolchain.models.networks import WITHOUT_DROPOUT
from toolchain.models.test_cases import LABELS
from toolchain.scenario.exporting import export_model

numbers = itertools.count()


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Return the name of a module in the current folder, different in every test."""
    name = f"custom_model_{next(numbers)}"
    (tmp_path / f"{name}.py").write_text(MODULE, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield name
    sys.modules.pop(name, None)


def refused(name: str) -> str:
    with pytest.raises(AsrDeployError) as caught:
        load_model(name)
    sentence = str(caught.value)
    assert sentence.endswith(".") and "\n" not in sentence
    return sentence


def test_a_factorys_model_is_a_test_case_of_its_own(module: str, waveform: np.ndarray) -> None:
    model = load_model(f"{module}:make")
    built = sys.modules[module].seeded()
    assert (model.case.name, model.case.number, model.trained) == ("small", None, True)
    assert model.case.anchor.num_param == sum(each.numel() for each in built.parameters())
    assert model.case.labels == ("-", *LABELS[1:]) and model.minimum_samples == 400
    with torch.inference_mode():
        expected = built.eval()(torch.from_numpy(waveform)[None])[0].numpy()
    order = [len(LABELS) - 1, *range(len(LABELS) - 1)]
    np.testing.assert_allclose(TorchEngine(model).logits(waveform), expected[:, order], atol=1e-5)
    # Both forms of weight norm are folded, and only weights are in the state.
    names = set(model.state())
    assert {"network.second.weight", "network.older.weight", "network.scale", "network.norm.running_var"} <= names
    assert not any("num_batches" in name or name.endswith(("_g", "_v", "original0", "order")) for name in names)
    assert load_model(f"{module}:pair").case.name == f"{module}.pair"
    np.testing.assert_array_equal(TorchEngine(load_model(f"{module}:pair")).logits(waveform), TorchEngine(model).logits(waveform))


def test_logits_may_be_named_as_models_of_transformers_do(module: str, waveform: np.ndarray) -> None:
    expected = TorchEngine(load_model(f"{module}:make")).logits(waveform)
    np.testing.assert_array_equal(TorchEngine(load_model(f"{module}:named")).logits(waveform), expected)


def test_a_network_of_lazy_layers_that_ran_once_is_like_any_other(module: str, waveform: np.ndarray) -> None:
    assert TorchEngine(load_model(f"{module}:finished")).logits(waveform).shape[1] == len(LABELS)


def test_the_code_of_a_network_is_in_its_identity(module: str, tmp_path: Path) -> None:
    first = load_model(f"{module}:make").weights
    assert load_model(f"{module}:make").weights == first
    path = tmp_path / f"{module}.py"
    path.write_text(path.read_text(encoding="utf-8").replace("torch.relu(self.norm", "torch.tanh(self.norm"), encoding="utf-8")
    assert load_model(f"{module}:make").weights != first


@pytest.mark.parametrize("dotted", [False, True])
def test_torchaudios_own_class_keeps_its_rewrites_and_its_rows(module: str, tmp_path: Path, dotted: bool, waveform: np.ndarray) -> None:
    text = """
import torch, torchaudio
from toolchain.models.digits_model import digits_asr_tiny
from toolchain.models.custom.factories import CtcModel
from toolchain.models.test_cases import LABELS

class Makers:
    @staticmethod
    def tiny():
        torch.manual_seed(0)
        return CtcModel(digits_asr_tiny(), [*LABELS[1:], "-"], blank=28)

tiny = Makers.tiny
"""
    (tmp_path / f"{module}.py").write_text(text)
    model = load_model(f"{module}:Makers.tiny" if dotted else f"{module}:tiny")
    torch.manual_seed(0)
    built = wav2vec2_model(**PARAMETERS | WITHOUT_DROPOUT).eval()
    with torch.inference_mode():
        expected = built(torch.from_numpy(waveform)[None])[0][0].numpy()
    np.testing.assert_allclose(TorchEngine(model).logits(waveform), expected[:, [28, *range(28)]], atol=1e-5)
    assert for_device(model.recogniser, "onnx")[1] == ("convolutions_as_products", "positional_as_products", "merged_attention")


REFUSED = [
    ("again", "returned the network of an earlier call"),
    ("missing", "has no missing. Give package.module:factory"),
    ("no_function", "is not a function"),
    ("raises", "failed: RuntimeError: no licence"),
    ("exits", "failed: SystemExit: bye"),
    ("wrong_type", "returned dict. It must return asrdeploy.CtcModel"),
    ("nothing", "returned NoneType"),
    ("without_network", "network of its CtcModel is of type str. It must be a torch.nn.Module"),
    ("truthy", "normalised_waveform of its CtcModel is of type int. It must be True or False"),
    ("twice", "the label “A” occurs twice"),
    ("rate", "the sample rate 0 is not valid"),
    ("rate_of_others", "the sample rate 16000.0 is not valid"),
    ("blank", "the blank “<blank>” is not one of the labels"),
    ("broken", "returned NaN or infinite weights, first in head.bias"),
    ("built_in", "DIGITS_ASR_TINY is the name of a built-in model"),
    ("bare", "returned a network without parameters"),
    ("flat", "returns logits of shape (1, 29) for a waveform"),
    ("turned", "returns logits of shape (5, 1, 29) for a waveform"),
    ("whole", "returns logits of shape (1, 5, 29)"),
    ("words", "the network returns str for a waveform"),
    ("narrow", "has 28 outputs, but 29 labels"),
    ("empty", "returns no frame for 1 s of audio"),
    ("endless", "returns NaN or infinite logits for 1 s of audio"),
    ("unnamed", "returns a dict without 'logits'. It must return logits [1, frames, 29]"),
    ("random", "returns other logits each time for the same audio. Switch off what is random, such as dropout"),
    ("unfinished", "returned a network whose weights do not exist yet, first head.weight. Run the network once in the factory"),
    ("fails", "the network fails on 1 s of audio: RuntimeError: "),
]


@pytest.mark.parametrize("attribute, sentence", REFUSED, ids=[name for name, _ in REFUSED])
def test_a_factory_that_does_not_fit_is_refused_with_the_reason(module: str, attribute: str, sentence: str) -> None:
    if attribute == "again":
        load_model(f"{module}:again")
    assert sentence in refused(f"{module}:{attribute}")


def test_modules_that_cannot_be_imported(module: str, tmp_path: Path) -> None:
    assert "there is no module nowhere_at_all. Install it" in refused("nowhere_at_all.models:make")
    (tmp_path / f"{module}.py").write_text("import nothing_like_it\n")
    assert "there is no module nothing_like_it. Install it" in refused(f"{module}:make")
    (tmp_path / f"{module}.py").write_text("1 / 0\n")
    assert f"importing {module} failed: ZeroDivisionError" in refused(f"{module}:make")
    (tmp_path / f"{module}.py").write_text("def make(:\n")
    assert f"importing {module} failed: SyntaxError" in refused(f"{module}:make")


@pytest.mark.parametrize("scheme, relative", [("fp32", 1e-4), ("int8", 0.1), ("fp16", 0.01), ("int4", 0.3)])
def test_exports_of_a_network_that_is_no_wav2vec2(module: str, tmp_path: Path, scheme: str, relative: float) -> None:
    model = load_model(f"{module}:make")
    artifact, _ = export_model(model, tmp_path / "artifact", quant=scheme)
    assert (
        artifact.manifest.rewrites == ()
        and artifact.manifest.model == "small"
        and artifact.manifest.parameters == model.case.anchor.num_param
    )
    assert max(each.relative for each in artifact.manifest.parity) < relative
    if scheme == "int8":
        assert artifact.manifest.quantised["matrix products in int8"] == 1
    shortest = np.full(400, 0.1, np.float32)
    assert compare(model.recogniser, open_transcriber(str(artifact.folder)).running, shortest, 16_000).relative < relative
    with pytest.raises(AsrDeployError, match="at least 400"):
        open_transcriber(str(artifact.folder)).transcribe(shortest[:-1])


def test_a_scheme_that_a_network_has_no_place_for_says_so(module: str, tmp_path: Path) -> None:
    with pytest.raises(AsrDeployError, match=r"int8-full cannot quantise network\.network\.second\.weight: .* \(operator Conv\)"):
        export_model(load_model(f"{module}:make"), tmp_path / "artifact", quant="int8-full")
    assert not (tmp_path / "artifact").exists()


CODECS = [("fp16", {}), ("uniform", {"bits": 4}), ("prune", {"share": 0.5}), ("lowrank", {"share": 0.9}), ("palette", {"colours": 16})]


@pytest.mark.parametrize("codec, parameters", [*CODECS, ("ectcq", {"bits": 3})], ids=lambda each: str(each))
def test_bitstreams_of_a_factorys_model_bring_no_code(module: str, tmp_path: Path, codec: str, parameters: dict[str, float]) -> None:
    model = load_model(f"{module}:make")
    calibration = calibration_of(model, "digits", "dev-clean", cache=None) if codec == "ectcq" else None
    header = compress(model, codec, parameters, tmp_path / "own.asrb", calibration=calibration)
    assert header.network is not None and header.network.factory == f"{module}:make" and header.network.architecture is None
    sys.modules.pop(module)
    (tmp_path / f"{module}.py").rename(tmp_path / "away")
    with pytest.raises(AsrDeployError, match=r"bitstreams contain no code\. If you trust it, add --model"):
        decompress(tmp_path / "own.asrb")
    assert module not in sys.modules
    (tmp_path / "away").rename(tmp_path / f"{module}.py")
    rebuilt = decompress(tmp_path / "own.asrb", model=load_model(f"{module}:make"))
    assert rebuilt.case == model.case and rebuilt.weights == model.weights and rebuilt.minimum_samples == 400
    assert rebuilt.state().keys() == model.state().keys()
    far = max(float((rebuilt.state()[name] - each).abs().max()) for name, each in model.state().items())
    assert 0 < far < 3


def test_another_factory_than_the_bitstreams_is_refused(module: str, cli: Callable[..., Completed]) -> None:
    name = f"{module}:make"
    assert cli("compress", "--model", name, "--codec", "uniform", "--set", "bits=6", "-o", "own.asrb").returncode == 0
    assert "If you trust it, add --model" in complaint(cli("export", "--from", "own.asrb", "-o", "artifact"))
    assert "different, or has changed" in complaint(cli("export", "--from", "own.asrb", "--model", f"{module}:plain", "-o", "artifact"))
    done = cli("export", "--from", "own.asrb", "--model", name, "-o", "artifact")
    assert done.returncode == 0, done.stderr
    # Extracting the weights requires no code.
    assert cli("decompress", "own.asrb", "-o", "own.safetensors").returncode == 0
    assert (
        cli("compress", "--model", name, "--codec", "uniform", "--set", "bits=8", "--base", "own.safetensors", "-o", "up.asrb").returncode
        == 0
    )
    assert "Give the factory with --model" in complaint(cli("decompress", "up.asrb", "--base", "own.safetensors", "-o", "x.safetensors"))
    assert cli("decompress", "up.asrb", "--base", "own.safetensors", "--model", name, "-o", "new.safetensors").returncode == 0
    assert "Leave --weights out" in complaint(cli("export", "--model", name, "--weights", "random"))


def test_a_delivery_takes_the_factory_along(module: str, cli: Callable[..., Completed], tmp_path: Path) -> None:
    name = f"{module}:make"
    for ours in ("asrdeploy", "toolchain", "device_runner"):  # what lies beside the factory replaces nothing of ours
        (tmp_path / f"{ours}.py").write_text("raise SystemExit('the wrong module')\n")
    assert cli("compress", "--model", name, "--codec", "fp16", "-o", "own.asrb").returncode == 0
    assert "a bitstream contains no code" in complaint(cli("deliver", "own.asrb", "--rates", "50", "-o", "out"), alone=False)
    done = cli("deliver", "own.asrb", "--rates", "50", "--model", name, "-o", "out")
    assert done.returncode == 0 and "small" in done.stdout, done.stderr


def test_a_sweep_of_a_factorys_model_goes_on_where_it_was(module: str, cli: Callable[..., Completed], tmp_path: Path) -> None:
    (tmp_path / "sweep.toml").write_text(f'testcase = "{module}:make"\nlimit = 2\n[[method]]\ncodec = "uniform"\nrates = [4, 6]\n')
    for _ in range(2):
        done = cli("sweep", "--config", "sweep.toml", "-o", "out")
        assert done.returncode == 0 and "small on digits test-clean" in done.stdout, done.stderr


def test_processes_make_the_network_anew(module: str, waveform: np.ndarray) -> None:
    model = load_model(f"{module}:make")
    sent = pickle.dumps(model)
    assert b"Convolutions" not in sent
    again = pickle.loads(sent)  # noqa: S301  # our own, just made
    np.testing.assert_array_equal(TorchEngine(again).logits(waveform), TorchEngine(model).logits(waveform))


def test_the_normalisation_that_a_factory_asks_for(module: str, test_clean: DataSet) -> None:
    transcriber = open_transcriber(f"{module}:plain")
    loud = read_audio(test_clean.utterances[0].path, 16_000)
    normalised = torch.nn.functional.layer_norm(torch.from_numpy(loud)[None], (1, len(loud)))
    with torch.inference_mode():
        expected = sys.modules[module].seeded().eval()(normalised)[0].numpy()
    np.testing.assert_allclose(transcriber.running.logits(loud), expected, atol=1e-5)
    assert transcriber.transcribe(loud) == select_labels(expected, LABELS)


@pytest.mark.parametrize("least", [1, 2, 399, 400, 16_000])
def test_the_shortest_input_is_found(least: int) -> None:
    def frames(samples: int) -> int:
        if samples < least:
            raise RuntimeError("kernel size can't be greater than actual input size")
        return 1 + (samples - least) // 160

    assert shortest_input(frames, 16_000) == least
    assert shortest_input(frames, least - 1) is None
    assert shortest_input(lambda samples: samples // least, 16_000) == least


def test_old_and_new_weight_norms_are_folded_alike() -> None:
    torch.manual_seed(0)
    layer = nn.Conv1d(2, 3, 3)
    expected = layer.weight.detach().clone()
    for norm in (nn.utils.weight_norm, nn.utils.parametrizations.weight_norm):
        network = nn.Sequential(norm(layer))
        fold_weight_norm(network)
        assert set(network.state_dict()) == {"0.weight", "0.bias"}
        torch.testing.assert_close(network.state_dict()["0.weight"], expected)
