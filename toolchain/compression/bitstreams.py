"""Compressed models as files: from an anchor to a bitstream, and from a bitstream to a model again."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from device_runner.bitstream.decoders import State, decode_records
from device_runner.bitstream.format import BitstreamReader, Header, open_bitstream, read_header
from device_runner.errors import AsrDeployError
from device_runner.files import atomic_path, sha256_of
from toolchain.compression.calibration import Calibration, calibrate
from toolchain.compression.codec import check_base, encode
from toolchain.compression.external import NAME as EXTERNAL
from toolchain.compression.external import decode_externally
from toolchain.data.speech import calibration_speech
from toolchain.models.anchor_model import AnchorModel, Received, model_with
from toolchain.models.loading import load_model
from toolchain.models.test_cases import TestCase, custom_case, find_test_case
from toolchain.models.weight_files import as_arrays

Progress = Callable[[str, float], None]


def calibration_of(
    model: AnchorModel, data: str, split: str, *, cache: Path | None, progress: Progress = lambda what, share: None
) -> Calibration:
    """Measure what codecs may know of a model's inputs, or read the earlier measurement.

    Raises:
        AsrDeployError: see ``calibration_speech``.
    """
    speech = calibration_speech(data, split, model.case.sample_rate)
    recordings = list(speech)
    source = f"{data} {split} x {len(recordings)}"
    identity = f"{model.case.name} {model.weights}"
    measured = calibrate(model.recogniser, recordings, source=source, cache=cache, identity=identity, progress=progress)
    return replace(measured, tuned_on=speech.ids)


def compress(
    model: AnchorModel,
    codec: str,
    parameters: Mapping[str, Any],
    path: str | Path,
    *,
    calibration: Calibration | None = None,
    base: AnchorModel | None = None,
    call: Callable[..., Any] = lambda function, *arguments: function(*arguments),
) -> Header:
    """Write a model's bitstream and return its header.

    Args:
        model: the anchor, or one fine-tuned from ``base``.
        codec: name of the codec.
        parameters: of the codec.
        path: the file to write.
        calibration: see ``calibration_of``.
        base: the model that the receiver has; the bitstream is an update of it.
        call: calls the encoder, here or on another machine.

    Raises:
        AsrDeployError: an unknown codec or parameter, or a file that cannot be written.
    """
    path = Path(path)
    bitstream = call(coded, model, codec, parameters, calibration, base)
    with atomic_path(path) as temporary:
        temporary.write_bytes(bitstream)
    return read_header(path)


def coded(
    model: AnchorModel, codec: str, parameters: Mapping[str, Any], calibration: Calibration | None, base: AnchorModel | None
) -> bytes:
    """Return a model's bitstream; see ``compress``."""
    return encode(
        codec,
        parameters,
        model.state(),
        calibration=calibration,
        base=None if base is None else base.state(),
        model=model.case.name,
        weights=model.weights,
        trained=model.trained,
        tuned_on=model.tuned_on + (() if base is None else base.tuned_on),
        network=model.case.network,
    )


def decompress(
    path: str | Path, *, base: AnchorModel | None = None, decoder: str | None = None, custom: AnchorModel | None = None
) -> AnchorModel:
    """Reconstruct the model that a bitstream holds.

    The model knows its bitstream (``AnchorModel.received``), so an export or an evaluation of it counts the transmitted size.

    Example:
        >>> model = asrdeploy.decompress("small.asrb")  # doctest: +SKIP

    Args:
        path: the bitstream.
        base: the model that an update was made against.
        decoder: the command that decodes what an external encoder made.
        custom: the model of the factory whose weights it holds, made here; others do without.

    Raises:
        AsrDeployError: no bitstream, a damaged one, one of another model, or an update without its base.
    """
    path = Path(path)
    header, state = read_weights(path, base=base, decoder=decoder)
    received = Received(header.configuration, path.stat().st_size, sha256_of(path))
    return replace(model_of(header, state, str(path), custom), received=received)


def model_of(header: Header, state: Mapping[str, Tensor], name: str, custom: AnchorModel | None = None) -> AnchorModel:
    """Return the model of a bitstream's header around its weights; ``name`` is the bitstream's for messages.

    Raises:
        AsrDeployError: the header names no model, the weights do not fit it, or a factory's model is not given.
    """
    case = case_of_header(header, name)
    if case.network is None or case.network.factory is None:
        return model_with(case, state, header.weights, trained=header.trained, tuned_on=header.tuned_on)
    if custom is None:
        raise AsrDeployError(
            f"{name} holds weights of {case.network.factory}, and a bitstream brings no code: give it with --model, if you trust it."
        )
    return custom.with_state(state, header.weights, trained=header.trained, tuned_on=header.tuned_on)


def case_of_header(header: Header, name: str) -> TestCase:
    """Return the test case of a bitstream's model: a built-in one, or what the header says of a custom one.

    Raises:
        AsrDeployError: the header names no model, or none that we know.
    """
    if not header.model:
        raise AsrDeployError(f"{name} does not say which model's weights it holds; `asrdeploy decompress` gives them as they are.")
    return find_test_case(header.model) if header.network is None else custom_case(header.model, header.network)


def base_for(header: Header, name: str, base: str | None, custom: AnchorModel | None) -> AnchorModel | None:
    """Return the model that an update was made against, after a look at whether a custom model is the bitstream's; None: no base is given.

    Args:
        header: of the bitstream.
        name: the bitstream's, for messages.
        base: as ``--base`` names it: a file, or ``own``: the model's weights.
        custom: the custom model that was given with the bitstream; one of a factory needs it, and ``own``.

    Raises:
        AsrDeployError: the custom model is another one than the bitstream's, or is missing, or the base cannot be loaded.
    """
    if base is None and custom is None:
        return None
    case = case_of_header(header, name)  # a name in a file never becomes a factory that is called
    if custom is not None and custom.case != case:
        raise AsrDeployError(f"{name} is of {case.name} as it was when it was made; the given model is another one, or changed since.")
    if base is None:
        return None
    if case.network is None:
        return load_model(case.name, None if base == "own" else base)
    if base != "own":
        from toolchain.models.custom.loading import with_weights

        return with_weights(case, base, custom)
    if custom is None:
        raise AsrDeployError(
            f"--base own: {name} is of {case.name}, a model of somebody's custom: give that with --model, or its folder as base."
        )
    return custom


def read_weights(path: Path, *, base: AnchorModel | None = None, decoder: str | None = None) -> tuple[Header, dict[str, Tensor]]:
    """Return a bitstream's header and float32 weights; see ``decompress`` for what is raised."""
    with open_bitstream(path) as stream:
        reader = BitstreamReader(stream)
        return reader.header, decode_weights(reader, base=base, decoder=decoder)


def decode_weights(reader: BitstreamReader, *, base: AnchorModel | None = None, decoder: str | None = None) -> dict[str, Tensor]:
    """Return the float32 weights of an opened bitstream, decoded as it is read; see ``decompress`` for what is raised."""
    known = None if base is None else base.state()
    check_base(reader.header, known)
    arrays = None if known is None else as_arrays(known)
    state = _externally(reader, arrays, decoder) if reader.header.codec == EXTERNAL else dict(decode_records(reader, arrays))
    return {name: torch.from_numpy(each) for name, each in state.items()}


def _externally(reader: BitstreamReader, base: State | None, decoder: str | None) -> State:
    if decoder is None:
        raise AsrDeployError("An external encoder made this bitstream: name its decoder's command with --decoder.")
    if (reader.header.base is None) != (base is None):
        raise AsrDeployError("This bitstream and --base do not fit: one is an update and the other is not there.")
    ((_, payload),) = list(reader.records())
    state = decode_externally(payload, decoder)
    if base is None:
        return state
    if {name: each.shape for name, each in state.items()} != {name: each.shape for name, each in base.items()}:
        raise AsrDeployError("The decoder's tensors are not those of the base.")
    return {name: np.asarray(base[name] + each) for name, each in state.items()}
