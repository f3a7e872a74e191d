"""Training loop: CTC loss, AdamW, averaged weights, resumable from checkpoints."""

import copy
import csv
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn
from safetensors.torch import load_file, save_file
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader

from device_runner.files import atomic_path
from device_runner.terminal import PlainConsole, plain_column
from toolchain.models.digits_model import digits_asr_tiny, start_with_filterbank
from toolchain.models.test_cases import LABELS
from toolchain.training.augment import Augmentation
from toolchain.training.batches import Batch, Batches
from toolchain.training.score import ScoredSet, word_error_rate
from toolchain.training.synthesis import Speech

EVERY = 250  # steps between checkpoints and lines of the log


@dataclass(frozen=True)
class Phase:
    """A training phase with its learning-rate schedule: linear warm-up, then half a cosine.

    Args:
        name: Name of the phase and of its weights file.
        steps: Number of steps, one batch each.
        peak: Peak learning rate.
        warmup: Number of steps until the peak.
        singles: Number of first steps with single digits only. Without them, CTC predicts only blanks for long.
        without: Recorded speakers that this phase does not use.
        formants_from: First step of this phase that shifts formants. The model learns words sooner without.
        quietest: Level of the quietest augmented speech in dB of full scale. Low levels teach the weak F of FOUR in quiet voices.
    """

    name: str
    steps: int
    peak: float
    warmup: int
    singles: int = 0
    without: tuple[str, ...] = ()
    formants_from: int = 0
    quietest: float = -22.0

    def rate(self, step: int) -> float:
        """Return the learning rate of a step, counted from the start of this phase."""
        if step < self.warmup:
            return self.peak * (step + 1) / self.warmup
        progress = (step - self.warmup) / max(self.steps - self.warmup, 1)
        return self.peak * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress)))


@dataclass(frozen=True)
class Recipe:
    """All settings that determine the trained weights, except for the data."""

    seed: int
    phases: tuple[Phase, ...]
    betas: tuple[float, float] = (0.9, 0.98)
    weight_decay: float = 0.01
    clip: float = 1.0
    average: float = 0.998
    bfloat16: bool = True


def train(recipe: Recipe, corpus: Speech, recordings: dict[str, Speech], sets: Sequence[ScoredSet], folder: Path) -> None:
    """Train DIGITS_ASR_TINY and write ``PHASE.safetensors`` per phase and ``log.csv``, both from the averaged weights.

    An interrupted run resumes from its last checkpoint.

    Args:
        recipe: Seed, schedule and optimiser settings.
        corpus: Synthesised utterances.
        recordings: Recorded digits per speaker, possibly empty.
        sets: Small sets to score for the log.
        folder: Folder of the run.
    """
    torch.manual_seed(recipe.seed)
    model = digits_asr_tiny()
    start_with_filterbank(model)
    averaged = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(recipe.average))
    optimiser = torch.optim.AdamW(model.parameters(), lr=recipe.phases[0].peak, betas=recipe.betas, weight_decay=recipe.weight_decay)
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint = folder / "checkpoint.pt"
    done, seconds, audio = 0, 0.0, 0.0
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(state["model"])
        averaged.load_state_dict(state["averaged"])
        optimiser.load_state_dict(state["optimiser"])
        done, seconds, audio = state["done"], state["seconds"], state["audio"]

    columns = (plain_column("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    first = 0
    with Progress(*columns, console=PlainConsole()) as progress:
        for phase in recipe.phases:
            last = first + phase.steps
            task = progress.add_task(phase.name, total=phase.steps, completed=min(max(done - first, 0), phase.steps))
            if done < last:
                heard = {name: speech for name, speech in recordings.items() if name not in phase.without}
                batches = Batches(corpus, heard, LABELS, recipe.seed, first + phase.singles, first + phase.formants_from)
                batches.augment = Augmentation(level_db=(phase.quietest, 3.0))
                loader = DataLoader(batches, batch_size=None, sampler=range(done, last), num_workers=1, prefetch_factor=6)
                begun, losses = time.monotonic() - seconds, []
                for batch in loader:
                    rate = phase.rate(done - first)
                    losses.append(_step(model, optimiser, batch, rate, recipe))
                    averaged.update_parameters(model)
                    done, audio = done + 1, audio + float(batch.lengths.sum()) / 16_000
                    progress.update(task, advance=1, description=f"{phase.name}, loss {losses[-1]:.3f}")
                    if done % EVERY == 0 or done == last:
                        seconds = time.monotonic() - begun
                        scores = {each.name: round(word_error_rate(averaged.module, each), 4) for each in sets}
                        line = {"phase": phase.name, "step": done, "seconds": round(seconds), "audio_hours": round(audio / 3600, 2)}
                        loss = sum(losses) / len(losses)
                        _log(folder / "log.csv", {**line, "rate": f"{rate:.2e}", "loss": round(loss, 4), **scores})
                        losses = []
                        _save(checkpoint, model, averaged, optimiser, done, seconds, audio)
                with atomic_path(folder / f"{phase.name}.safetensors") as temporary:
                    save_file(_weights(averaged.module), temporary)
            first = last


def mix(first: Path, last: Path, share: float, path: Path) -> None:
    """Write a weighted mean of the weights of two phases.

    Weights along one training path lie in one basin, and their mean generalises better to unseen voices (Wortsman et al., "Model
    soups", ICML 2022).

    Args:
        first: Weights of the first phase.
        last: Weights of the last phase.
        share: Share of the first phase's weights, 0 to 1.
        path: File to write.
    """
    old, new = load_file(first), load_file(last)
    with atomic_path(path) as temporary:
        save_file({name: (share * old[name] + (1 - share) * new[name]).contiguous() for name in new}, temporary)


def _step(model: nn.Module, optimiser: torch.optim.Optimizer, batch: Batch, rate: float, recipe: Recipe) -> float:
    for group in optimiser.param_groups:
        group["lr"] = rate
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=recipe.bfloat16):
        logits, lengths = model(batch.waveforms, batch.lengths)
    scores = logits.float().log_softmax(-1).transpose(0, 1)
    loss = nn.functional.ctc_loss(scores, batch.targets, lengths, batch.target_lengths, zero_infinity=True)
    optimiser.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), recipe.clip)
    optimiser.step()
    return loss.item()


def _weights(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone().contiguous() for name, tensor in copy.deepcopy(model).eval().state_dict().items()}


def _save(
    path: Path, model: nn.Module, averaged: nn.Module, optimiser: torch.optim.Optimizer, done: int, seconds: float, audio: float
) -> None:
    state = {"model": model.state_dict(), "averaged": averaged.state_dict(), "optimiser": optimiser.state_dict()}
    with atomic_path(path) as temporary:
        torch.save({**state, "done": done, "seconds": seconds, "audio": audio}, temporary)


def _log(path: Path, line: dict[str, Any]) -> None:
    new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, list(line))
        if new:
            writer.writeheader()
        writer.writerow(line)
