"""External encoders and decoders, run as commands that convert between a safetensors file and a coded file.

The command of a decoder is always given by the user, never read from a bitstream.
"""

import shlex
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from device_runner.bitstream.decoders import State
from device_runner.errors import AsrDeployError
from toolchain.compression.calibration import Calibration
from toolchain.compression.codec import Coded, codec

NAME, KIND = "external", "external"
LONGEST_SECONDS = 24 * 3600


@codec(NAME)
@dataclass(frozen=True)
class External:
    """An external encoder, run as a command; decode with --decoder COMMAND.

    Args:
        encoder: Command that contains `{input}` (safetensors, float32) and `{output}`. It runs without a shell.
    """

    encoder: str

    def __post_init__(self) -> None:
        _command(self.encoder, Path("input"), Path("output"))

    def code(self, state: State, calibration: Calibration | None) -> Iterator[tuple[str, Coded]]:
        """Yield the output of the encoder as one record."""
        if calibration is not None:
            raise AsrDeployError("The codec external does not use calibration. Leave --calibrate out.")
        with tempfile.TemporaryDirectory(prefix="asrdeploy-") as folder:
            weights, coded = Path(folder) / "weights.safetensors", Path(folder) / "coded"
            save_file(state, weights)
            _run(self.encoder, weights, coded)
            payload = coded.read_bytes()
        # Only the external decoder can interpret these bytes.
        yield "model", Coded(KIND, payload, shape=(sum(each.size for each in state.values()),))


def decode_externally(payload: bytes, decoder: str) -> State:
    """Decode the output of an external encoder with a command.

    Args:
        payload: Output of the encoder.
        decoder: Command that contains `{input}` and `{output}` (safetensors).

    Returns:
        The float32 weights by name.

    Raises:
        AsrDeployError: If the command cannot be run, fails, or does not write a safetensors file.
    """
    with tempfile.TemporaryDirectory(prefix="asrdeploy-") as folder:
        coded, weights = Path(folder) / "coded", Path(folder) / "weights.safetensors"
        coded.write_bytes(payload)
        _run(decoder, coded, weights)
        try:
            return {name: each.astype(np.float32) for name, each in load_file(weights).items()}
        except (SafetensorError, ValueError, KeyError) as error:
            raise AsrDeployError(f"The output of the decoder {decoder} is not a safetensors file: {error}.") from error


def _command(text: str, source: Path, target: Path) -> list[str]:
    try:
        parts = shlex.split(text)
    except ValueError as error:
        raise AsrDeployError(f"The command “{text}” is not valid: {error}.") from error
    if not any("{input}" in part for part in parts) or not any("{output}" in part for part in parts):
        raise AsrDeployError(f"The command “{text}” must contain {{input}} and {{output}}, the places for the file names.")
    return [part.replace("{input}", str(source)).replace("{output}", str(target)) for part in parts]


def _run(text: str, source: Path, target: Path) -> None:
    command = _command(text, source, target)
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=LONGEST_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise AsrDeployError(f"The command {command[0]} cannot be run: {error}.") from error
    if done.returncode:
        last = (done.stderr.strip() or done.stdout.strip() or "it printed no message").splitlines()[-1]
        raise AsrDeployError(f"The command {command[0]} failed with exit code {done.returncode}: {last.rstrip('.')}.")
    if not target.is_file():
        raise AsrDeployError(f"The command {command[0]} ended without writing its {{output}} file.")
