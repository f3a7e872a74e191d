"""Compressed models as files: from an anchor to a bitstream, and from a bitstream to a model again."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from device_runner.bitstream import Header, open_bitstream, read_header
from device_runner.decoders import decode_bitstream
from device_runner.errors import AsrDeployError
from device_runner.files import atomic_path
from toolchain.compression.calibration import Calibration, calibrate
from toolchain.compression.codec import as_arrays, check_base, encode
from toolchain.exporting import CALIBRATION_UTTERANCES, calibration_speech
from toolchain.models import AnchorModel, load_model

CACHE = Path.home() / ".cache" / "asrdeploy"
Progress = Callable[[str, float], None]


def calibration_of(
    model: AnchorModel, data: str, split: str, *, cache: Path | None = CACHE, progress: Progress = lambda what, share: None
) -> Calibration:
    """Measure what codecs may know of a model's inputs, or read the earlier measurement.

    Raises:
        AsrDeployError: the split is one that word error rates are measured on, or cannot be opened.
    """
    recordings = list(calibration_speech(data, split, model.case.sample_rate))
    source = f"{data} {split} x {min(len(recordings), CALIBRATION_UTTERANCES)}"
    identity = f"{model.case.name} {model.weights}"
    return calibrate(model.recogniser, recordings, source=source, cache=cache, identity=identity, progress=progress)


def compress(
    model: AnchorModel,
    codec: str,
    parameters: Mapping[str, Any],
    path: Path,
    *,
    calibration: Calibration | None = None,
    base: AnchorModel | None = None,
) -> Header:
    """Write a model's bitstream and return its header.

    Args:
        model: the anchor, or one fine-tuned from ``base``.
        codec: name of the codec.
        parameters: of the codec.
        path: the file to write.
        calibration: see ``calibration_of``.
        base: the model that the receiver has; the bitstream is an update of it.

    Raises:
        AsrDeployError: an unknown codec or parameter, or a file that cannot be written.
    """
    bitstream = encode(
        codec,
        parameters,
        model.state(),
        calibration=calibration,
        base=None if base is None else base.state(),
        model=model.case.name,
        weights=model.weights,
        trained=model.trained,
    )
    with atomic_path(path) as temporary:
        temporary.write_bytes(bitstream)
    return read_header(path)


def reconstruct(path: Path, *, base: AnchorModel | None = None) -> tuple[AnchorModel, Header]:
    """Return the model that a bitstream holds, ready to be exported, and the header.

    Raises:
        AsrDeployError: no bitstream, a damaged one, one of another model, or an update without its base.
    """
    header, state = read_weights(path, base=base)
    if not header.model:
        raise AsrDeployError(f"{path} does not say which model's weights it holds; `asrdeploy decompress` gives them as they are.")
    # The weights of the architecture are replaced at once: random ones need no download.
    model = load_model(header.model, "random").with_state(state, header.weights)
    return AnchorModel(model.case, model.network, header.weights, header.trained), header


def read_weights(path: Path, *, base: AnchorModel | None = None) -> tuple[Header, dict[str, Tensor]]:
    """Return a bitstream's header and float32 weights; see ``reconstruct`` for what is raised."""
    from torch import from_numpy

    known = None if base is None else base.state()
    with open_bitstream(path) as stream:
        header, state = decode_bitstream(stream, None if known is None else as_arrays(known))
    check_base(header, known)
    return header, {name: from_numpy(each) for name, each in state.items()}
