"""Factories in a module that every process of a cluster can import."""

import torch
from torch import Tensor, nn

from tests.helpers import OneLayer
from toolchain.models.custom.factories import CtcModel
from toolchain.models.test_cases import LABELS


def make() -> CtcModel:
    """Return a model of one convolution with seeded weights, the blank last."""
    torch.manual_seed(0)
    return CtcModel(OneLayer(), [*LABELS[1:], "-"], blank="-", name="one-layer")


class Clamped(nn.Module):
    """Convolutions with ReLU, which has no upper bound, and a linear head; the blank is the last output."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv1d(1, 32, 400, 160), nn.ReLU(), nn.Conv1d(32, 32, 5, padding=2), nn.ReLU())
        self.head = nn.Linear(32, len(LABELS))

    def forward(self, waveform: Tensor) -> Tensor:
        logits: Tensor = self.head(self.layers(waveform[:, None]).transpose(1, 2))
        return logits


def clamped() -> CtcModel:
    """Return a model of two convolutions with seeded weights, the blank last."""
    torch.manual_seed(0)
    return CtcModel(Clamped(), [*LABELS[1:], "-"], blank="-", name="clamped")
