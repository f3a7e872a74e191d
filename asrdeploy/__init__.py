"""Compress, export and evaluate speech recognition models on devices.

Example: from a model to its curve of size and word error rate.

    >>> import asrdeploy
    >>> model = asrdeploy.load_model("DIGITS_ASR_TINY")  # doctest: +SKIP
    >>> asrdeploy.compress(model, "ectcq", {"bits": 2}, "small.asrb")  # doctest: +SKIP
    >>> artifact = asrdeploy.export(asrdeploy.decompress("small.asrb"), "artifacts/small").artifact  # doctest: +SKIP
    >>> asrdeploy.evaluate(artifact, "digits", "results/small").wer  # doctest: +SKIP

Paths may begin with ``~/`` or ``~user/``, as texts and as ``pathlib.Path``.

Names are loaded when they are first used, so ``import asrdeploy`` imports neither torch nor a runtime. The command line calls these
functions. Stable imports for plug-ins are in ``asrdeploy.codecs``, ``asrdeploy.decoders`` and ``asrdeploy.schemes``.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from device_runner.artifact import Artifact as Artifact
    from device_runner.artifact import Manifest as Manifest
    from device_runner.artifact import open_artifact as open_artifact
    from device_runner.bitstream.format import Header as Header
    from device_runner.bitstream.format import check_bitstream as inspect_bitstream
    from device_runner.errors import AsrDeployError as AsrDeployError
    from device_runner.errors import DeviceFailed as DeviceFailed
    from device_runner.latency import LatencyResult as LatencyResult
    from device_runner.words import Word as Word
    from exporters.inspection import Inspection as Inspection
    from exporters.inspection import inspect_artifact as inspect_artifact
    from toolchain.accuracy.comparison import RunComparison as Comparison
    from toolchain.accuracy.comparison import compare_runs as compare
    from toolchain.accuracy.evaluation import evaluate as evaluate
    from toolchain.accuracy.scoring import Evaluation as Evaluation
    from toolchain.accuracy.transcriber import Transcriber as Transcriber
    from toolchain.accuracy.transcriber import open_transcriber as load
    from toolchain.accuracy.workers import LocalWorkers as LocalWorkers
    from toolchain.compression.bitstreams import calibration_of as calibrate
    from toolchain.compression.bitstreams import compress as compress
    from toolchain.compression.bitstreams import decompress as decompress
    from toolchain.compression.calibration import Calibration as Calibration
    from toolchain.data.datasets import open_data as open_data
    from toolchain.data.description import Description as Description
    from toolchain.data.description import describe_data as describe_data
    from toolchain.data.utterances import DataSet as DataSet
    from toolchain.data.utterances import Utterance as Utterance
    from toolchain.models.anchor_model import AnchorModel as AnchorModel
    from toolchain.models.custom.factories import CtcModel as CtcModel
    from toolchain.models.loading import load_model as load_model
    from toolchain.reports.plots import plot_curve as plot_curve
    from toolchain.scenario.exporting import Exported as Exported
    from toolchain.scenario.exporting import export_model as export
    from toolchain.scenario.latency import benchmark as benchmark
    from toolchain.scenario.points import Curve as Curve
    from toolchain.scenario.points import Point as Point
    from toolchain.scenario.points import curve_of_evaluations as make_curve
    from toolchain.scenario.sweeps import sweep as sweep

    __version__: str

__all__ = [
    "AnchorModel",
    "Artifact",
    "AsrDeployError",
    "Calibration",
    "Comparison",
    "CtcModel",
    "Curve",
    "DataSet",
    "Description",
    "DeviceFailed",
    "Evaluation",
    "Exported",
    "Header",
    "Inspection",
    "LatencyResult",
    "LocalWorkers",
    "Manifest",
    "Point",
    "Transcriber",
    "Utterance",
    "Word",
    "__version__",
    "benchmark",
    "calibrate",
    "compare",
    "compress",
    "decompress",
    "describe_data",
    "evaluate",
    "export",
    "inspect_artifact",
    "inspect_bitstream",
    "load",
    "load_model",
    "make_curve",
    "open_artifact",
    "open_data",
    "plot_curve",
    "sweep",
]
# Public name: the module that defines it, and its name there. The build rewrites the modules' names for the wheel; see setup.py.
_NAMES = {
    "AnchorModel": ("toolchain.models.anchor_model", "AnchorModel"),
    "Artifact": ("device_runner.artifact", "Artifact"),
    "AsrDeployError": ("device_runner.errors", "AsrDeployError"),
    "Calibration": ("toolchain.compression.calibration", "Calibration"),
    "Comparison": ("toolchain.accuracy.comparison", "RunComparison"),
    "CtcModel": ("toolchain.models.custom.factories", "CtcModel"),
    "Curve": ("toolchain.scenario.points", "Curve"),
    "DataSet": ("toolchain.data.utterances", "DataSet"),
    "Description": ("toolchain.data.description", "Description"),
    "DeviceFailed": ("device_runner.errors", "DeviceFailed"),
    "Evaluation": ("toolchain.accuracy.scoring", "Evaluation"),
    "Exported": ("toolchain.scenario.exporting", "Exported"),
    "Header": ("device_runner.bitstream.format", "Header"),
    "Inspection": ("exporters.inspection", "Inspection"),
    "LatencyResult": ("device_runner.latency", "LatencyResult"),
    "LocalWorkers": ("toolchain.accuracy.workers", "LocalWorkers"),
    "Manifest": ("device_runner.artifact", "Manifest"),
    "Point": ("toolchain.scenario.points", "Point"),
    "Transcriber": ("toolchain.accuracy.transcriber", "Transcriber"),
    "Utterance": ("toolchain.data.utterances", "Utterance"),
    "Word": ("device_runner.words", "Word"),
    "benchmark": ("toolchain.scenario.latency", "benchmark"),
    "calibrate": ("toolchain.compression.bitstreams", "calibration_of"),
    "compare": ("toolchain.accuracy.comparison", "compare_runs"),
    "compress": ("toolchain.compression.bitstreams", "compress"),
    "decompress": ("toolchain.compression.bitstreams", "decompress"),
    "describe_data": ("toolchain.data.description", "describe_data"),
    "evaluate": ("toolchain.accuracy.evaluation", "evaluate"),
    "export": ("toolchain.scenario.exporting", "export_model"),
    "inspect_artifact": ("exporters.inspection", "inspect_artifact"),
    "inspect_bitstream": ("device_runner.bitstream.format", "check_bitstream"),
    "load": ("toolchain.accuracy.transcriber", "open_transcriber"),
    "load_model": ("toolchain.models.loading", "load_model"),
    "make_curve": ("toolchain.scenario.points", "curve_of_evaluations"),
    "open_artifact": ("device_runner.artifact", "open_artifact"),
    "open_data": ("toolchain.data.datasets", "open_data"),
    "plot_curve": ("toolchain.reports.plots", "plot_curve"),
    "sweep": ("toolchain.scenario.sweeps", "sweep"),
}


def __getattr__(name: str) -> Any:
    """Load a public name (PEP 562)."""
    if name == "__version__":
        from importlib.metadata import version

        value: Any = version("asrdeploy")
    elif name in _NAMES:
        module, attribute = _NAMES[name]
        try:
            value = getattr(import_module(module), attribute)
            if not isinstance(value, type):  # a function
                from device_runner.home import finds_home

                value = finds_home(value)
        except ModuleNotFoundError as error:
            from device_runner.errors import AsrDeployError
            from toolchain.extras import lacking

            sentence = lacking(error)  # of an extra that is not installed; anything else is a defect
            raise error if sentence is None else AsrDeployError(sentence) from error
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """Return the public names, loaded or not."""
    return sorted({*globals(), *__all__})
