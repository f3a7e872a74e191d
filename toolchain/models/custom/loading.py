"""Models of one's own: a checkpoint that a TOML file describes, a Hugging Face folder, or a factory; each checked while it is loaded."""

import importlib
import inspect
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor, nn
from torchaudio.models import Wav2Vec2Model

from device_runner.bitstream.network import Network
from device_runner.errors import AsrDeployError
from exporters.recogniser import Recogniser, not_finite, shortest_input
from toolchain.models.anchor_model import AnchorModel, finish, model_with, with_random_weights
from toolchain.models.custom import description
from toolchain.models.custom.checkpoints import described_of, description_of, from_folder, from_toml, identified, sample_rate_of
from toolchain.models.custom.labels import blank_first, check_labels, index_of_blank, our_labels
from toolchain.models.networks import count_parameters
from toolchain.models.test_cases import CHECKPOINTS, DESCRIPTION, FACTORY, TestCase, custom_case
from toolchain.models.weight_files import digest_of_file, read_state, read_tuned_on, weights_in

OURS = f"{__name__.partition('.models')[0]}."  # the toolchain's modules, which versions tell apart
SHORT_SECONDS = 1.0  # that a network is tried with


@dataclass(frozen=True)
class CtcModel:
    """What a factory returns: a network and what its labels mean.

    Args:
        network: gives CTC logits ``[batch, frames, labels]`` for a waveform ``[batch, samples]``, alone or first in a tuple; for batch 1
            and any length. It is taken over and changed, so a factory makes a new one every time.
        labels: by index of the logits.
        sample_rate: of the waveform, in hertz.
        blank: a label or its index.
        normalised_waveform: the waveform gets zero mean and unit variance first (torch's ``layer_norm``).
        word_separator: the label, or the part of labels, that stands for the space between words; None: nothing does.
        name: of the model in results; None: the factory's.
    """

    network: nn.Module
    labels: Sequence[str]
    sample_rate: int = 16_000
    blank: int | str = 0
    normalised_waveform: bool = False
    word_separator: str | None = "|"
    name: str | None = None


class OwnNetwork(nn.Module):
    """A factory's network with the calling convention and the order of labels that everything here expects.

    Args:
        network: see ``CtcModel``.
        order: of its outputs, the blank first.
    """

    def __init__(self, network: nn.Module, order: Sequence[int]) -> None:
        super().__init__()
        self.network = network
        self.in_order = list(order) == sorted(order)
        self.minimum_samples = 1
        self.register_buffer("order", torch.tensor(list(order)), persistent=False)

    def forward(self, waveform: Tensor) -> tuple[Tensor, None]:
        """Return logits ``[batch, frames, labels]`` of a waveform ``[batch, samples]``, and nothing."""
        logits = self.network(waveform)
        if not isinstance(logits, Tensor):
            logits = logits[0]
        return (logits if self.in_order else logits.index_select(-1, self.order)), None


def load_custom(name: str, weights: str | None = None, seed: int = 0) -> AnchorModel:
    """Load a custom model; see ``docs/custom-models.md``.

    Args:
        name: ``FILE.toml``, ``FILE.safetensors``, ``FILE.pt`` or ``FILE.pth`` with ``FILE.toml`` beside it; a Hugging Face folder; or
            ``package.module:factory``.
        weights: None for the model's own; ``random``; another custom model of the same architecture and labels; or a file of
            ``asrdeploy decompress``.
        seed: of random weights.

    Raises:
        AsrDeployError: there is no such model, something in it does not fit, or it is of a kind that we cannot run.
    """
    model = _load(name)
    if weights is None:
        return model
    if weights == "random":
        if described_of(model.case).architecture is None:
            raise AsrDeployError(f"--weights random: the weights of {name} are what the factory makes; leave --weights out.")
        made = with_random_weights(model.case, seed)
        return replace(made, weights=f"{made.weights}, {description_of(model.case)}")
    return with_weights(model.case, weights, model)


def with_weights(case: TestCase, weights: str, model: AnchorModel | None = None) -> AnchorModel:
    """Return a case's model around the weights of another custom model of the same architecture and labels, or of a file of ``decompress``.

    Args:
        case: of a custom model.
        weights: as ``--weights`` and ``--base`` name them.
        model: the case's model, which weights of a file need where a factory makes it.

    Raises:
        AsrDeployError: they do not fit, or it cannot be said in which order their labels are.
    """
    path = Path(weights)
    tuned_on = read_tuned_on(path) if path.is_file() and not description.description_of(path).is_file() else None
    if tuned_on is not None:
        told = description_of(case) if model is None or described_of(case).factory is None else model.weights
        source, state = f"file, sha256 {digest_of_file(path)[:16]}, {told}", read_state(path)
        if model is not None:
            return model.with_state(state, source, trained=True, tuned_on=tuned_on)
        return model_with(case, state, source, trained=True, tuned_on=tuned_on)
    if path.is_file() and path.suffix != DESCRIPTION and not description.description_of(path).is_file():
        raise AsrDeployError(
            f"{path} does not say which labels its outputs are: give a Hugging Face folder, a checkpoint with a {DESCRIPTION} file beside, "
            "or what `asrdeploy decompress` wrote."
        )
    other = _load(weights)
    ours, theirs = (each.model_copy(update={"factory": each.factory and "any"}) for each in map(described_of, (case, other.case)))
    if ours != theirs:
        raise AsrDeployError(f"{weights} has another architecture, other labels or another sample rate than {case.name}.")
    if ours.architecture is None:  # the case's own code, whoever's weights these are
        around = from_factory(case) if model is None else model
        return around.with_state(other.state(), other.weights, trained=other.trained, tuned_on=other.tuned_on)
    return replace(other, case=case)


def from_factory(case: TestCase) -> AnchorModel:
    """Return the model of a factory that the user named before, where another process has to make it again.

    Raises:
        AsrDeployError: see ``load_custom``; or the factory makes another model now.
    """
    name = described_of(case).factory
    assert name is not None, "a factory's case has its name"
    model = _load(name)
    if model.case != case:
        raise AsrDeployError(f"{name} gives another model here than where it was called first: it must give the same one every time.")
    return model


def _load(name: str) -> AnchorModel:
    path = Path(name)
    if path.is_dir():
        return from_folder(path)
    if path.suffix == DESCRIPTION or path.suffix in CHECKPOINTS:
        if not path.is_file():
            raise AsrDeployError(f"{path} does not exist; give a checkpoint with its {DESCRIPTION} file beside it.")
        return from_toml(description.description_of(path), path if path.suffix in CHECKPOINTS else None)
    if FACTORY.fullmatch(name):
        return _from_factory(name)
    raise AsrDeployError(
        f"{name} does not exist; give a test case, a Hugging Face folder, a FILE{DESCRIPTION}, or package.module:factory as the model."
    )


# Factories

_taken: WeakSet[nn.Module] = WeakSet()


def _from_factory(name: str) -> AnchorModel:
    made = _call(name)
    for field, kind, what in (
        ("network", nn.Module, "a torch.nn.Module"),
        ("normalised_waveform", bool, "True or False"),
        ("name", str | None, "a text or None"),
        ("word_separator", str | None, "a text or None"),
    ):
        if not isinstance(getattr(made, field), kind):
            raise AsrDeployError(f"{name}: {field} of its CtcModel is {type(getattr(made, field)).__name__}; it is {what}.")
    labels = check_labels(made.labels, name)
    blank = index_of_blank(made.blank, labels, name)
    rate = sample_rate_of(made.sample_rate, name)
    if made.network in _taken:
        raise AsrDeployError(f"{name} returned the network of an earlier call, which was changed since: make a new one in every call.")
    _taken.add(made.network)
    broken = not_finite(weights_in(made.network))
    if broken:
        raise AsrDeployError(f"{name} holds NaN or infinite weights, first in {broken[0]}.")
    network = made.network.cpu().float().eval()
    parameters = count_parameters(network)
    if not parameters:
        raise AsrDeployError(f"{name} gives a network without parameters; there is nothing to compress or to send.")
    described = Network(
        factory=name,
        labels=our_labels(labels, blank, name, separator=made.word_separator),
        sample_rate=rate,
        normalised_waveform=made.normalised_waveform,
        num_param=parameters,
    )
    case = custom_case(made.name if made.name is not None else name.replace(":", "."), described)
    ours = _in_our_order(network, blank_first(len(labels), blank))
    model = finish(case, ours, name, trained=True)
    shortest = _try(model, name)
    if isinstance(ours, OwnNetwork):
        ours.minimum_samples = shortest
    return identified(replace(model, made_by=from_factory), _code_of(ours, name))


def _call(name: str) -> CtcModel:
    """Return what a factory returns; modules beside the current folder are found, as with ``python -m``."""
    module, _, attribute = name.partition(":")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        factory: Any = importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise AsrDeployError(f"{name}: there is no module {error.name} here; install it, or go to the folder that it lies in.") from error
    except (Exception, SystemExit) as error:  # whatever a user's module does when it is imported
        raise AsrDeployError(f"{name}: importing {module} failed: {_said(error)}.") from error
    try:
        for part in attribute.split("."):
            factory = getattr(factory, part)
    except AttributeError as error:
        raise AsrDeployError(f"{name}: {module} has no {attribute}; give package.module:factory.") from error
    if not callable(factory):
        raise AsrDeployError(
            f"{name} is no function, so it gives no model; write one that returns toolchain.models.custom.loading.CtcModel."
        )
    try:
        made = factory()
    except (Exception, SystemExit) as error:  # whatever a user's factory does
        raise AsrDeployError(f"{name} failed: {_said(error)}.") from error
    if not isinstance(made, CtcModel):
        raise AsrDeployError(f"{name} returned {type(made).__name__}; it must return toolchain.models.custom.loading.CtcModel.")
    return made


def _said(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0].rstrip('.')}" if lines else type(error).__name__


def _in_our_order(network: nn.Module, order: list[int]) -> nn.Module:
    """Return a network whose logits begin with the blank's: torchaudio's by the rows of its head, others by moving the logits."""
    if isinstance(network, Wav2Vec2Model) and isinstance(network.aux, nn.Linear) and network.aux.out_features == len(order):
        with torch.no_grad():
            for each in network.aux.parameters():
                each.copy_(each[order].clone())
        return network
    return OwnNetwork(network, order)


@torch.inference_mode()
def _try(model: AnchorModel, name: str) -> int:
    """Run a network on a short waveform and return the fewest samples that it takes; AsrDeployError where its logits are no logits."""
    rate, width = model.case.sample_rate, len(model.case.labels)
    recogniser = Recogniser(model.network, normalised_waveform=model.case.anchor.normalised_waveform)
    noise = 0.1 * torch.randn(1, int(SHORT_SECONDS * rate), generator=torch.Generator().manual_seed(0))
    try:
        logits = recogniser(noise)
    except Exception as error:  # whatever a user's network does
        raise AsrDeployError(f"{name}: the network fails on {SHORT_SECONDS:g} s of audio: {_said(error)}.") from error
    if not isinstance(logits, Tensor) or logits.ndim != 3 or logits.shape[0] != 1 or not logits.is_floating_point():
        found = f"of shape {tuple(logits.shape)}" if isinstance(logits, Tensor) else f"that are {type(logits).__name__}"
        raise AsrDeployError(f"{name}: the network gives logits {found} for a waveform [1, samples]; they must be [1, frames, {width}].")
    if logits.shape[-1] != width:
        raise AsrDeployError(f"{name} gives {logits.shape[-1]} logits a frame, and there are {width} labels.")
    if not logits.isfinite().all():
        raise AsrDeployError(f"{name}: the network gives logits that are not finite for {SHORT_SECONDS:g} s of audio.")
    shortest = shortest_input(lambda samples: recogniser(noise[:, :samples]).shape[1], noise.shape[1])
    if shortest is None:
        raise AsrDeployError(f"{name}: the network gives no frame for {SHORT_SECONDS:g} s of audio; recordings are as short as that.")
    return shortest


def _code_of(network: nn.Module, factory: str) -> str:
    """Return what tells a network from that of an earlier day, its weights apart: results of both shall not be mixed.

    These are the source files of the factory and of the network's classes, and what its modules say of themselves.
    """
    files = {getattr(sys.modules[factory.partition(":")[0]], "__file__", None)}
    for kind in {type(each) for each in network.modules()}:
        if not kind.__module__.startswith(("torch.", "torchaudio.", OURS)):
            try:
                files.add(inspect.getsourcefile(kind))
            except TypeError:  # a class without a file, as in an interactive session
                continue
    return " ".join([*sorted(digest_of_file(Path(each)) for each in files if each), repr(network)])
