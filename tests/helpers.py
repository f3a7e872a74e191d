"""Helpers for several tests: commands in separate processes, damaged copies of artifacts, and one-layer networks."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from device_runner.artifact import MANIFEST, Artifact, Manifest, describe_file, open_artifact, write_manifest
from toolchain.models.test_cases import LABELS

REPOSITORY = Path(__file__).parent.parent
# Rich and Typer read these; without them a command under test writes 80 columns into its pipe, as it does for users.
TERMINAL_VARIABLES = ("COLUMNS", "LINES", "FORCE_COLOR", "NO_COLOR", "PY_COLORS", "GITHUB_ACTIONS", "TERMINAL_WIDTH", "TTY_COMPATIBLE")

Completed = subprocess.CompletedProcess[str]


def run_command(*args: object, cwd: Path, env: dict[str, str] | None = None) -> Completed:
    """Run the console command in a separate process."""
    surroundings = {key: value for key, value in os.environ.items() if key not in TERMINAL_VARIABLES} | (env or {})
    command = [sys.executable, "-m", "asrdeploy", *map(str, args)]
    return subprocess.run(command, cwd=cwd, env=surroundings, capture_output=True, text=True, timeout=600)


def hears_ctrl_c() -> None:
    """For ``preexec_fn``: restore Ctrl-C, which processes in the background of a shell inherit as ignored."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def complaint(done: Completed, *, alone: bool = True) -> str:
    """Return the error message of a failed command; ``alone`` requires that standard error contains nothing else."""
    assert done.returncode == 2, (done.returncode, done.stdout, done.stderr)
    assert "Traceback" not in done.stdout + done.stderr
    lines = done.stderr.strip().splitlines()
    assert lines[-1].startswith("asrdeploy: ") and lines[-1].endswith((".", "?")), done.stderr
    assert not alone or len(lines) == 1, done.stderr
    return lines[-1]


def copied(artifact: Artifact, folder: Path, **changes: object) -> Path:
    """Copy an artifact and change entries of its manifest, which may become invalid."""
    shutil.copytree(artifact.folder, folder)
    if changes:
        manifest = json.loads((folder / MANIFEST).read_text()) | changes
        (folder / MANIFEST).write_text(json.dumps(manifest))
    return folder


def convolution(*, entry: str = "input_values", exit_: str = "logits", width: int = len(LABELS), channelled: bool = False) -> bytes:
    """Return an ONNX model of one convolution, 400 samples every 320: ``[1, samples]`` to ``[1, frames, width]``.

    With ``channelled`` the input is ``[1, 1, samples]``.
    """
    weight = np.random.default_rng(0).normal(size=(width, 1, 400)).astype(np.float32)
    first = "channelled"
    nodes = [helper.make_node("Unsqueeze", [entry, "axis"], [first])]
    if channelled:
        first, nodes = entry, []
    nodes += [
        helper.make_node("Conv", [first, "weight"], ["features"], strides=[320]),
        helper.make_node("Transpose", ["features"], [exit_], perm=[0, 2, 1]),
    ]
    graph = helper.make_graph(
        nodes,
        "convolution",
        [helper.make_tensor_value_info(entry, TensorProto.FLOAT, [1, 1, "samples"] if channelled else [1, "samples"])],
        [helper.make_tensor_value_info(exit_, TensorProto.FLOAT, [1, "frames", width])],
        [numpy_helper.from_array(np.array([1]), "axis"), numpy_helper.from_array(weight, "weight")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return onnx.ModelProto.SerializeToString(model)


def artifact_of(folder: Path, content: bytes, **changes: Any) -> Artifact:
    """Write an artifact with a valid manifest around the bytes of a model."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.onnx").write_bytes(content)
    facts: dict[str, Any] = {
        "model": "ELSEWHERE",
        "weights": "file",
        "trained": True,
        "format": "onnx",
        "scheme": "fp32",
        "files": (describe_file(folder / "model.onnx"),),
        "labels": LABELS,
        "sample_rate": 16_000,
        "normalised_waveform": False,
        "parameters": 400 * len(LABELS),
        "minimum_samples": 400,
        "versions": {},
    }
    write_manifest(folder, Manifest(**facts | changes))
    return open_artifact(folder)


class OneLayer(nn.Module):
    """A network with TorchAudio's calling convention: one convolution of width 400 and stride 320."""

    def __init__(self, width: int = len(LABELS)) -> None:
        super().__init__()
        self.convolution = nn.Conv1d(1, width, 400, 320)

    def forward(self, waveform: Tensor) -> tuple[Tensor, None]:
        return self.convolution(waveform[:, None]).transpose(1, 2), None
