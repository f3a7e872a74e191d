"""Other people's encoders and decoders, run as commands: safetensors in, one file out, and back.

A decoder's command comes from the user alone, never from a bitstream.
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
    """Any encoder as a command; `decompress` and `export --from` take the command of its decoder (--decoder).

    Args:
        encoder: the command, with `{input}` (safetensors, float32) and `{output}` in it; no shell reads it.
    """

    encoder: str

    def __post_init__(self) -> None:
        _command(self.encoder, Path("input"), Path("output"))

    def code(self, state: State, calibration: Calibration | None) -> Iterator[tuple[str, Coded]]:
        """Yield the encoder's output as one record."""
        if calibration is not None:
            raise AsrDeployError("An external encoder takes the weights alone; leave --calibrate out.")
        with tempfile.TemporaryDirectory(prefix="asrdeploy-") as folder:
            weights, coded = Path(folder) / "weights.safetensors", Path(folder) / "coded"
            save_file(state, weights)
            _run(self.encoder, weights, coded)
            payload = coded.read_bytes()
        # Bytes as they are: what is in them only the decoder knows.
        yield "model", Coded(KIND, payload, shape=(sum(each.size for each in state.values()),))


def decode_externally(payload: bytes, decoder: str) -> State:
    """Run a decoder on an external encoder's output and return the weights.

    Args:
        payload: the encoder's output.
        decoder: the command, with `{input}` and `{output}` (safetensors) in it.

    Raises:
        AsrDeployError: the command cannot be run, fails, or writes no safetensors.
    """
    with tempfile.TemporaryDirectory(prefix="asrdeploy-") as folder:
        coded, weights = Path(folder) / "coded", Path(folder) / "weights.safetensors"
        coded.write_bytes(payload)
        _run(decoder, coded, weights)
        try:
            return {name: each.astype(np.float32) for name, each in load_file(weights).items()}
        except (SafetensorError, ValueError, KeyError) as error:
            raise AsrDeployError(f"The decoder wrote something else than safetensors: {error}.") from error


def _command(text: str, source: Path, target: Path) -> list[str]:
    try:
        parts = shlex.split(text)
    except ValueError as error:
        raise AsrDeployError(f"The command “{text}” cannot be read: {error}.") from error
    if not any("{input}" in part for part in parts) or not any("{output}" in part for part in parts):
        raise AsrDeployError(f"The command “{text}” needs {{input}} and {{output}} in it.")
    return [part.replace("{input}", str(source)).replace("{output}", str(target)) for part in parts]


def _run(text: str, source: Path, target: Path) -> None:
    command = _command(text, source, target)
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=LONGEST_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise AsrDeployError(f"{command[0]} cannot be run: {error}.") from error
    if done.returncode:
        last = (done.stderr.strip() or done.stdout.strip() or "it said nothing").splitlines()[-1]
        raise AsrDeployError(f"{command[0]} failed with code {done.returncode}: {last.rstrip('.')}.")
    if not target.is_file():
        raise AsrDeployError(f"{command[0]} ended without writing {{output}}.")
