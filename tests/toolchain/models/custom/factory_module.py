"""The text of a module with factories: good ones, and ones that are refused."""

MODULE = '''
"""A custom model."""
import torch
from torch import nn
from asrdeploy import CtcModel
from toolchain.models.test_cases import LABELS

WIDTH = len(LABELS)
THEIRS = [*LABELS[1:], "-"]  # the blank last


class Convolutions(nn.Module):
    """100 frames per second at 16 kHz, with layers that codecs and exporters meet in foreign networks."""

    def __init__(self, width=WIDTH):
        super().__init__()
        self.first = nn.Conv1d(1, 16, 400, 160)
        self.norm = nn.BatchNorm1d(16)
        self.second = nn.utils.parametrizations.weight_norm(nn.Conv1d(16, 24, 5, padding="same", dilation=2))
        self.older = nn.utils.weight_norm(nn.Conv1d(24, 24, 3, padding=1))
        self.scale = nn.Parameter(torch.tensor(1.5))
        self.head = nn.Linear(24, width)

    def forward(self, waveform):
        x = torch.relu(self.norm(self.first(waveform[:, None])))
        x = torch.relu(self.older(torch.relu(self.second(x)))) * self.scale
        return self.head(x.transpose(1, 2))


def seeded(make=Convolutions, **more):
    torch.manual_seed(1)
    return make(**more)


def make():
    return CtcModel(seeded(), THEIRS, blank="-", name="small")


def plain():
    return CtcModel(seeded(), LABELS, normalised_waveform=True)


class Pair(Convolutions):
    def forward(self, waveform):
        return super().forward(waveform), None


def pair():
    return CtcModel(seeded(Pair), THEIRS, blank=WIDTH - 1)


class Named(Convolutions):
    def forward(self, waveform):
        return {"loss": None, "logits": super().forward(waveform)}


def named():
    return CtcModel(seeded(Named), THEIRS, blank="-")


class Dropping(Convolutions):
    def forward(self, waveform):
        return super().forward(torch.nn.functional.dropout(waveform, 0.1))


def random():
    return CtcModel(seeded(Dropping), LABELS)


class Unfinished(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.head = nn.Conv1d(1, 16, 400, 160), nn.LazyLinear(WIDTH)

    def forward(self, waveform):
        return self.head(self.first(waveform[:, None]).transpose(1, 2))


def unfinished():
    return CtcModel(Unfinished(), LABELS)


def finished():
    network = Unfinished()
    network(torch.zeros(1, 16_000))
    return CtcModel(network, LABELS)


class Function(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function, self.weight = function, nn.Parameter(torch.ones(1))

    def forward(self, waveform):
        return self.function(waveform)


def gives(function):
    return lambda: CtcModel(Function(function), LABELS)


kept = CtcModel(Convolutions(), LABELS)
again = lambda: kept
no_function = 3
flat = gives(lambda waveform: torch.ones(1, WIDTH))
narrow = gives(lambda waveform: torch.ones(1, 5, WIDTH - 1))
turned = gives(lambda waveform: torch.ones(5, 1, WIDTH))
whole = gives(lambda waveform: torch.ones(1, 5, WIDTH, dtype=torch.int64))
empty = gives(lambda waveform: torch.ones(1, 0, WIDTH))
endless = gives(lambda waveform: torch.full((1, 5, WIDTH), torch.inf))
fails = gives(lambda waveform: waveform @ waveform)
words = gives(lambda waveform: ["A"])
unnamed = gives(lambda waveform: {"scores": torch.ones(1, 5, WIDTH)})
wrong_type = lambda: {"network": Convolutions()}
nothing = lambda: None


def raises():
    raise RuntimeError("no licence.\\nsecond line")


def exits():
    raise SystemExit("bye")


def without_network():
    return CtcModel("network", LABELS)


def truthy():
    return CtcModel(Convolutions(), LABELS, normalised_waveform=1)


def twice():
    return CtcModel(Convolutions(), ["-", "A", "A"])


def rate():
    return CtcModel(Convolutions(), LABELS, sample_rate=0)


def rate_of_others():
    return CtcModel(Convolutions(), LABELS, sample_rate=16000.0)


def blank():
    return CtcModel(Convolutions(), LABELS, blank="<blank>")


def broken():
    network = Convolutions()
    network.head.bias.data[0] = float("nan")
    return CtcModel(network, LABELS)


def built_in():
    return CtcModel(Convolutions(), LABELS, name="DIGITS_ASR_TINY")


def bare():
    return CtcModel(nn.Flatten(), LABELS)
'''
