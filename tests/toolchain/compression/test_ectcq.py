"""Trellis-coded quantisation compared with theory, and calibrated codecs compared with uncalibrated ones."""

import itertools
import math
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from device_runner.artifact import open_artifact
from device_runner.bitstream.decoders import decode_record
from device_runner.bitstream.format import Record, read_header
from device_runner.bitstream.trellis import POLYNOMIALS, AdaptiveModels, Layout, next_states, renewals
from device_runner.errors import AsrDeployError
from device_runner.files import sha256_of
from tests.helpers import Completed, complaint
from toolchain.compression.bitstreams import calibration_of, compress, decompress
from toolchain.compression.calibration import Calibration, calibrate
from toolchain.compression.codec import decode, encode
from toolchain.compression.ectcq import Plan
from toolchain.compression.feedback import feedback_factor, quantise_with_feedback
from toolchain.compression.viterbi import search
from toolchain.data.speech import bundled_speech
from toolchain.models.anchor_model import AnchorModel, Received
from toolchain.scenario.demo import Configuration, _earlier_codec

GAUSSIAN = {"w": torch.randn(1000, 500, generator=torch.Generator().manual_seed(0))}


@pytest.fixture(scope="module")
def calibration(tiny: AnchorModel) -> Calibration:
    return calibration_of(tiny, "digits", "dev-clean", cache=None)


@pytest.mark.parametrize("bits", [2, 3, 4, 5])
def test_the_distance_to_shannons_bound(bits: int) -> None:
    bitstream = encode("ectcq", {"bits": bits}, GAUSSIAN)
    noise = float((GAUSSIAN["w"] - decode(bitstream)["w"]).square().mean())
    rate = 8 * len(bitstream) / GAUSSIAN["w"].numel()
    assert rate == pytest.approx(bits, rel=0.06)
    assert 20 * math.log10(2) * rate + 10 * math.log10(noise) < 0.6


def test_more_states_are_nearer() -> None:
    gaps = []
    for states in (8, 32):
        bitstream = encode("ectcq", {"bits": 3, "states": states}, GAUSSIAN)
        noise = float((GAUSSIAN["w"] - decode(bitstream)["w"]).square().mean())
        gaps.append(6.0206 * 8 * len(bitstream) / GAUSSIAN["w"].numel() + 10 * math.log10(noise))
    assert gaps[1] < gaps[0] - 0.05


def test_a_wanted_ratio_is_met(tiny: AnchorModel) -> None:
    for wanted in (10, 20, 30):
        state = tiny.state()
        found = decode(encode("ectcq", {"snr": wanted}, state))
        energy = sum(float(each.square().sum()) for each in state.values() if each.ndim > 1)
        noise = sum(float((state[name] - found[name]).square().sum()) for name in state if state[name].ndim > 1)
        assert 10 * math.log10(energy / noise) == pytest.approx(wanted, abs=1.2)


@pytest.mark.parametrize("states", POLYNOMIALS)
def test_the_trellis_is_one(states: int) -> None:
    following = next_states(states)
    arrivals = np.bincount(following.ravel(), minlength=states)
    assert (arrivals == 2).all() and (following[:, 0] != following[:, 1]).all()
    # Paths that separate must not meet again at the next step, or the parity would cost nothing.
    assert all(len({int(following[following[state, bit], last]) for bit in (0, 1) for last in (0, 1)}) == 4 for state in range(states))


@settings(max_examples=50, deadline=None)
@given(
    rows=st.integers(1, 700),
    columns=st.integers(1, 6),
    states=st.sampled_from(sorted(POLYNOMIALS)),
    scale=st.floats(0.01, 30),
    seed=st.integers(0, 99),
)
def test_whatever_the_shape_decoder_and_encoder_agree(rows: int, columns: int, states: int, scale: float, seed: int) -> None:
    matrix = (scale * np.random.default_rng(seed).standard_normal((rows, columns))).astype(np.float32)
    coded, expected = Plan(matrix, 1.0, None, matrix.ravel()).code(1.0, states)
    record = Record(name="w", kind=coded.kind, shape=matrix.shape, bytes=len(coded.payload), parameters=coded.parameters)
    assert np.array_equal(decode_record(record, coded.payload), expected)
    # A path is at most one subset away from a weight, and cheaper levels may add another.
    assert np.abs(expected - matrix).max() <= 6 and coded.kind == "trellis"


def test_lanes_and_back() -> None:
    for rows, columns in ((1, 1), (7, 3), (512, 2), (3072, 4), (997, 2)):
        layout, matrix = Layout(rows, columns), np.arange(rows * columns, dtype=np.float32).reshape(rows, columns)
        lanes = layout.lanes(matrix)
        assert lanes.shape == (columns * layout.parts, layout.steps) and np.array_equal(layout.matrix(lanes), matrix)
        assert layout.steps <= 256 and layout.parts * layout.steps == rows


def test_models_are_of_integers_and_adapt() -> None:
    models = AdaptiveModels(20, 16)
    before = models.probabilities()
    assert models.counts.dtype == np.int64 and (models.counts > 0).all()
    assert before[0].argmax() == 20 and before[0][20] > before[0][21] > before[0][22] >= before[0][40]
    histogram = np.zeros((2, 41), np.int64)
    histogram[0, 3] = 1000
    models.add(histogram)
    assert models.probabilities()[0].argmax() == 3 and np.array_equal(models.probabilities()[1], before[1])
    for spread in (0, 1, 10**5):
        assert all(np.isfinite(each).all() for each in AdaptiveModels(4096, spread).probabilities())
    for steps in (1, 2, 17, 256):
        runs = list(renewals(steps))
        assert runs[0][0] == 0 and runs[-1][1] == steps
        assert all(first[1] == second[0] for first, second in itertools.pairwise(runs))


def test_the_search_finds_the_best_path() -> None:
    values = np.random.default_rng(0).normal(0, 3, (1, 6)).astype(np.float32)
    trellis, rates = next_states(8), np.abs(np.arange(-8, 9, dtype=np.float32))[None].repeat(2, 0)
    k, z = np.empty((1, 6), np.int32), np.empty((1, 6), np.uint8)
    search(values, rates, 0.2, trellis, k, z)
    found = float(((values - (2 * k + z)) ** 2).sum() + 0.2 * np.abs(k).sum())
    best = {0: 0.0}
    for value in values[0]:  # exhaustive: every level at every state
        new: dict[int, float] = {}
        for state, cost in best.items():
            for level in range(-8, 9):
                after = int(trellis[state, level & 1])
                total = cost + float(value - (2 * level + (state & 1))) ** 2 + 0.2 * abs(level)
                new[after] = min(total, new.get(after, math.inf))
        best = new
    assert found == pytest.approx(min(best.values()), abs=1e-4)


# Calibration


def test_moments_are_those_of_the_layers_inputs(tiny: AnchorModel, calibration: Calibration) -> None:
    names = {name for name, each in tiny.state().items() if each.ndim > 1}
    assert calibration.moments.keys() == calibration.means.keys() == calibration.sensitivity.keys() == names
    for name, moment in calibration.moments.items():
        assert moment.shape == (tiny.state()[name][0].numel(),) * 2 and np.allclose(moment, moment.T, rtol=1e-3, atol=1e-3)
        mean = calibration.means[name]
        assert (np.diag(moment) >= mean**2 - 1e-3).all()  # no variance below zero
    assert all(0 < each < math.inf for each in calibration.sensitivity.values())


def test_a_measurement_is_kept_and_belongs_to_its_weights(tiny: AnchorModel, tmp_path: Path) -> None:
    recordings = [bundled_speech([1.0], 16_000)[1.0]]
    before = {name: each.clone() for name, each in tiny.state().items()}
    steps: list[str] = []
    first = calibrate(
        tiny.recogniser, recordings, source="s", cache=tmp_path, identity="a", progress=lambda what, share: steps.append(what)
    )
    assert all(torch.equal(before[name], each) for name, each in tiny.state().items())  # the weights were restored
    assert len(list(tmp_path.iterdir())) == 1 and steps
    count = len(steps)
    again = calibrate(
        tiny.recogniser, recordings, source="s", cache=tmp_path, identity="a", progress=lambda what, share: steps.append(what)
    )
    assert len(steps) == count and again.sensitivity == pytest.approx(first.sensitivity)
    assert all(np.array_equal(again.moments[name], each) for name, each in first.moments.items())
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:1000])  # a cut file is replaced
    calibrate(tiny.recogniser, recordings, source="s", cache=tmp_path, identity="a")
    assert path.stat().st_size > 1000
    calibrate(tiny.recogniser, recordings, source="s", cache=tmp_path, identity="b")
    assert len(list(tmp_path.iterdir())) == 2


def test_feedback_makes_the_output_better() -> None:
    rng = np.random.default_rng(0)
    inputs = (rng.standard_normal((2000, 40)) @ rng.standard_normal((40, 40))).astype(np.float32)
    moment = inputs.T @ inputs / len(inputs)
    matrix = rng.standard_normal((30, 40)).astype(np.float32)
    plain = quantise_with_feedback(matrix, None, lambda _, column: np.rint(column))
    fed = quantise_with_feedback(matrix, moment, lambda _, column: np.rint(column))
    assert np.array_equal(plain, np.rint(matrix)) and np.array_equal(fed, np.rint(fed))
    errors = [float((((each - matrix) @ inputs.T) ** 2).mean()) for each in (plain, fed)]
    assert errors[1] < 0.6 * errors[0]
    factor = feedback_factor(moment)
    assert np.allclose(factor, np.triu(factor)) and (np.diag(factor) > 0).all()


@pytest.mark.parametrize(("codec", "parameters"), [("uniform", {"bits": 3}), ("palette", {"colours": 8}), ("ectcq", {"bits": 2})])
def test_a_calibrated_codec_changes_less_of_what_is_heard(
    codec: str, parameters: dict[str, float], tiny: AnchorModel, calibration: Calibration
) -> None:
    speech = torch.from_numpy(bundled_speech([8.0], 16_000)[8.0])[None]

    def divergence(with_what: Calibration | None) -> tuple[float, int]:
        bitstream = encode(codec, parameters, tiny.state(), calibration=with_what)
        model = tiny.with_state(decode(bitstream), "reconstructed")
        with torch.inference_mode():
            wanted, found = (torch.log_softmax(each.recogniser(speech)[0], dim=-1) for each in (tiny, model))
        return float((wanted.exp() * (wanted - found)).sum(1).mean()), len(bitstream)

    (plain, size), (calibrated, size_calibrated) = divergence(None), divergence(calibration)
    assert calibrated < 0.5 * plain and size_calibrated < 1.06 * size


def test_biases_are_corrected(tiny: AnchorModel, calibration: Calibration) -> None:
    state = tiny.state()
    name = "encoder.transformer.layers.0.feed_forward.output_dense"
    found = decode(encode("uniform", {"bits": 2}, state, calibration=calibration))
    lost = (state[f"{name}.weight"] - found[f"{name}.weight"]) @ torch.from_numpy(calibration.means[f"{name}.weight"])
    assert torch.allclose(found[f"{name}.bias"], state[f"{name}.bias"] + lost, atol=2e-3)
    unknown = replace(calibration, means={})
    assert torch.allclose(
        decode(encode("uniform", {"bits": 2}, state, calibration=unknown))[f"{name}.bias"], state[f"{name}.bias"], atol=1e-3
    )


# Files and the command line


def test_a_bitstream_becomes_a_model_again(tiny: AnchorModel, tmp_path: Path) -> None:
    header = compress(tiny, "ectcq", {"bits": 4}, tmp_path / "a.asrb")
    model = decompress(str(tmp_path / "a.asrb"))
    size, digest = (tmp_path / "a.asrb").stat().st_size, sha256_of(tmp_path / "a.asrb")
    assert model.received == Received(header.configuration, size, digest)
    assert (model.case, model.weights, model.trained) == (tiny.case, tiny.weights, True)
    assert model.state().keys() == tiny.state().keys()


def test_the_demo_takes_an_earlier_bitstream_of_the_same_settings_alone(tiny: AnchorModel, tmp_path: Path) -> None:
    header = compress(tiny, "uniform", {"bits": 4}, tmp_path / "a.asrb")
    assert _earlier_codec(Configuration("same", codec="uniform", bits=4), tmp_path / "a.asrb") == header.configuration
    for other in (
        Configuration("bits", codec="uniform", bits=3),
        Configuration("codec", codec="ectcq", bits=4),
        Configuration("calibrated", codec="uniform", bits=4, calibrated=True),
    ):
        with pytest.raises(AsrDeployError, match="made with other settings"):
            _earlier_codec(other, tmp_path / "a.asrb")


def test_from_compress_to_evaluate_by_commands_only(cli: Callable[..., Completed], tmp_path: Path) -> None:
    file, artifact = tmp_path / "tiny.asrb", tmp_path / "artifact"
    assert "ectcq" in cli("codecs").stdout
    shown = cli("compress", "--codec", "ectcq", "--set", "bits=2", "--calibrate", "digits", "-o", file).stdout
    assert "bits per weight" in shown and "calibration=digits dev-clean x 32" in " ".join(shown.replace("│", " ").split())
    assert read_header(file).trained
    assert "encoder.transformer" in cli("inspect", file).stdout
    assert "tensors are in" in cli("decompress", file, "-o", tmp_path / "w.safetensors").stdout
    cli("export", "--from", file, "--quant", "int8", "-o", artifact)
    manifest = open_artifact(artifact).manifest
    assert manifest.codec == read_header(file).configuration and manifest.transmitted_bytes == file.stat().st_size
    assert "cSize 0.06" in cli("evaluate", artifact, "--limit", 5, "-o", tmp_path / "results").stdout


def test_an_update_by_commands(cli: Callable[..., Completed], tmp_path: Path) -> None:
    cli("compress", "--codec", "ectcq", "--set", "bits=4", "-o", tmp_path / "a.asrb")
    cli("decompress", tmp_path / "a.asrb", "-o", tmp_path / "tuned.safetensors")
    coded = ("compress", "--codec", "ectcq", "--set", "bits=1", "-o", tmp_path / "u.asrb")
    done = cli(*coded, "--weights", tmp_path / "tuned.safetensors", "--base", "own")
    assert done.returncode == 0, done.stderr
    assert "update of" in cli("inspect", tmp_path / "u.asrb").stdout
    assert "that it was made from with --base" in complaint(cli("export", "--from", tmp_path / "u.asrb", "-o", tmp_path / "x"))
    assert "tensors are in" in cli("decompress", tmp_path / "u.asrb", "--base", "own", "-o", tmp_path / "b.safetensors").stdout


HALF = """
import sys
from safetensors.numpy import load_file, save_file
save_file({name: each.astype(sys.argv[3]) for name, each in load_file(sys.argv[1]).items()}, sys.argv[2])
"""


def test_an_external_codec(cli: Callable[..., Completed], tmp_path: Path, tiny: AnchorModel) -> None:
    (tmp_path / "its own.py").write_text(HALF)
    command = f"{sys.executable} '{tmp_path}/its own.py' {{input}} {{output}}"
    done = cli("compress", "--codec", "external", "--set", f"encoder={command} float16", "-o", tmp_path / "e.asrb")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "e.asrb").stat().st_size == pytest.approx(2 * 1_524_861, rel=0.01)
    assert "command of its decoder with --decoder" in complaint(cli("export", "--from", tmp_path / "e.asrb", "-o", tmp_path / "x"))
    weights = tmp_path / "w.safetensors"
    cli("decompress", tmp_path / "e.asrb", "-o", weights, "--decoder", f"{command} float32")
    found = load_file(weights)
    assert all(torch.equal(found[name], each.half().float()) for name, each in tiny.state().items())
    for wrong, words in (
        (f"{command} nothing", "failed with exit code 1"),
        ("no-such-program {input} {output}", "cannot be run"),
        ("true {input} {output}", "ended without writing"),
        ("cp {input}", "must contain {input} and {output}"),
        ("cp '{input} {output}", "is not valid: No closing quotation"),
    ):
        assert words in complaint(cli("decompress", tmp_path / "e.asrb", "-o", weights, "--decoder", wrong))
    assert "is not a safetensors file" in complaint(
        cli("decompress", tmp_path / "e.asrb", "-o", weights, "--decoder", "cp /dev/null {output} --suffix={input}")
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("compress", "--codec", "ectcq", "-o", "a.asrb"), "either bits"),
        (("compress", "--codec", "ectqc", "-o", "a.asrb"), "Did you mean ectcq?"),
        (("compress", "--codec", "ectcq", "--set", "bits", "-o", "a.asrb"), "NAME=VALUE"),
        (
            ("compress", "--codec", "fp16", "--calibrate", "digits", "--calibrate-split", "test-clean", "-o", "a.asrb"),
            "Use another split, such as dev-clean",
        ),
        (("decompress", "missing.asrb", "-o", "w.safetensors"), "is not a file"),
        (("decompress", "missing.asrb", "-o", "w.pt"), "written as .safetensors"),
        (("inspect", "README.md"), "does not begin with ASRB"),
        (("export", "--from", "README.md", "-o", "x"), "does not begin with ASRB"),
    ],
)
def test_mistakes_are_one_sentence(cli: Callable[..., Completed], arguments: tuple[str, ...], words: str) -> None:
    Path("README.md").write_text("Nothing that was coded. " * 9)
    assert words in complaint(cli(*arguments))
