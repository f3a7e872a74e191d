"""Compress a model to a bitstream file, and reconstruct a model from one."""

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
    model: AnchorModel,
    data: str,
    split: str = "dev-clean",
    *,
    cache: str | Path | None = None,
    progress: Progress = lambda what, share: None,
) -> Calibration:
    """Measure statistics of a model's layers on recordings, for codecs that use calibration.

    Example:
        >>> model = asrdeploy.load_model("DIGITS_ASR_TINY")  # doctest: +SKIP
        >>> calibration = asrdeploy.calibrate(model, "digits")  # doctest: +SKIP
        >>> asrdeploy.compress(model, "ectcq", {"bits": 2}, "small.asrb", calibration=calibration)  # doctest: +SKIP

    Args:
        model: Model to measure.
        data: Name or folder of the data set; see ``open_data``.
        split: Name of the split. Test sets are refused.
        cache: Folder that stores measurements. A stored measurement of the same weights and recordings is reused. None stores nothing.
        progress: Called with the name of the current step and the completed fraction, from 0 to 1.

    Returns:
        The statistics, to pass to ``compress``.

    Raises:
        AsrDeployError: If the split is a test set or cannot be opened.
    """
    speech = calibration_speech(data, split, model.case.sample_rate)
    recordings = list(speech)
    source = f"{data} {split} x {len(recordings)}"
    identity = f"{model.case.name} {model.weights}"
    folder = None if cache is None else Path(cache)
    measured = calibrate(model.recogniser, recordings, source=source, cache=folder, identity=identity, progress=progress)
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
    """Compress a model with a codec and write the bitstream.

    Example:
        >>> model = asrdeploy.load_model("DIGITS_ASR_TINY")  # doctest: +SKIP
        >>> asrdeploy.compress(model, "ectcq", {"bits": 2}, "small.asrb")  # doctest: +SKIP

    Args:
        model: Model to compress.
        codec: Name of the codec, as ``asrdeploy codecs`` lists it.
        parameters: Parameters of the codec by name.
        path: Bitstream file to write (``.asrb``). An existing file is replaced.
        calibration: Layer statistics from ``asrdeploy.calibrate``; None if the codec uses the weights only.
        base: Model that the receiver already has. The bitstream is then an update of it.
        call: Function that runs the encoder, on this machine or another one.

    Returns:
        The header of the bitstream.

    Raises:
        AsrDeployError: If the codec or a parameter is unknown, or the codec cannot compress the model.
    """
    path = Path(path)
    bitstream = call(coded, model, codec, parameters, calibration, base)
    with atomic_path(path) as temporary:
        temporary.write_bytes(bitstream)
    return read_header(path)


def coded(
    model: AnchorModel, codec: str, parameters: Mapping[str, Any], calibration: Calibration | None, base: AnchorModel | None
) -> bytes:
    """Return the bitstream of a model; see ``compress``."""
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
    path: str | Path, *, base: AnchorModel | None = None, decoder: str | None = None, model: AnchorModel | None = None
) -> AnchorModel:
    """Reconstruct the model from a bitstream.

    The model records its bitstream (``AnchorModel.received``), so exports and evaluations of it count the transmitted size.

    Example:
        >>> model = asrdeploy.decompress("small.asrb")  # doctest: +SKIP

    Args:
        path: Bitstream file.
        base: Model that an update was made from.
        decoder: Command of the decoder, if an external encoder made the bitstream.
        model: Model of the factory, if the bitstream holds weights of a factory's model. Bitstreams contain no code.

    Returns:
        The model with the reconstructed weights.

    Raises:
        AsrDeployError: If the file is not a bitstream, is damaged, belongs to another model, or is an update and its base is missing.
    """
    path = Path(path)
    header, state = read_weights(path, base=base, decoder=decoder)
    received = Received(header.configuration, path.stat().st_size, sha256_of(path))
    return replace(model_of(header, state, str(path), model), received=received)


def model_of(header: Header, state: Mapping[str, Tensor], name: str, custom: AnchorModel | None = None) -> AnchorModel:
    """Return the model that a bitstream's header describes, with the decoded weights.

    Args:
        header: Header of the bitstream.
        state: Decoded float32 weights by name.
        name: Name of the bitstream, for messages.
        custom: Model of the factory, if a factory makes the network.

    Raises:
        AsrDeployError: If the header does not name a model, the weights do not fit it, or the factory's model is missing.
    """
    case = case_of_header(header, name)
    if case.network is None or case.network.factory is None:
        return model_with(case, state, header.weights, trained=header.trained, tuned_on=header.tuned_on)
    if custom is None:
        raise AsrDeployError(
            f"{name} holds weights of {case.network.factory}, and bitstreams contain no code. If you trust it, add --model."
        )
    _check_same(custom, case, name)
    return custom.with_state(state, header.weights, trained=header.trained, tuned_on=header.tuned_on)


def _check_same(model: AnchorModel, case: TestCase, name: str) -> None:
    """Raise AsrDeployError if a model is not the one that a bitstream was made from: its labels or sample rate may differ."""
    if model.case != case:
        raise AsrDeployError(f"{name} belongs to {case.name}, but the model given with --model is different, or has changed since.")


def case_of_header(header: Header, name: str) -> TestCase:
    """Return the test case of a bitstream's model: a built-in one, or the one of the custom model that the header describes.

    Args:
        header: Header of the bitstream.
        name: Name of the bitstream, for messages.

    Raises:
        AsrDeployError: If the header names no model or an unknown one.
    """
    if not header.model:
        raise AsrDeployError(f"{name} does not name the model of its weights. Use `asrdeploy decompress` to extract the weights.")
    return find_test_case(header.model) if header.network is None else custom_case(header.model, header.network)


def base_for(header: Header, name: str, base: str | None, custom: AnchorModel | None) -> AnchorModel | None:
    """Return the model that an update was made from, and check that a custom model belongs to the bitstream.

    Args:
        header: Header of the bitstream.
        name: Name of the bitstream, for messages.
        base: Value of ``--base``: a file of weights, or ``own`` for the model's published weights.
        custom: Custom model given with the bitstream. Models of a factory and ``own`` require it.

    Returns:
        The base, or None if ``base`` is None.

    Raises:
        AsrDeployError: If the custom model is missing or not the bitstream's, or the base cannot be loaded.
    """
    if base is None and custom is None:
        return None
    case = case_of_header(header, name)  # never calls a factory that only the file names
    if custom is not None:
        _check_same(custom, case, name)
    if base is None:
        return None
    if case.network is None:
        return load_model(case.name, None if base == "own" else base)
    if base != "own":
        from toolchain.models.custom.loading import with_weights

        return with_weights(case, base, custom)
    if custom is None:
        raise AsrDeployError(
            f"--base own: {name} belongs to the custom model {case.name}. Give that model with --model, or its folder with --base."
        )
    return custom


def read_weights(path: Path, *, base: AnchorModel | None = None, decoder: str | None = None) -> tuple[Header, dict[str, Tensor]]:
    """Return the header and the float32 weights of a bitstream file; see ``decompress`` for arguments and errors."""
    with open_bitstream(path) as stream:
        reader = BitstreamReader(stream)
        return reader.header, decode_weights(reader, base=base, decoder=decoder)


def decode_weights(reader: BitstreamReader, *, base: AnchorModel | None = None, decoder: str | None = None) -> dict[str, Tensor]:
    """Decode the float32 weights of an open bitstream while reading it; see ``decompress`` for arguments and errors."""
    known = None if base is None else base.state()
    check_base(reader.header, known)
    arrays = None if known is None else as_arrays(known)
    state = _externally(reader, arrays, decoder) if reader.header.codec == EXTERNAL else dict(decode_records(reader, arrays))
    return {name: torch.from_numpy(each) for name, each in state.items()}


def _externally(reader: BitstreamReader, base: State | None, decoder: str | None) -> State:
    if decoder is None:
        raise AsrDeployError("An external encoder made this bitstream. Give the command of its decoder with --decoder.")
    if (reader.header.base is None) != (base is None):
        raise AsrDeployError(
            "This bitstream is not an update. Leave --base out."
            if reader.header.base is None
            else "This bitstream is an update. Give the weights that it was made from with --base."
        )
    ((_, payload),) = list(reader.records())
    state = decode_externally(payload, decoder)
    if base is None:
        return state
    if {name: each.shape for name, each in state.items()} != {name: each.shape for name, each in base.items()}:
        raise AsrDeployError("The names or shapes of the decoder's tensors differ from the base. Give the base of this update with --base.")
    return {name: np.asarray(base[name] + each) for name, each in state.items()}
