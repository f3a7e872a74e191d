"""Compare a fine-tuned model sent as an update of the UE's weights with the same model sent in full.

    python -m benchmarks.updates [--json FILE] [--bits 2] [--steps 40]

The UE has the bundled model, received as a calibrated ectcq bitstream. The model is fine-tuned on every second recording of dev-clean (CTC
loss, seeded, one thread). The other recordings choose the rate of the update: the lowest rate with no more errors than the full bitstream.
test-clean is used for neither and reported. The baseline is the full bitstream at the rate of the UE's bitstream.
"""

import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from benchmarks.common import Figures, Row, arguments_of, report, run
from device_runner.audio import read_audio
from device_runner.transcripts import read_transcripts
from toolchain.accuracy.comparison import Comparison, compare
from toolchain.accuracy.evaluation import evaluate
from toolchain.accuracy.scoring import TRANSCRIPTS, Evaluation
from toolchain.accuracy.transcriber import model_transcriber
from toolchain.compression.bitstreams import calibration_of, compress, decompress
from toolchain.compression.calibration import Calibration
from toolchain.data.datasets import DataSet, Utterance, open_data
from toolchain.models.anchor_model import AnchorModel
from toolchain.models.loading import load_model

CODEC = "ectcq"
UPDATE_BITS = (0.2, 0.4, 0.6, 0.7, 0.8, 0.9)  # in the order in which they are tried
BATCH = 8
RATE = 1e-4  # learning rate of AdamW
CLIP = 1.0
ANCHOR, TUNED, HELD, FULL, UPDATE = "anchor, fp32", "fine-tuned, fp32", "on the UE", "fine-tuned, full", "fine-tuned, update"


def halves(data: DataSet) -> tuple[DataSet, DataSet]:
    """Split a data set into every second utterance and the others, so that both halves contain every voice."""
    return replace(data, utterances=data.utterances[::2]), replace(data, utterances=data.utterances[1::2])


def fine_tune(model: AnchorModel, utterances: Sequence[Utterance], *, steps: int, rate: float = RATE, seed: int = 0) -> AnchorModel:
    """Return a copy of a model fine-tuned with the CTC loss.

    Args:
        model: Model with trained weights. It is not changed.
        utterances: Training utterances, drawn at random in batches of ``BATCH``.
        steps: Number of steps of AdamW.
        rate: Learning rate.
        seed: Seed of the order of the utterances.
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
    """Write a model's bitstream, or an update of ``base``, and decode it.

    Args:
        model: Model to send.
        bits: Parameter ``bits`` of the codec.
        calibration: Calibration of the codec.
        path: Bitstream file to write.
        base: Model that the receiver has, or None to send the model in full.

    Returns:
        The size of the bitstream in bytes and the decoded model.
    """
    compress(model, CODEC, {"bits": bits}, path, calibration=calibration, base=base)
    return path.stat().st_size, decompress(path, base=base)


def scored(model: AnchorModel, name: str, data: DataSet, folder: Path) -> Evaluation:
    """Evaluate a model in PyTorch on one thread."""
    return evaluate(model_transcriber(model, name, identity=name), data, folder)


def paired(ours: Path, theirs: Path) -> Comparison:
    """Compare two evaluations utterance by utterance."""
    (found,) = compare({"ours": read_transcripts(ours / TRANSCRIPTS), "theirs": read_transcripts(theirs / TRANSCRIPTS)})
    return found


def measure(bits: float, steps: int, folder: Path) -> Figures:
    """Fine-tune the model, send it in full and as an update, and evaluate both.

    Args:
        bits: Parameter ``bits`` of the codec for full bitstreams.
        steps: Number of fine-tuning steps.
        folder: Folder for bitstreams and evaluations.
    """
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
            reached = "the lowest rate with no more errors than the full bitstream on the held-out half of dev-clean"
            break
    else:
        reached = "the highest rate tried; every rate had more errors than the full bitstream on the held-out half of dev-clean"
    group = f"DIGITS_ASR_TINY, {steps} steps of fine-tuning, {CODEC} with bits={bits:g}"
    rows = []
    for name, size in {HELD: held_bytes, FULL: full_bytes, UPDATE: update_bytes}.items():
        rows.append(Row(group=group, what=name, measure="size", value=size, unit="bytes", better="less", ratio=size / full_bytes))
    for name, model in {ANCHOR: anchor, TUNED: tuned, HELD: held, FULL: full, UPDATE: updated}.items():
        for measured, data in {"test-clean": test, "dev-clean": kept}.items():
            found = scored(model, name, data, folder / measured / name)
            low, high = (100 * each for each in found.wer_interval)
            rows.append(
                Row(group=group, what=name, measure=f"WER {measured}", value=100 * found.wer, unit="%", better="less", interval=(low, high))
            )
    notes = [f"Fine-tuning took {seconds:.0f} s. The update has bits={update_bits:g}, {reached}."]
    for measured in ("test-clean", "dev-clean"):
        pair = paired(folder / measured / UPDATE, folder / measured / FULL)
        low, high = (100 * each for each in pair.interval)
        notes.append(
            f"{measured}: the WER of the update minus that of the full bitstream is {100 * pair.difference:+.2f} points "
            f"({low:+.2f} .. {high:+.2f})."
        )
    return Figures(benchmark="updates", baseline=FULL, rows=tuple(rows), notes=tuple(notes))


def main() -> None:
    """Run the benchmark and print the figures."""
    parser = arguments_of(__doc__)
    parser.add_argument("--bits", type=float, default=2.0)
    parser.add_argument("--steps", type=int, default=40)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        figures = measure(options.bits, options.steps, Path(folder))
    report(figures, options.json)


if __name__ == "__main__":
    run(main)
