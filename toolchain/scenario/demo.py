"""The demo: evaluate the bundled test case in 14 test configurations, and write their points and plot."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from device_runner.artifact import Artifact, open_artifact
from device_runner.bitstream.format import SUFFIX, read_header
from device_runner.errors import AsrDeployError
from device_runner.facts import package_versions
from toolchain.accuracy.evaluation import evaluate
from toolchain.accuracy.progress import Watcher
from toolchain.accuracy.scoring import Evaluation
from toolchain.accuracy.transcriber import open_transcriber
from toolchain.accuracy.workers import Workers
from toolchain.compression import make_codec
from toolchain.compression.bitstreams import calibration_of, compress, decompress
from toolchain.data.datasets import DataSet
from toolchain.models.anchor_model import AnchorModel
from toolchain.models.loading import load_model
from toolchain.scenario.exporting import export_model
from toolchain.scenario.points import Curve, Point, make_curve, make_point, write_curve

BITSTREAM, ARTIFACT = f"model{SUFFIX}", "artifact"


@dataclass(frozen=True)
class Configuration:
    """A test configuration: a codec and the scheme of the artifact. Without a codec, the artifact itself is transmitted."""

    name: str
    scheme: str = "fp32"
    codec: str | None = None
    bits: float | None = None
    calibrated: bool = False

    @property
    def parameters(self) -> dict[str, float]:
        """Parameters of the codec."""
        return {} if self.bits is None else {"bits": self.bits}


CONFIGURATIONS = (
    Configuration("onnx-fp32"),
    Configuration("fp16", codec="fp16"),
    Configuration("onnx-int8", scheme="int8"),
    *(Configuration(f"uniform-{bits}", codec="uniform", bits=bits) for bits in (8, 6, 5, 4, 3, 2)),
    *(Configuration(f"ectcq-{bits:g}", codec="ectcq", bits=bits, calibrated=True) for bits in (3, 2, 1.75, 1.5, 1.3)),
)


def run_demo(data: DataSet, folder: Path, *, workers: Workers, watcher: Watcher, draw: Callable[[Curve, Path], None]) -> Curve:
    """Evaluate the bundled model in every configuration, and write points and plot to ``folder``.

    Artifacts and transcripts of an earlier run are reused.

    Args:
        data: The test set.
        folder: Output folder.
        workers: Where to transcribe.
        watcher: Receives the progress.
        draw: Draws the curve to a file, after every configuration.

    Raises:
        AsrDeployError: The folder contains something else, or a step failed.
    """
    if folder.exists() and any(folder.iterdir()) and not (folder / "anchor").is_dir():
        raise AsrDeployError(f"{folder} exists and is not the folder of a demo. Choose another folder with -o.")
    anchor = load_model("0")
    progress = watcher.configuration("anchor", "transcribing", len(data.utterances))
    # The folder is that of a demo, so evaluations of artifacts that are not up to date any more are replaced.
    measured = evaluate(open_transcriber("0"), data, folder / "anchor" / "evaluation", workers=workers, replace=True, progress=progress)
    points: list[Point] = []
    for configuration in CONFIGURATIONS:
        point = _run(configuration, anchor, measured, data, folder / configuration.name, workers, watcher)
        points.append(point)
        curve = make_curve(anchor.case, measured, folder / "anchor" / "evaluation", points)
        # After every point, so that an interrupted run leaves a curve.
        write_curve(curve, folder)
        draw(curve, folder / "curve.png")
    return curve


def _run(
    configuration: Configuration, anchor: AnchorModel, measured: Evaluation, data: DataSet, folder: Path, workers: Workers, watcher: Watcher
) -> Point:
    artifact = _earlier_artifact(configuration, anchor, folder)
    if artifact is None:
        watcher.configuration(configuration.name, "compressing and exporting", len(data.utterances))
        artifact = _make_artifact(configuration, anchor, folder)
    progress = watcher.configuration(configuration.name, "transcribing", len(data.utterances))
    transcriber = open_transcriber(str(artifact.folder))
    evaluation = evaluate(transcriber, data, folder / "evaluation", workers=workers, replace=True, progress=progress)
    sent = "bitstream" if configuration.codec else "artifact"
    method = f"{configuration.codec}{', calibrated' if configuration.calibrated else ''}" if configuration.codec else "artifact"
    return make_point(configuration.name, sent, evaluation, folder / "evaluation", anchor.case, measured.wer, method)


def _make_artifact(configuration: Configuration, anchor: AnchorModel, folder: Path) -> Artifact:
    model = anchor
    if configuration.codec:
        bitstream = folder / BITSTREAM
        calibration = calibration_of(anchor, "digits", "dev-clean", cache=folder.parent) if configuration.calibrated else None
        compress(anchor, configuration.codec, configuration.parameters, bitstream, calibration=calibration)
        # The receiver has only the bitstream.
        model = decompress(bitstream)
    return export_model(model, folder / ARTIFACT, quant=configuration.scheme, replace=True).artifact


def _earlier_artifact(configuration: Configuration, anchor: AnchorModel, folder: Path) -> Artifact | None:
    try:
        artifact = open_artifact(folder / ARTIFACT)
        codec = _earlier_codec(configuration, folder / BITSTREAM) if configuration.codec else None
    except AsrDeployError:
        return None
    manifest = artifact.manifest
    found = (manifest.scheme, manifest.codec, manifest.weights, manifest.versions, bool(manifest.tuned_on))
    wanted = (configuration.scheme, codec, anchor.weights, package_versions(), configuration.calibrated)
    return artifact if found == wanted else None


def _earlier_codec(configuration: Configuration, bitstream: Path) -> str:
    """Return the codec of an earlier bitstream as its manifest names it. Raise AsrDeployError if codec or parameters differ."""
    header = read_header(bitstream)
    made: Any = make_codec(str(configuration.codec), **configuration.parameters)
    settings = dict(header.parameters)
    settings.pop("calibration", None)
    calibrated = bool(header.tuned_on)  # older calibrated bitstreams do not name the utterances and are replaced
    if (header.codec, settings, calibrated) != (configuration.codec, asdict(made), configuration.calibrated):
        raise AsrDeployError(f"{bitstream} was made with other settings.")
    return header.configuration
