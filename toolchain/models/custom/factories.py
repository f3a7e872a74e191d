"""Custom models that a Python factory makes."""

import importlib
import inspect
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torchaudio.models import Wav2Vec2Model

from device_runner.bitstream.network import Network
from device_runner.errors import AsrDeployError
from exporters.recogniser import Recogniser, not_finite, shortest_input
from toolchain.models.anchor_model import AnchorModel, finish
from toolchain.models.custom.identity import identified, network_of
from toolchain.models.custom.labels import blank_first, check_labels, check_sample_rate, index_of_blank, our_labels
from toolchain.models.networks import count_parameters
from toolchain.models.test_cases import TestCase, custom_case
from toolchain.models.weight_files import digest_of_file, weights_in

OURS = f"{__name__.partition('.models')[0]}."  # prefix of our modules, which the version identifies
SHORT_SECONDS = 1.0  # length of the audio for a first run of a network

_taken: WeakSet[nn.Module] = WeakSet()


@dataclass(frozen=True)
class CtcModel:
    """A CTC model, as a factory returns it: a network and its labels.

    Example:
        >>> def make():
        ...     return asrdeploy.CtcModel(MyNetwork(), labels=["-", "|", "A", "B"])  # doctest: +SKIP

    Args:
        network: Network that returns CTC logits ``[batch, frames, labels]`` for a waveform ``[batch, samples]``: alone, first in a
            tuple, or as ``logits`` in a dict, as models of transformers do. It must accept batch 1 and any length, and always return
            the same. It is changed, so the factory must create a new one in every call.
        labels: Labels by index of the logits.
        sample_rate: Sample rate of the waveform in hertz.
        blank: Label or index of the blank.
        normalised_waveform: Whether to give the waveform zero mean and unit variance first (torch's ``layer_norm``).
        word_separator: Label, or part of labels, that stands for the space between words; None if nothing does.
        name: Name of the model in results; None for the factory's name.
    """

    network: nn.Module
    labels: Sequence[str]
    sample_rate: int = 16_000
    blank: int | str = 0
    normalised_waveform: bool = False
    word_separator: str | None = "|"
    name: str | None = None


class CustomNetwork(nn.Module):
    """A factory's network with the return value of TorchAudio's networks and the blank as its first output.

    Args:
        network: Network of a ``CtcModel``.
        order: Indices of its outputs, with the blank first.
    """

    def __init__(self, network: nn.Module, order: Sequence[int]) -> None:
        super().__init__()
        self.network = network
        self.in_order = list(order) == sorted(order)
        self.minimum_samples = 1
        self.register_buffer("order", torch.tensor(list(order)), persistent=False)

    def forward(self, waveform: Tensor) -> tuple[Tensor, None]:
        """Return logits ``[batch, frames, labels]`` for a waveform ``[batch, samples]``, and None for their lengths."""
        logits = self.network(waveform)
        if isinstance(logits, Mapping):
            logits = logits["logits"]
        elif not isinstance(logits, Tensor):
            logits = logits[0]
        return (logits if self.in_order else logits.index_select(-1, self.order)), None


def factory_again(case: TestCase) -> AnchorModel:
    """Create a factory's model again in another process, from the test case that its first call gave.

    Raises:
        AsrDeployError: If the factory fails, or returns a different model than before.
    """
    name = network_of(case).factory
    assert name is not None, "a factory's case has its name"
    model = load_factory(name)
    if model.case != case:
        raise AsrDeployError(f"{name} returned a different model in another process. Make the factory return the same model in every call.")
    return model


def load_factory(name: str) -> AnchorModel:
    """Call a factory and check the model that it returns.

    Args:
        name: ``package.module:factory``.

    Raises:
        AsrDeployError: If the factory fails, or its model is not valid.
    """
    made = _call(name)
    for field, kind, what in (
        ("network", nn.Module, "a torch.nn.Module"),
        ("normalised_waveform", bool, "True or False"),
        ("name", str | None, "a string or None"),
        ("word_separator", str | None, "a string or None"),
    ):
        if not isinstance(getattr(made, field), kind):
            raise AsrDeployError(f"{name}: {field} of its CtcModel is of type {type(getattr(made, field)).__name__}. It must be {what}.")
    labels = check_labels(made.labels, name)
    blank = index_of_blank(made.blank, labels, name)
    rate = check_sample_rate(made.sample_rate, name)
    if made.network in _taken:
        raise AsrDeployError(f"{name} returned the network of an earlier call, which asrdeploy changed. Create a new one in every call.")
    _taken.add(made.network)
    empty = next((each for each, parameter in made.network.named_parameters() if is_lazy(parameter)), None)
    if empty is not None:
        raise AsrDeployError(
            f"{name} returned a network whose weights do not exist yet, first {empty}. Run the network once in the factory."
        )
    broken = not_finite(weights_in(made.network))
    if broken:
        raise AsrDeployError(f"{name} returned NaN or infinite weights, first in {broken[0]}.")
    network = made.network.cpu().float().eval()
    parameters = count_parameters(network)
    if not parameters:
        raise AsrDeployError(f"{name} returned a network without parameters, so there is nothing to compress or send.")
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
    if isinstance(ours, CustomNetwork):
        ours.minimum_samples = shortest
    return identified(replace(model, made_by=factory_again), _code_of(ours, name))


def _call(name: str) -> CtcModel:
    """Call a factory. Modules in the current folder are found, as with ``python -m``."""
    module, _, attribute = name.partition(":")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        factory: Any = importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise AsrDeployError(f"{name}: there is no module {error.name}. Install it, or run the command in its folder.") from error
    except (Exception, SystemExit) as error:  # whatever a user's module does when it is imported
        raise AsrDeployError(f"{name}: importing {module} failed: {_said(error)}.") from error
    try:
        for part in attribute.split("."):
            factory = getattr(factory, part)
    except AttributeError as error:
        raise AsrDeployError(f"{name}: {module} has no {attribute}. Give package.module:factory.") from error
    if not callable(factory):
        raise AsrDeployError(f"{name} is not a function. Give a function that returns asrdeploy.CtcModel.")
    try:
        made = factory()
    except (Exception, SystemExit) as error:  # whatever a user's factory does
        raise AsrDeployError(f"{name} failed: {_said(error)}.") from error
    if not isinstance(made, CtcModel):
        raise AsrDeployError(f"{name} returned {type(made).__name__}. It must return asrdeploy.CtcModel.")
    return made


def _said(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0].rstrip('.')}" if lines else type(error).__name__


def _in_our_order(network: nn.Module, order: list[int]) -> nn.Module:
    """Return a network with the blank as first output: reorder the head of torchaudio's networks, or the logits of others."""
    if isinstance(network, Wav2Vec2Model) and isinstance(network.aux, nn.Linear) and network.aux.out_features == len(order):
        with torch.no_grad():
            for each in network.aux.parameters():
                each.copy_(each[order].clone())
        return network
    return CustomNetwork(network, order)


@torch.inference_mode()
def _try(model: AnchorModel, name: str) -> int:
    """Run a network on a short waveform, check its logits, and return the smallest number of samples that it accepts."""
    rate, width = model.case.sample_rate, len(model.case.labels)
    recogniser = Recogniser(model.network, normalised_waveform=model.case.anchor.normalised_waveform)
    noise = 0.1 * torch.randn(1, int(SHORT_SECONDS * rate), generator=torch.Generator().manual_seed(0))
    try:
        logits, again = recogniser(noise), recogniser(noise)
    except KeyError as error:
        raise AsrDeployError(f"{name}: the network returns a dict without {error}. It must return logits [1, frames, {width}].") from error
    except Exception as error:  # whatever a user's network does
        raise AsrDeployError(f"{name}: the network fails on {SHORT_SECONDS:g} s of audio: {_said(error)}.") from error
    if not isinstance(logits, Tensor) or logits.ndim != 3 or logits.shape[0] != 1 or not logits.is_floating_point():
        found = f"logits of shape {tuple(logits.shape)}" if isinstance(logits, Tensor) else type(logits).__name__
        raise AsrDeployError(
            f"{name}: the network returns {found} for a waveform [1, samples]. It must return floating-point logits [1, frames, {width}]."
        )
    if logits.shape[-1] != width:
        raise AsrDeployError(
            f"{name}: the network has {logits.shape[-1]} outputs, but {width} labels. Give one label for each output, "
            "or return only the outputs that have one."
        )
    if not logits.isfinite().all():
        raise AsrDeployError(f"{name}: the network returns NaN or infinite logits for {SHORT_SECONDS:g} s of audio.")
    far = 1e-3 * float(logits.abs().max()) if logits.numel() else 0.0  # far above rounding
    if logits.shape != again.shape or not torch.allclose(logits, again, rtol=1e-3, atol=far):
        raise AsrDeployError(
            f"{name}: the network returns other logits each time for the same audio. Switch off what is random, such as dropout: "
            "torch.nn.functional.dropout needs training=self.training."
        )
    shortest = shortest_input(lambda samples: recogniser(noise[:, :samples]).shape[1], noise.shape[1])
    if shortest is None:
        raise AsrDeployError(f"{name}: the network returns no frame for {SHORT_SECONDS:g} s of audio. It must accept this length.")
    return shortest


def _code_of(network: nn.Module, factory: str) -> str:
    """Return the identity of a network's code, so that results of changed code are never mixed.

    It consists of the source files of the factory and of the network's classes, and the printed form of the network.
    """
    files = {getattr(sys.modules[factory.partition(":")[0]], "__file__", None)}
    for kind in {type(each) for each in network.modules()}:
        if not kind.__module__.startswith(("torch.", "torchaudio.", OURS)):
            try:
                files.add(inspect.getsourcefile(kind))
            except TypeError:  # a class without a file, such as in an interactive session
                continue
    return " ".join([*sorted(digest_of_file(Path(each)) for each in files if each), repr(network)])
