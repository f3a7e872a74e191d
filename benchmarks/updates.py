"""Updates: a fine-tuned model sent as the difference to the weights that the UE holds, against the same model sent in full, in one run.

    python benchmarks/updates.py [--json FILE] [--bits 2] [--steps 40]

The UE holds the bundled model, received as a calibrated ectcq bitstream. The model is fine-tuned on every second recording of dev-clean
(CTC loss, seeded, one thread); the others choose the update's rate: the lowest at which it has no more errors than the full bitstream.
Test-clean is heard by neither and reported. Baseline of the sizes: the full bitstream of the same run, at the rate of what the UE holds.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

# This folder has an exporters.py, which would stand for the package.
sys.path[:] = [each for each in sys.path if Path(each).resolve() != Path(__file__).resolve().parent]

import torch
from rich import box
from rich.console import Console
from rich.table import Table
from torch import nn

from device_runner.audio import read_audio
from device_runner.facts import machine_facts
from device_runner.files import write_json
from device_runner.transcripts import read_transcripts
from toolchain.bitstreams import calibration_of, compress, reconstruct
from toolchain.comparison import Comparison, compare
from toolchain.compression.calibration import Calibration
from toolchain.datasets import DataSet, Utterance, open_data
from toolchain.evaluate import evaluate
from toolchain.models import AnchorModel, load_model
from toolchain.scoring import TRANSCRIPTS, Evaluation
from toolchain.subjects import subject_of

CODEC = "ectcq"
UPDATE_BITS = (0.2, 0.4, 0.6, 0.7, 0.8, 0.9)  # tried from the lowest
BATCH = 8
RATE = 1e-4  # of AdamW
CLIP = 1.0
ANCHOR, TUNED, HELD, FULL, UPDATE = "anchor, fp32", "tuned, fp32", "held by the UE", "tuned, in full", "tuned, update"


def halves(data: DataSet) -> tuple[DataSet, DataSet]:
    """Return every second utterance and the others: both hear every voice."""
    return replace(data, utterances=data.utterances[::2]), replace(data, utterances=data.utterances[1::2])


def fine_tune(model: AnchorModel, utterances: Sequence[Utterance], *, steps: int, rate: float = RATE, seed: int = 0) -> AnchorModel:
    """Return the model after a few steps with the CTC loss; the given one stays as it is.

    Args:
        model: with trained weights.
        utterances: what is heard, in batches of ``BATCH`` drawn at random.
        steps: of AdamW.
        rate: of learning.
        seed: of the order of the utterances.
    """
    tuned = model.with_state({name: each.clone() for name, each in model.state().items()}, f"fine-tuned, {steps} steps")
    network, labels = tuned.network, {label: index for index, label in enumerate(model.case.labels)}
    heard = [(torch.from_numpy(read_audio(each.path, model.case.sample_rate)), each.reference.replace(" ", "|")) for each in utterances]
    generator = torch.Generator().manual_seed(seed)
    network.requires_grad_(True)
    optimiser = torch.optim.AdamW(network.parameters(), lr=rate, weight_decay=0.0)
    for _ in range(steps):
        chosen = [heard[index] for index in torch.randperm(len(heard), generator=generator)[:BATCH].tolist()]
        lengths = torch.tensor([len(waveform) for waveform, _ in chosen])
        waveforms = nn.utils.rnn.pad_sequence([waveform for waveform, _ in chosen], batch_first=True)
        logits, frames = network(waveforms, lengths)
        targets = torch.tensor([labels[letter] for _, text in chosen for letter in text])
        sizes = torch.tensor([len(text) for _, text in chosen])
        loss = nn.functional.ctc_loss(logits.log_softmax(-1).transpose(0, 1), targets, frames, sizes, zero_infinity=True)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), CLIP)
        optimiser.step()
    network.requires_grad_(False)
    return tuned


def transmitted(
    model: AnchorModel, bits: float, calibration: Calibration, path: Path, base: AnchorModel | None = None
) -> tuple[int, AnchorModel]:
    """Write a model's bitstream, or an update of ``base``; return its bytes and what the receiver makes of it."""
    compress(model, CODEC, {"bits": bits}, path, calibration=calibration, base=base)
    return path.stat().st_size, reconstruct(path, base=base)[0]


def scored(model: AnchorModel, name: str, data: DataSet, folder: Path) -> Evaluation:
    """Transcribe a set in torch on one thread."""
    return evaluate(subject_of(model, name, name, None, 1), data, folder)


def paired(ours: Path, theirs: Path) -> Comparison:
    """Compare two evaluations utterance by utterance."""
    (found,) = compare({"ours": read_transcripts(ours / TRANSCRIPTS), "theirs": read_transcripts(theirs / TRANSCRIPTS)})
    return found


def measure(bits: float, steps: int, folder: Path) -> dict[str, Any]:
    """Fine-tune, send both ways, evaluate; return sizes in bytes and word error rates."""
    test, (heard, kept) = open_data("digits", "test-clean"), halves(open_data("digits", "dev-clean"))
    anchor = load_model("0")
    known = calibration_of(anchor, "digits", "dev-clean", cache=None)
    held_bytes, held = transmitted(anchor, bits, known, folder / "held.asrb")
    started = time.perf_counter()
    tuned = fine_tune(anchor, heard.utterances, steps=steps)
    seconds = time.perf_counter() - started
    known = calibration_of(tuned, "digits", "dev-clean", cache=None)
    full_bytes, full = transmitted(tuned, bits, known, folder / "full.asrb")
    wanted = scored(full, FULL, kept, folder / "kept" / "full")
    for update_bits in UPDATE_BITS:
        update_bytes, updated = transmitted(tuned, update_bits, known, folder / "update.asrb", held)
        if scored(updated, UPDATE, kept, folder / "kept" / f"{update_bits}").wer <= wanted.wer:
            break
    models: dict[str, tuple[int | None, AnchorModel]] = {
        ANCHOR: (None, anchor),
        TUNED: (None, tuned),
        HELD: (held_bytes, held),
        FULL: (full_bytes, full),
        UPDATE: (update_bytes, updated),
    }
    rows = []
    for name, (size, model) in models.items():
        share = size / full_bytes if size is not None and name != HELD else None
        on_test, on_kept = scored(model, name, test, folder / "test" / name), scored(model, name, kept, folder / "dev" / name)
        rows.append(
            {
                "name": name,
                "bytes": size,
                "share": share,
                "test_wer": on_test.wer,
                "test_wer_interval": on_test.wer_interval,
                "dev_wer": on_kept.wer,
                "dev_wer_interval": on_kept.wer_interval,
            }
        )
    pairs = {split: asdict(paired(folder / split / UPDATE, folder / split / FULL)) for split in ("test", "dev")}
    return {
        "codec": CODEC,
        "bits": bits,
        "update_bits": update_bits,
        "steps": steps,
        "seconds_of_fine_tuning": seconds,
        "rows": rows,
        "share": update_bytes / full_bytes,
        **pairs,
        "machine": machine_facts(),
    }


def table(found: dict[str, Any]) -> Table:
    """Draw the sizes and the word error rates, narrow enough for 80 columns."""
    title = f"{found['steps']} steps of fine-tuning; {CODEC} with bits={found['bits']:g}, the update with bits={found['update_bits']:g}"
    drawn = Table(title=title, title_justify="left", box=box.SIMPLE, padding=0)
    for column in ("model", "bytes", "of full", "wer test", "95 %", "wer dev", "95 %"):
        drawn.add_column(column, justify="left" if column == "model" else "right", no_wrap=True)
    for row in found["rows"]:
        size = ("" if row["bytes"] is None else f"{row['bytes']:,}", "" if row["share"] is None else f"{row['share']:.1%}")
        rates = [
            text
            for split in ("test", "dev")
            for text in (f"{row[f'{split}_wer']:.2%}", "{:.1f}..{:.1f}".format(*(100 * each for each in row[f"{split}_wer_interval"])))
        ]
        drawn.add_row(row["name"], *size, *rates)
    return drawn


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--bits", type=float, default=2.0)
    parser.add_argument("--steps", type=int, default=40)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        found = measure(options.bits, options.steps, Path(folder))
    Console().print(table(found))
    for split in ("test", "dev"):
        difference, (low, high) = found[split]["difference"], found[split]["interval"]
        Console().print(
            f"{split}-clean: the update's word error rate less the full bitstream's is {100 * difference:+.2f} points "
            f"({100 * low:+.2f} .. {100 * high:+.2f}).",
            highlight=False,
        )
    if options.json:
        write_json(options.json, found)


if __name__ == "__main__":
    main()
