"""Codecs without entropy coding: what is lost is bounded, what is sent is counted, what is damaged is refused."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load, save
from torch import Tensor

import toolchain.compression.scalar as scalar
from device_runner.errors import AsrDeployError
from toolchain.compression.codec import CODECS, make_codec
from toolchain.compression.scalar import pack, unpack
from toolchain.models import AnchorModel

BITS = range(2, 9)
State = dict[str, Tensor]


def small(seed: int = 0) -> State:
    """A state dict of every shape that occurs, and of magnitudes that differ by channel."""
    generator = torch.Generator().manual_seed(seed)
    spread = torch.logspace(-3, 1, 6)
    return {
        "linear.weight": torch.randn(6, 10, generator=generator) * spread[:, None],
        "conv.weight": torch.randn(6, 3, 5, generator=generator) * spread[:, None, None],
        "linear.bias": torch.randn(7, generator=generator),
        "scale": torch.tensor(0.5),
    }


def error(state: State, found: State) -> float:
    return sum(float((state[name] - found[name]).square().sum()) for name in state)


def refused(name: str, bitstream: bytes) -> str:
    codec = make_codec(name, bits=4) if name == "uniform" else make_codec(name)
    with pytest.raises(AsrDeployError) as caught:
        codec.decode(bitstream)
    return str(caught.value)


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
    assert pack(np.array([1, 2, 255], np.uint8), 8).tolist() == [1, 2, 255]
    assert pack(np.array([1], np.uint8), 1).tolist() == [0b10000000]


@pytest.mark.parametrize("bits", range(1, 9))
def test_levels_that_are_missing_are_noticed(bits: int) -> None:
    packed = pack(np.zeros(20, np.uint8), bits)
    with pytest.raises(ValueError, match="instead of 20"):
        unpack(packed[:-1], bits, 20)


# Half precision


def test_fp16_is_the_cast(tiny: AnchorModel) -> None:
    codec, state = make_codec("fp16"), tiny.state()
    bitstream = codec.encode(state)
    found = codec.decode(bitstream)
    assert found.keys() == state.keys()
    for name, tensor in state.items():
        assert found[name].dtype == torch.float32 and torch.equal(found[name], tensor.half().float())
    assert len(bitstream) * 8 == pytest.approx(16 * sum(tensor.numel() for tensor in state.values()), rel=0.01)


# Uniform


def test_uniform_gives_back_names_shapes_and_kinds(tiny: AnchorModel) -> None:
    for state, bits in [(tiny.state(), 3), *((small(), bits) for bits in BITS)]:
        codec = make_codec("uniform", bits=bits)
        found = codec.decode(codec.encode(state))
        assert {name: (tensor.shape, tensor.dtype) for name, tensor in found.items()} == {
            name: (tensor.shape, torch.float32) for name, tensor in state.items()
        }


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.data_too_large])
@given(bits=st.sampled_from(BITS), rows=st.integers(1, 4), columns=st.integers(1, 12), power=st.floats(-4, 3), seed=st.integers(0, 10**6))
def test_the_error_of_every_weight_is_half_a_step(bits: int, rows: int, columns: int, power: float, seed: int) -> None:
    weight = torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed)) * 10**power
    codec = make_codec("uniform", bits=bits)
    bitstream = codec.encode({"w": weight})
    found, scales = codec.decode(bitstream)["w"], load(bitstream)["w:scales"].float()[:, None]
    top = 2 ** (bits - 1)
    inside = torch.clamp(weight, -top * scales, (top - 1) * scales)  # beyond, a weight is clipped to the last level
    assert ((found - inside).abs() <= scales * 0.5 * (1 + 1e-4)).all()
    # Clipping pays, or it is not done: never worse than the scale that just reaches the largest weight.
    plain = (weight.abs().amax(dim=1, keepdim=True) / (top - 0.5)).clamp_min(6.2e-5).half().float()
    unclipped = torch.clamp(torch.round(weight / plain), -top, top - 1) * plain
    assert (found - weight).square().sum() <= (unclipped - weight).square().sum() * (1 + 1e-4) + 1e-12


@pytest.mark.parametrize("bits", BITS)
def test_a_receiver_needs_no_decoder_of_ours(bits: int) -> None:
    state = small()
    bitstream = make_codec("uniform", bits=bits).encode(state)
    records = load(bitstream)
    for name, expected in make_codec("uniform", bits=bits).decode(bitstream).items():
        if f"{name}:half" in records:
            assert torch.equal(records[f"{name}:half"].float(), expected) and state[name].ndim < 2
            continue
        text = "".join(f"{byte:08b}" for byte in records[f"{name}:levels"].tolist())
        levels = [int(text[place * bits : (place + 1) * bits], 2) - 2 ** (bits - 1) for place in range(expected.numel())]
        shape = records[f"{name}:shape"].tolist()
        rows = torch.tensor(levels, dtype=torch.float32).reshape(shape[0], -1) * records[f"{name}:scales"].float()[:, None]
        assert torch.equal(rows.reshape(shape), expected)


def test_more_bits_are_less_error(tiny: AnchorModel) -> None:
    for state, choice in ((tiny.state(), (2, 5, 8)), (small(), BITS)):
        codecs = [make_codec("uniform", bits=bits) for bits in choice]
        errors = [error(state, codec.decode(codec.encode(state))) for codec in codecs]
        # About 6 dB a bit.
        assert all(more < less / 2.5 for less, more in itertools.pairwise(errors))


def test_the_size_is_the_bits_and_16_more_for_channels_and_biases(tiny: AnchorModel) -> None:
    state = tiny.state()
    parameters = sum(tensor.numel() for tensor in state.values())
    weights = [tensor for tensor in state.values() if tensor.ndim >= 2]
    sixteen = sum(tensor.shape[0] for tensor in weights) + sum(tensor.numel() for tensor in state.values() if tensor.ndim < 2)
    sizes = {bits: 8 * len(make_codec("uniform", bits=bits).encode(state)) for bits in (2, 4, 8)}
    for bits, size in sizes.items():
        # Beside them only the container's names and offsets.
        assert 0 < size - bits * sum(tensor.numel() for tensor in weights) - 16 * sixteen < 8 * 256 * len(state)
    assert sizes[8] == pytest.approx(8 * parameters, rel=0.03)


def test_zero_rows_stay_zero() -> None:
    weight = torch.randn(4, 9, generator=torch.Generator().manual_seed(0))
    weight[1] = 0
    for bits in BITS:
        codec = make_codec("uniform", bits=bits)
        found = codec.decode(codec.encode({"some": weight, "all": torch.zeros(3, 2, 2)}))
        assert not found["some"][1].any() and not found["all"].any() and torch.isfinite(found["some"]).all()


def test_encoding_is_deterministic_and_leaves_the_state_as_it_is() -> None:
    state = small()
    for codec in (make_codec("fp16"), make_codec("uniform", bits=3)):
        assert codec.encode(state) == codec.encode(small())
    assert all(torch.equal(state[name], tensor) for name, tensor in small().items())


@pytest.mark.parametrize("bits", [-1, 0, 1, 9, 32])
def test_bits_that_uniform_does_not_take(bits: int) -> None:
    with pytest.raises(AsrDeployError, match=f"takes 2 to 8 bits, not {bits}"):
        make_codec("uniform", bits=bits)


def test_an_unknown_codec_names_the_nearest() -> None:
    with pytest.raises(AsrDeployError, match=r"Unknown codec “unifrom”\. Did you mean uniform\?"):
        make_codec("unifrom", bits=4)
    assert {"fp16", "uniform"} <= CODECS.keys() and scalar.Uniform in CODECS.values()


# Damage


@pytest.mark.parametrize("name", ["fp16", "uniform"])
def test_a_cut_bitstream_is_refused(name: str) -> None:
    codec = make_codec(name, bits=4) if name == "uniform" else make_codec(name)
    bitstream = codec.encode(small())
    for kept in [0, 1, 7, 8, 9, 50, *range(100, len(bitstream), 37), len(bitstream) - 1]:
        assert refused(name, bitstream[:kept])
    assert refused(name, bitstream + b"\0")


@pytest.mark.parametrize("name", ["fp16", "uniform"])
@settings(max_examples=300, deadline=None)
@given(place=st.floats(0, 1, exclude_max=True), value=st.integers(0, 255), seed=st.integers(0, 3))
def test_an_altered_byte_is_refused_or_decoded_but_no_crash(name: str, place: float, value: int, seed: int) -> None:
    codec = make_codec(name, bits=4) if name == "uniform" else make_codec(name)
    state = {"w": torch.randn(3, 4, generator=torch.Generator().manual_seed(seed)), "b": torch.ones(2)}
    altered = bytearray(codec.encode(state))
    altered[int(place * len(altered))] = value
    try:
        found = codec.decode(bytes(altered))
    except AsrDeployError:
        return
    assert all(tensor.dtype == torch.float32 for tensor in found.values())


def uniform_records() -> dict[str, Tensor]:
    return load(make_codec("uniform", bits=4).encode({"w": torch.ones(3, 4), "b": torch.ones(2)}))


@pytest.mark.parametrize(
    "changes",
    [
        {"bits": None},
        {"w:scales": None},
        {"w:shape": None},
        {"w:levels": torch.zeros(2, dtype=torch.uint8)},
        {"w:levels": torch.zeros(6, dtype=torch.int8)},
        {"w:levels": torch.zeros(6, dtype=torch.float32)},
        {"w:shape": torch.tensor([-1, 4], dtype=torch.int32)},
        {"w:shape": torch.tensor([2**30, 2**30], dtype=torch.int64)},
        {"w:shape": torch.tensor([], dtype=torch.int32)},
        {"w:shape": torch.tensor([3.0, 4.0])},
        {"w:scales": torch.ones(2, dtype=torch.float16)},
        {"bits": torch.tensor([9], dtype=torch.uint8)},
        {"bits": torch.tensor([0], dtype=torch.uint8)},
        {"bits": torch.tensor([], dtype=torch.uint8)},
        {"bits": torch.tensor([float("nan")])},
        {"no kind": torch.ones(1)},
    ],
    ids=lambda changes: " ".join(f"{name}={None if value is None else value.tolist()}" for name, value in changes.items()),
)
def test_records_that_do_not_fit_are_refused(changes: dict[str, Tensor | None]) -> None:
    changed = {name: tensor for name, tensor in (uniform_records() | changes).items() if tensor is not None}
    assert refused("uniform", save(changed))


def test_the_bitstream_of_another_codec_is_refused() -> None:
    assert refused("uniform", make_codec("fp16").encode(small()))
    assert refused("fp16", make_codec("uniform", bits=4).encode(small()))
    assert refused("fp16", b"PK\x03\x04 a zip file, for example") and refused("uniform", b"")
