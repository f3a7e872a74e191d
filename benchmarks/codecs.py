"""Codecs: encode and decode seconds per million parameters and signal-to-noise, against a plain fp16 cast in the same run.

    python benchmarks/codecs.py [--json FILE] [--rounds 3]

The weights are Gaussian with a fixed seed (4 M) and the bundled model's (1.5 M, trained). The baseline for time is fp16;
the distance is to Shannon's bound of a Gaussian source, 6.02 dB a bit.
"""

import argparse
import math
import statistics
import time
from pathlib import Path

import torch
from rich import box
from rich.console import Console
from rich.table import Table
from torch import Tensor

from device_runner.facts import machine_facts
from device_runner.files import write_json
from toolchain.compression.codec import Codec
from toolchain.compression.scalar import Fp16, Uniform
from toolchain.models import load_model

BASELINE = "fp16"


def signal_to_noise(state: dict[str, Tensor], decoded: dict[str, Tensor]) -> float:
    """Return the signal-to-noise ratio over all weights, in dB."""
    signal = sum(float(tensor.square().sum()) for tensor in state.values())
    noise = sum(float((tensor - decoded[name]).square().sum()) for name, tensor in state.items())
    return 10 * math.log10(signal / max(noise, 1e-30))


def main() -> None:
    """Run the rounds, interleaved, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    generator = torch.Generator().manual_seed(0)
    sources = {
        "Gaussian": {f"layer{index}.weight": torch.randn(1000, 1000, generator=generator) for index in range(4)},
        "DIGITS_ASR_TINY": load_model("0").state(),
    }
    codecs: dict[str, Codec] = {BASELINE: Fp16()} | {f"uniform-{bits}": Uniform(bits) for bits in (8, 6, 5, 4, 3)}
    rows = []
    for source, state in sources.items():
        millions = sum(tensor.numel() for tensor in state.values()) / 1e6
        encode: dict[str, list[float]] = {name: [] for name in codecs}
        decode: dict[str, list[float]] = {name: [] for name in codecs}
        outcome = {}
        for _ in range(options.rounds):
            for name, codec in codecs.items():
                started = time.perf_counter()
                bitstream = codec.encode(state)
                encoded = time.perf_counter()
                decoded = codec.decode(bitstream)
                decode[name].append((time.perf_counter() - encoded) / millions)
                encode[name].append((encoded - started) / millions)
                outcome[name] = (8 * len(bitstream) / millions / 1e6, signal_to_noise(state, decoded))
        for name, (bits, ratio) in outcome.items():
            rows.append(
                {
                    "source": source,
                    "codec": name,
                    "bits_per_weight": bits,
                    "snr_db": ratio,
                    "gap_to_shannon_db": 20 * math.log10(2) * bits - ratio if source == "Gaussian" else None,
                    "encode_seconds_per_million": statistics.median(encode[name]),
                    "decode_seconds_per_million": statistics.median(decode[name]),
                    "encode_ratio": statistics.median(own / base for base, own in zip(encode[BASELINE], encode[name], strict=True)),
                    "decode_ratio": statistics.median(own / base for base, own in zip(decode[BASELINE], decode[name], strict=True)),
                }
            )
    table = Table(box=box.SIMPLE, padding=0)
    for column in ("weights", "codec", "bits/w", "SNR dB", "gap dB", "enc s/M", "x fp16", "dec s/M", "x fp16"):
        table.add_column(column, no_wrap=True)
    for row in rows:
        gap = "" if row["gap_to_shannon_db"] is None else f"{row['gap_to_shannon_db']:.2f}"
        times = (f"{row['encode_seconds_per_million']:.4f}", f"{row['encode_ratio']:.1f}")
        more = (f"{row['decode_seconds_per_million']:.4f}", f"{row['decode_ratio']:.1f}")
        table.add_row(str(row["source"]), str(row["codec"]), f"{row['bits_per_weight']:.2f}", f"{row['snr_db']:.2f}", gap, *times, *more)
    Console().print(table)
    if options.json:
        write_json(options.json, {"rows": rows, "machine": machine_facts()})


if __name__ == "__main__":
    main()
