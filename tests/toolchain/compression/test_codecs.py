"""Codecs: the loss is bounded, the sent bits are counted, and unsupported values are refused."""

import itertools
import math
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from device_runner import plugins
from device_runner.bitstream.decoders import unpack
from device_runner.bitstream.format import BitstreamReader, in_memory
from device_runner.errors import AsrDeployError
from toolchain.compression import CODECS, codec, codec_plugins
from toolchain.compression.codec import decode, encode, make_codec
from toolchain.compression.uniform import colours, pack
from toolchain.models.anchor_model import AnchorModel
from toolchain.models.weight_files import digest_of

State = dict[str, Tensor]
EVERY: list[tuple[str, dict[str, Any]]] = [
    ("fp16", {}),
    ("bf16", {}),
    ("prune", {"share": 0.4}),
    ("prune", {"share": 0.4, "scope": "global"}),
    ("lowrank", {"share": 0.3}),
    ("uniform", {"bits": 4}),
    ("uniform", {"bits": 1, "symmetric": False}),
    ("uniform", {"bits": 3, "scope": "tensor"}),
    ("uniform", {"bits": 5, "scope": "group", "group": 7, "symmetric": False}),
    ("palette", {"colours": 5}),
    ("ectcq", {"bits": 3}),
    ("ectcq", {"snr": 15, "states": 16}),
]


def small(seed: int = 0) -> State:
    """Return a state dict with every shape that occurs, and with magnitudes that differ by channel."""
    generator = torch.Generator().manual_seed(seed)
    spread = torch.logspace(-2, 1, 24)
    return {
        "linear.weight": torch.randn(24, 40, generator=generator) * spread[:, None],
        "conv.weight": torch.randn(24, 6, 5, generator=generator) * spread[:, None, None],
        "few.weight": torch.randn(3, 4, generator=generator),
        "linear.bias": torch.randn(24, generator=generator),
        "zeros.weight": torch.zeros(20, 20),
        "scale": torch.tensor(0.5),
    }


def signal_to_noise(state: State, found: State) -> float:
    noise = sum(float((state[name] - found[name]).square().sum()) for name in state)
    return 10 * math.log10(sum(float(each.square().sum()) for each in state.values()) / max(noise, 1e-30))


@pytest.mark.parametrize(("name", "parameters"), EVERY)
def test_names_shapes_and_kinds_come_back(name: str, parameters: dict[str, Any], tiny: AnchorModel) -> None:
    for state in (small(), tiny.state()):
        bitstream = encode(name, parameters, state)
        found = decode(bitstream)
        assert {key: (each.shape, each.dtype) for key, each in found.items()} == {
            key: (each.shape, torch.float32) for key, each in state.items()
        }
        assert all(torch.isfinite(each).all() for each in found.values())
        # The coarsest codec may lose a weight, but no codec may add energy to it.
        assert signal_to_noise(state, found) > 0.5
    assert encode(name, parameters, tiny.state()) == bitstream  # deterministic


@pytest.mark.parametrize(("name", "parameters"), EVERY)
def test_zeros_stay_zero(name: str, parameters: dict[str, Any]) -> None:
    found = decode(encode(name, parameters, {"w": torch.zeros(300, 300), "b": torch.zeros(9)}))
    assert float(found["w"].abs().max()) < 2e-4 and float(found["b"].abs().max()) < 2e-4


@pytest.mark.parametrize(("name", "parameters"), EVERY)
def test_a_record_claims_no_more_weights_than_the_container_allows(name: str, parameters: dict[str, Any]) -> None:
    assert decode(encode(name, parameters, {"w": torch.zeros(2000, 1000)}))["w"].shape == (2000, 1000)


def test_half_precision_is_the_cast(tiny: AnchorModel) -> None:
    state = tiny.state()
    for name, kind in (("fp16", torch.float16), ("bf16", torch.bfloat16)):
        bitstream = encode(name, {}, state)
        found = decode(bitstream)
        assert all(torch.equal(found[key], each.to(kind).float()) for key, each in state.items())
        assert len(bitstream) * 8 == pytest.approx(16 * sum(each.numel() for each in state.values()), rel=0.01)
    large = {"w": torch.full((3, 3), 1e5)}
    assert torch.equal(decode(encode("fp16", {}, large))["w"], large["w"])  # half precision would overflow here


@settings(max_examples=60, deadline=None)
@given(bits=st.integers(2, 8), rows=st.integers(1, 4), columns=st.integers(1, 12), power=st.floats(-4, 3), seed=st.integers(0, 10**6))
def test_the_error_of_a_uniform_weight_is_half_a_step(bits: int, rows: int, columns: int, power: float, seed: int) -> None:
    weight = torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed)) * 10**power
    bitstream = encode("uniform", {"bits": bits}, {"w": weight})
    found = decode(bitstream)["w"]
    (_, payload), *_ = BitstreamReader(in_memory(bitstream)).records()
    scales = torch.from_numpy(np.frombuffer(payload, "<f2", rows).astype(np.float32))[:, None]
    top = 2 ** (bits - 1)
    inside = torch.clamp(weight, -top * scales, (top - 1) * scales)  # larger weights are clipped to the last level
    assert ((found - inside).abs() <= scales * 0.5 * (1 + 1e-3)).all()
    # The chosen scale is never worse than the one that just reaches the largest weight.
    plain = (weight.abs().amax(dim=1, keepdim=True) / (top - 0.5)).half().float().clamp_min(6.2e-5)
    unclipped = torch.clamp(torch.round(weight / plain), -top, top - 1) * plain
    assert (found - weight).square().sum() <= (unclipped - weight).square().sum() * (1 + 1e-2) + 1e-9


def test_more_bits_are_less_error(tiny: AnchorModel) -> None:
    for name, key, values in (("uniform", "bits", (2, 5, 8)), ("ectcq", "bits", (2, 4, 6)), ("palette", "colours", (4, 16, 64))):
        ratios = [signal_to_noise(tiny.state(), decode(encode(name, {key: value}, tiny.state()))) for value in values]
        assert all(more > less + 6 for less, more in itertools.pairwise(ratios)), name


def test_finer_scopes_and_offsets_lose_less(tiny: AnchorModel) -> None:
    choices: list[dict[str, Any]] = [{"scope": "tensor"}, {}, {"scope": "group", "group": 16}]
    ratios = [signal_to_noise(tiny.state(), decode(encode("uniform", {"bits": 3} | each, tiny.state()))) for each in choices]
    assert ratios == sorted(ratios)
    skewed = {"w": torch.rand(20, 50) + 3}
    plain, shifted = (decode(encode("uniform", {"bits": 3, "symmetric": each}, skewed)) for each in (True, False))
    assert signal_to_noise(skewed, shifted) > signal_to_noise(skewed, plain) + 6


def test_pruning_keeps_the_largest(tiny: AnchorModel) -> None:
    state = tiny.state()
    for scope in ("layer", "global"):
        found = decode(encode("prune", {"share": 0.5, "scope": scope}, state))
        matrices = [name for name, each in state.items() if each.ndim > 1]
        zeros = sum(int((found[name] == 0).sum()) for name in matrices) / sum(state[name].numel() for name in matrices)
        assert zeros == pytest.approx(0.5, abs=0.001)
        for name in matrices:
            gone = found[name] == 0
            assert not gone.any() or float(state[name][gone].abs().max()) <= float(state[name][~gone].abs().min()) + 1e-6


def test_low_rank_is_the_best_approximation() -> None:
    weight = torch.randn(30, 8, generator=torch.Generator().manual_seed(0)) @ torch.randn(8, 50, generator=torch.Generator().manual_seed(1))
    assert signal_to_noise({"w": weight}, decode(encode("lowrank", {"share": 8 / 30}, {"w": weight}))) > 50


def test_colours_are_those_of_k_means() -> None:
    clusters = np.array([-3.0, 0.5, 4.0], np.float32)
    values = (clusters[np.random.default_rng(0).integers(0, 3, 600)] + np.random.default_rng(1).normal(0, 0.01, 600)).astype(np.float32)
    assert np.allclose(np.sort(colours(values.reshape(20, 30), 3, None)), clusters, atol=0.01)


# Updates


def test_an_update_is_added_to_its_base(tiny: AnchorModel) -> None:
    base = tiny.state()
    generator = torch.Generator().manual_seed(0)
    new = {name: each + 0.001 * torch.randn(each.shape, generator=generator) for name, each in base.items()}
    whole, update = encode("ectcq", {"snr": 35}, new), encode("ectcq", {"snr": 6}, new, base=base)
    assert signal_to_noise(new, decode(update, base)) > 35 and len(update) < len(whole) / 3
    with pytest.raises(AsrDeployError, match="Give the weights that it was made from with --base"):
        decode(update)
    with pytest.raises(AsrDeployError, match="not the ones that this update was made from"):
        decode(update, new)
    with pytest.raises(AsrDeployError, match="has no "):
        decode(update, {"w": torch.zeros(3)})
    with pytest.raises(AsrDeployError, match="same architecture"):
        encode("fp16", {}, new, base=small())


def test_the_digest_is_of_the_weights_alone() -> None:
    state = small()
    assert digest_of(state) == digest_of(dict(reversed(state.items()))) == digest_of({name: each.double() for name, each in state.items()})
    assert digest_of(state) != digest_of(small(1)) and len(digest_of(state)) == 64


# Codecs of other packages


def test_codecs_of_other_packages(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "their_codecs.py").write_text(
        "from dataclasses import dataclass\n"
        "from toolchain.compression.codec import Coded\n"
        "@dataclass(frozen=True)\n"
        "class Signs:\n"
        "    size: float = 0.5\n"
        "    def code(self, state, calibration):\n"
        "        for name, weights in state.items():\n"
        "            yield name, Coded('fp32', ((weights >= 0) * 2 * self.size - self.size).astype('<f4').tobytes())\n"
        "nothing = 3\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    names = {"signs": "Signs", "nothing": "nothing", "missing": "missing", "uniform": "Signs"}
    points = [EntryPoint(name, f"their_codecs:{value}", codec.ENTRY_POINTS) for name, value in names.items()]
    monkeypatch.setattr(plugins, "entry_points", lambda group: points if group == codec.ENTRY_POINTS else [])
    found, broken = codec_plugins()
    assert list(found) == ["signs"] and set(broken) == {"nothing", "missing", "uniform"}
    assert set(decode(encode("signs", {"size": "0.25"}, small()))["few.weight"].unique().tolist()) == {-0.25, 0.25}
    assert make_codec("uniform", bits=3) == CODECS["uniform"](bits=3)
    with pytest.raises(AsrDeployError, match=r"The codec plug-in nothing cannot be used: .* not a dataclass"):
        make_codec("nothing")


# Packing


@settings(max_examples=300, deadline=None)
@given(st.integers(1, 8).flatmap(lambda bits: st.tuples(st.just(bits), st.lists(st.integers(0, 2**bits - 1), max_size=70))))
def test_levels_survive_packing(case: tuple[int, list[int]]) -> None:
    bits, levels = case
    packed = pack(np.array(levels, np.uint8), bits)
    assert packed.dtype == np.uint8 and len(packed) == -(-len(levels) * bits // 8)
    assert unpack(packed, bits, len(levels)).tolist() == levels


def test_packing_is_most_significant_bit_first() -> None:
    assert pack(np.array([0b101, 0b001, 0b111], np.uint8), 3).tolist() == [0b10100111, 0b10000000]
    assert pack(np.array([1], np.uint8), 1).tolist() == [0b10000000]
    with pytest.raises(ValueError, match="instead of 20"):
        unpack(pack(np.zeros(20, np.uint8), 8)[:-1], 8, 20)


# What is refused


@pytest.mark.parametrize(
    ("name", "parameters", "words"),
    [
        ("unifrom", {"bits": 4}, r"Unknown codec “unifrom”\. Did you mean uniform\?"),
        ("uniform", {"bits": 9}, "takes 2 to 8 bits"),
        ("uniform", {"bits": 1}, "takes 2 to 8 bits"),
        ("uniform", {"bits": "many"}, "uniform: bits cannot be 'many'. Give a whole number"),
        ("uniform", {"symmetric": "maybe"}, "symmetric cannot be 'maybe'. Give true or false"),
        ("uniform", {}, "requires a value for bits"),
        ("uniform", {"bits": 4, "scope": "all"}, "scope tensor, channel or group"),
        ("uniform", {"bit": 4}, r"Did you mean bits\?"),
        ("fp16", {"bits": 4}, "has no parameters"),
        ("palette", {"colours": 1}, "takes 2 to 256 colours"),
        ("prune", {"share": 1.0}, "share between 0 and 1"),
        ("lowrank", {"share": 0}, "share above 0"),
        ("ectcq", {}, "either bits .* or snr"),
        ("ectcq", {"bits": 3, "snr": 3}, "either bits .* or snr"),
        ("ectcq", {"bits": 3, "states": 12}, "8, 16, 32 or 64 states"),
        ("ectcq", {"bits": float("nan")}, "takes 0.05 to 10 bits"),
        ("ectcq", {"bits": 0}, "takes 0.05 to 10 bits"),
        ("ectcq", {"snr": 0}, "takes 0.05 to 10 bits"),
    ],
)
def test_what_codecs_do_not_take(name: str, parameters: dict[str, Any], words: str) -> None:
    with pytest.raises(AsrDeployError, match=words):
        make_codec(name, **parameters)


def test_weights_that_are_not_finite_are_refused() -> None:
    with pytest.raises(AsrDeployError, match="NaN or infinite"):
        encode("fp16", {}, {"w": torch.tensor([[1.0, float("nan")]])})


def test_text_is_converted_by_the_kind_of_the_parameter() -> None:
    expected = make_codec("uniform", bits=4, symmetric=False, scope="tensor")
    assert make_codec("uniform", bits="4", symmetric="false", scope="tensor") == expected
    assert make_codec("ectcq", bits="2.5", states="16") == make_codec("ectcq", bits=2.5, states=16)
    assert {"external", "fp16", "bf16", "uniform", "prune", "lowrank", "palette", "ectcq"} <= CODECS.keys()
