"""Measure codecs: bits per weight, signal-to-noise ratio, and seconds to encode and decode a million weights.

    python -m benchmarks.codecs [--json FILE] [--rounds 3] [--base]

The baseline is a cast to fp16 in the same run. The weights are Gaussian and Laplacian with a fixed seed (2 M each) and those of the
bundled model (1.5 M, trained). ``--base`` adds WAV2VEC2_ASR_BASE_960H (94.4 M, seeded random weights; ectcq at 3 bits only). SNR is the
signal-to-noise ratio, gap the difference between Shannon's bound for a Gaussian source, 6.02 dB per bit, and the SNR.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from benchmarks.common import Figures, Row, arguments_of, in_turn, report, run, timed, timing_rows
from toolchain.compression.codec import decode, encode
from toolchain.models.loading import load_model

BASELINE = "fp16"
Choices = dict[str, tuple[str, dict[str, Any]]]
CHOICES: Choices = {
    BASELINE: ("fp16", {}),
    "bf16": ("bf16", {}),
    **{f"uniform-{bits}": ("uniform", {"bits": bits}) for bits in (8, 4, 3, 2)},
    **{f"palette-{colours}": ("palette", {"colours": colours}) for colours in (16, 8)},
    "prune-0.5": ("prune", {"share": 0.5}),
    "lowrank-0.3": ("lowrank", {"share": 0.3}),
    **{f"ectcq-{bits}": ("ectcq", {"bits": bits}) for bits in (2, 3, 4, 5)},
    "ectcq-3, 32 states": ("ectcq", {"bits": 3, "states": 32}),
}
BASE_CHOICES: Choices = {name: CHOICES[name] for name in (BASELINE, "ectcq-3")}
GAUSSIAN = "Gaussian"


@dataclass
class Coding:
    """A codec on a set of weights. ``decode`` decodes the bitstream of the last ``encode``."""

    codec: str
    parameters: dict[str, Any]
    state: dict[str, Tensor]
    bitstream: bytes = b""
    decoded: dict[str, Tensor] = field(default_factory=dict)

    def encode(self) -> None:
        """Encode the weights to a bitstream."""
        self.bitstream = encode(self.codec, self.parameters, self.state)

    def decode(self) -> None:
        """Decode the bitstream."""
        self.decoded = decode(self.bitstream)


def signal_to_noise(state: dict[str, Tensor], decoded: dict[str, Tensor]) -> float:
    """Return the signal-to-noise ratio of decoded weights over all tensors, in dB."""
    signal = sum(float(tensor.square().sum()) for tensor in state.values())
    noise = sum(float((tensor - decoded[name]).square().sum()) for name, tensor in state.items())
    return 10 * math.log10(signal / max(noise, 1e-30))


def sources(*, base: bool) -> dict[str, tuple[dict[str, Tensor], Choices]]:
    """Return the sets of weights by name, with the codecs to measure on each."""
    generator = torch.Generator().manual_seed(0)
    gaussian = {f"layer{index}.weight": torch.randn(1000, 1000, generator=generator) for index in range(2)}
    signs = {name: torch.randint(0, 2, tensor.shape, generator=generator) * 2 - 1 for name, tensor in gaussian.items()}
    laplacian = {name: sign * torch.empty(sign.shape).exponential_(generator=generator) for name, sign in signs.items()}
    found = {
        GAUSSIAN: (gaussian, CHOICES),
        "Laplacian": (laplacian, CHOICES),
        "DIGITS_ASR_TINY, trained": (load_model("0").state(), CHOICES),
    }
    if base:
        found["WAV2VEC2_ASR_BASE_960H, random weights"] = (load_model("1", "random").state(), BASE_CHOICES)
    return found


def measure(source: str, state: dict[str, Tensor], choices: Choices, rounds: int) -> Iterator[Row]:
    """Yield the rows of a set of weights.

    Args:
        source: Name of the set.
        state: The weights.
        choices: Codecs and their parameters by name.
        rounds: Number of rounds.
    """
    weights = sum(tensor.numel() for tensor in state.values())
    codings = {name: Coding(codec, parameters, state) for name, (codec, parameters) in choices.items()}
    ways: dict[tuple[str, str], Callable[[], float]] = {}
    for name, coding in codings.items():  # each bitstream is decoded right after it was encoded
        ways |= {("encode", name): timed(coding.encode), ("decode", name): timed(coding.decode)}
    seconds = in_turn(ways, rounds)
    for name, coding in codings.items():
        bits, distance = 8 * len(coding.bitstream) / weights, signal_to_noise(state, coding.decoded)
        yield Row(group=source, what=name, measure="rate", value=bits, unit="bits per weight", better="less")
        yield Row(group=source, what=name, measure="SNR", value=distance, unit="dB", better="more")
        if source == GAUSSIAN:
            yield Row(group=source, what=name, measure="gap", value=20 * math.log10(2) * bits - distance, unit="dB", better="less")
    for step in ("encode", "decode"):
        times = {name: seconds[step, name] for name in choices}
        yield from timing_rows(source, step, times, BASELINE, unit="s/M", scale=1e6 / weights)


def main() -> None:
    """Run the benchmark and print the tables."""
    parser = arguments_of(__doc__, rounds=3)
    parser.add_argument("--base", action="store_true", help="also measure BASE_960H's architecture (94.4 M random weights)")
    options = parser.parse_args()
    encode("ectcq", {"bits": 3}, {"warm.up": torch.randn(32, 32)})  # the first call compiles
    rows: list[Row] = []
    for source, (state, choices) in sources(base=options.base).items():
        rows += measure(source, state, choices, options.rounds)
    report(Figures(benchmark="codecs", baseline=BASELINE, rows=tuple(rows)), options.json)


if __name__ == "__main__":
    run(main)
