"""Codecs: bits per weight, signal-to-noise, encode and decode seconds per million parameters, against a plain fp16 cast in the same run.

    python benchmarks/codecs.py [--json FILE] [--rounds 3] [--base]

The weights are Gaussian and Laplacian with a fixed seed (2 M each) and the bundled model's (1.5 M, trained); ``--base`` adds
WAV2VEC2_ASR_BASE_960H (94.4 M, seeded random weights; ectcq at 3 bits only). The distance is to Shannon's bound of a Gaussian source,
6.02 dB a bit. The printed reference is the standard's own encoder, measured elsewhere (see ``REFERENCE``), not in this run.
"""

import argparse
import math
import statistics
import sys
import time
from pathlib import Path
from typing import Any

# This folder has an exporters.py, which would stand for the package.
sys.path[:] = [each for each in sys.path if Path(each).resolve() != Path(__file__).resolve().parent]

import torch
from rich import box
from rich.console import Console
from rich.table import Table
from torch import Tensor

from device_runner.facts import machine_facts
from device_runner.files import write_json
from toolchain.compression.codec import decode, encode
from toolchain.models import load_model

BASELINE = "fp16"
# NNCodec 2.1.3 (ISO/IEC 15938-17) on Gaussian weights, one x86 core: bits, dB to the bound, encode and decode seconds per million.
REFERENCE = (
    (1.32, 1.53, 0.33, 0.04),
    (2.10, 1.35, 0.36, 0.05),
    (2.95, 1.13, 0.51, 0.06),
    (3.85, 0.84, 0.63, 0.07),
    (4.82, 0.85, 0.80, 0.12),
)
CHOICES: dict[str, tuple[str, dict[str, Any]]] = {
    BASELINE: ("fp16", {}),
    "bf16": ("bf16", {}),
    **{f"uniform-{bits}": ("uniform", {"bits": bits}) for bits in (8, 4, 3, 2)},
    **{f"palette-{colours}": ("palette", {"colours": colours}) for colours in (16, 8)},
    "prune-0.5": ("prune", {"share": 0.5}),
    "lowrank-0.3": ("lowrank", {"share": 0.3}),
    **{f"ectcq-{bits}": ("ectcq", {"bits": bits}) for bits in (2, 3, 4, 5)},
    "ectcq-3, 32 states": ("ectcq", {"bits": 3, "states": 32}),
}


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
    parser.add_argument("--base", action="store_true", help="BASE_960H's architecture too (94.4 M random weights)")
    options = parser.parse_args()
    generator = torch.Generator().manual_seed(0)
    gaussian = {f"layer{index}.weight": torch.randn(1000, 1000, generator=generator) for index in range(2)}
    signs = {name: torch.randint(0, 2, tensor.shape, generator=generator) * 2 - 1 for name, tensor in gaussian.items()}
    sources = {
        "Gaussian": (gaussian, CHOICES),
        "Laplacian": ({name: sign * torch.empty(sign.shape).exponential_(generator=generator) for name, sign in signs.items()}, CHOICES),
        "DIGITS_ASR_TINY": (load_model("0").state(), CHOICES),
    }
    if options.base:
        chosen = {name: CHOICES[name] for name in (BASELINE, "ectcq-3")}
        sources["BASE_960H, random"] = (load_model("1", "random").state(), chosen)
    encode("ectcq", {"bits": 3}, {"warm.up": torch.randn(32, 32)})  # the compiler's time is the first call's alone
    rows: list[dict[str, Any]] = []
    for source, (state, codecs) in sources.items():
        millions = sum(tensor.numel() for tensor in state.values()) / 1e6
        encoding: dict[str, list[float]] = {name: [] for name in codecs}
        decoding: dict[str, list[float]] = {name: [] for name in codecs}
        outcome = {}
        for _ in range(options.rounds):
            for name, (codec, parameters) in codecs.items():
                started = time.perf_counter()
                bitstream = encode(codec, parameters, state)
                encoded = time.perf_counter()
                decoded = decode(bitstream)
                decoding[name].append((time.perf_counter() - encoded) / millions)
                encoding[name].append((encoded - started) / millions)
                outcome[name] = (8 * len(bitstream) / millions / 1e6, signal_to_noise(state, decoded))
        for name, (bits, ratio) in outcome.items():
            rows.append(
                {
                    "source": source,
                    "codec": name,
                    "bits_per_weight": bits,
                    "snr_db": ratio,
                    "gap_to_shannon_db": 20 * math.log10(2) * bits - ratio if source == "Gaussian" else None,
                    "encode_seconds": statistics.median(encoding[name]) * millions,
                    "decode_seconds": statistics.median(decoding[name]) * millions,
                    "encode_seconds_per_million": statistics.median(encoding[name]),
                    "decode_seconds_per_million": statistics.median(decoding[name]),
                    "encode_ratio": statistics.median(own / base for base, own in zip(encoding[BASELINE], encoding[name], strict=True)),
                    "decode_ratio": statistics.median(own / base for base, own in zip(decoding[BASELINE], decoding[name], strict=True)),
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
    for bits, distance, slow, fast in REFERENCE:
        table.add_row(
            "Gaussian",
            "(NNCodec, elsewhere)",
            f"{bits:.2f}",
            f"{6.0206 * bits - distance:.2f}",
            f"{distance:.2f}",
            f"{slow:.2f}",
            "",
            f"{fast:.2f}",
            "",
        )
    console = Console()
    console.print(table)
    for row in rows:
        if row["source"].startswith("BASE"):
            console.print(f"{row['source']}, {row['codec']}: encode {row['encode_seconds']:.1f} s, decode {row['decode_seconds']:.1f} s")
    if options.json:
        write_json(options.json, {"rows": rows, "reference": REFERENCE, "machine": machine_facts()})


if __name__ == "__main__":
    main()
