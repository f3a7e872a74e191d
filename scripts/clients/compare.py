"""Compare the transcripts of other runtimes with ours: `make clients`.

Exports the bundled model to every layout in fp32 and int8, and runs each client over the bundled test-clean. The clients are installed into
build/clients: PyTorch and onnxruntime are those of this environment.
"""

import json
import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import numpy as np

from device_runner.audio import read_audio
from device_runner.engines import open_engine
from device_runner.labels import select_labels
from toolchain.data.datasets import open_data
from toolchain.models.loading import load_model
from toolchain.scenario.exporting import export_model

HERE = Path(__file__).parent
BUILD = Path("build/clients")
# optimum-onnx 0.1.0 is the newest release and requires optimum 2.1 and transformers below 4.58, which require the others.
OPTIMUM = ["optimum-onnx==0.1.0", "optimum==2.1.0", "transformers==4.57.6", "tokenizers==0.22.2", "huggingface_hub==0.36.2"]
ONNX_ASR = ["onnx-asr==0.12.0"]
TRANSFORMERS_JS = "@huggingface/transformers@4.3.2"


def environment(name: str, packages: list[str]) -> Path:
    """Create an environment that sees this one's packages behind its own, and return its Python."""
    folder = BUILD / name
    python = folder / "bin" / "python"
    if not python.exists():
        venv.create(folder, with_pip=True)
        theirs = next(folder.glob("lib/python*/site-packages"))
        (theirs / "ours.pth").write_text(sysconfig.get_path("purelib") + "\n")
    subprocess.run([python, "-m", "pip", "install", "--quiet", "--no-deps", *packages], check=True)
    return python


def node() -> Path:
    """Install transformers.js and return the path of our script beside it."""
    folder = BUILD / "node"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "package.json").write_text('{"private": true}\n')
    # Without this, onnxruntime-node downloads CUDA libraries.
    skipped = os.environ | {"ONNXRUNTIME_NODE_INSTALL": "skip"}
    subprocess.run(["npm", "install", "--silent", "--no-audit", "--no-fund", TRANSFORMERS_JS], cwd=folder, env=skipped, check=True)
    script = folder / "transformers_js.mjs"  # Node looks for packages beside the script
    script.write_bytes((HERE / script.name).read_bytes())
    return script


def main() -> None:
    """Run every client and print a table. Exit with 1 if a transcript differs without reason."""
    optimum, onnx_asr, script = environment("optimum", OPTIMUM), environment("onnx-asr", ONNX_ASR), node()
    recordings = BUILD / "recordings"
    recordings.mkdir(exist_ok=True)
    utterances = open_data("digits", "test-clean").utterances
    waveforms = [read_audio(each.path, 16_000) for each in utterances]
    files = [recordings.absolute() / f"{number}.f32" for number in range(len(waveforms))]
    for waveform, file in zip(waveforms, files, strict=True):
        waveform.tofile(file)
    wrong = 0
    print("| client | scheme | recordings | same transcript |\n| --- | --- | --- | --- |")
    for quant, dtype in (("fp32", "fp32"), ("int8", "q8")):
        folders = {}
        for layout in ("onnx-asr", "sherpa-onnx", "transformers"):
            folder = BUILD / f"{layout}-{quant}"
            artifact = export_model(load_model("0"), folder, quant=quant, layout=layout, replace=True).artifact
            folders[layout] = str(folder.absolute())
        engine = open_engine(artifact)

        def texts(waveforms: list[np.ndarray], engine: object = engine, labels: tuple[str, ...] = artifact.manifest.labels) -> list[str]:
            return [select_labels(engine.logits(each), labels) for each in waveforms]  # type: ignore[attr-defined]

        ours = texts(waveforms)
        normalised = texts([((each - each.mean()) / np.sqrt(each.var() + 1e-5)).astype(np.float32) for each in waveforms])
        clients = [
            ("optimum", [optimum, HERE / "optimum_onnx.py", folders["transformers"]], ours),
            ("transformers.js", ["node", script, folders["transformers"], dtype], ours),
            ("onnx-asr", [onnx_asr, HERE / "onnx_asr_next.py", folders["onnx-asr"]], ours),
            ("sherpa-onnx", [sys.executable, HERE / "sherpa.py", folders["sherpa-onnx"]], ours),
            ("sherpa-onnx, to ours of normalised waveforms", [sys.executable, HERE / "sherpa.py", folders["sherpa-onnx"]], normalised),
        ]
        for name, command, expected in clients:
            done = subprocess.run([*map(str, command), *map(str, files)], stdout=subprocess.PIPE, text=True, check=True)
            found = json.loads(done.stdout.splitlines()[-1])
            same = sum(left.split() == right.split() for left, right in zip(found, expected, strict=True))
            print(f"| {name} | {quant} | {len(files)} | {same} |", flush=True)
            wrong += same < len(files) and name != "sherpa-onnx"  # it normalises, and the bundled model was trained without
    sys.exit(wrong > 0)


if __name__ == "__main__":
    main()
