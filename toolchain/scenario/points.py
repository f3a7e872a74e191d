"""Points (cSize, WER), the curve of a test case, and their files, from which tables and plots are made."""

import csv
import io
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from device_runner.documents import read_json
from device_runner.errors import AsrDeployError
from device_runner.files import shown, write_record, write_text
from toolchain.accuracy.scoring import Evaluation, read_evaluation
from toolchain.models.test_cases import TestCase

if TYPE_CHECKING:
    from toolchain.models.anchor_model import AnchorModel  # imports torch

FEWEST_IN_RANGE = 5


class Point(BaseModel):
    """Result of one test configuration. WER and cSize are fractions."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    configuration: str
    size_bits: Annotated[int, Field(gt=0)]
    c_size: Annotated[float, Field(gt=0)]
    wer: Annotated[float, Field(ge=0)]
    wer_low: Annotated[float, Field(ge=0)]
    wer_high: Annotated[float, Field(ge=0)]
    cer: float | None = Field(default=None, description="corpus CER; null in files of earlier versions")
    in_range: bool = Field(description="whether the WER lies in the test case's range above the anchor's")
    bits_per_parameter: float
    artifact_bytes: int | None
    real_time_factor: float
    sent: str = Field(description="what is transmitted to the UE: artifact or bitstream")
    method: str = Field(description="name of the points on one line: a codec and its fixed parameters")
    above_anchor: float = Field(description="WER minus the anchor's WER")
    relative: float | None = Field(description="above_anchor divided by the anchor's WER; null if that is 0")
    evaluation: Path = Field(description="folder of transcripts and result; in files relative to the file")


class Curve(BaseModel):
    """All points of a test case, and its anchor."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    version: Literal[2] = 2
    test_case: str
    data: str
    split: str
    anchor_size_bits: Annotated[int, Field(gt=0)]
    anchor_wer: Annotated[float, Field(ge=0)]
    anchor_wer_interval: tuple[float, float]
    anchor_evaluation: Path = Field(description="folder of the anchor's transcripts; in files relative to the file")
    wer_range: Annotated[float, Field(ge=0)]
    points: Annotated[tuple[Point, ...], Field(fail_fast=True)]
    main: Literal["wer", "cer"] = Field(default="wer", description="main figure of the evaluations; the curve is of WER in any case")
    left_out: int = Field(default=0, description="recordings of the split that could not be transcribed and were left out")
    machine: dict[str, Any]

    @property
    def in_range(self) -> tuple[Point, ...]:
        """Points in the WER range of the test case."""
        return tuple(point for point in self.points if point.in_range)

    @property
    def complete(self) -> bool:
        """Whether at least five points lie in the WER range, as the scenario requires."""
        return len(self.in_range) >= FEWEST_IN_RANGE


def make_point(
    configuration: str, sent: str, evaluation: Evaluation, folder: Path, case: TestCase, anchor_wer: float, method: str
) -> Point:
    """Make the point of an evaluated test configuration.

    Args:
        configuration: Name of the configuration.
        sent: What is transmitted: ``artifact`` or ``bitstream``.
        evaluation: Result of the evaluation.
        folder: Folder of the evaluation.
        case: Test case.
        anchor_wer: WER of the anchor, as a fraction.
        method: Codec with its fixed parameters.
    """
    above = evaluation.wer - anchor_wer
    return Point(
        configuration=configuration,
        size_bits=evaluation.size_bits,
        c_size=evaluation.size_bits / case.anchor.size_bits,
        wer=evaluation.wer,
        wer_low=evaluation.wer_interval[0],
        wer_high=evaluation.wer_interval[1],
        cer=evaluation.cer,
        in_range=case.in_range(evaluation.wer, anchor_wer),
        bits_per_parameter=evaluation.size_bits / case.anchor.num_param,
        artifact_bytes=evaluation.artifact_bytes,
        real_time_factor=evaluation.real_time_factor,
        sent=sent,
        method=method,
        above_anchor=above,
        relative=above / anchor_wer if anchor_wer else None,
        evaluation=folder,
    )


def make_curve(case: TestCase, anchor: Evaluation, folder: Path, points: Sequence[Point]) -> Curve:
    """Make the curve of a test case from its points and the evaluation of its anchor in ``folder``."""
    return Curve(
        test_case=case.name,
        data=anchor.data,
        split=anchor.split,
        anchor_size_bits=case.anchor.size_bits,
        anchor_wer=anchor.wer,
        anchor_wer_interval=anchor.wer_interval,
        anchor_evaluation=folder,
        wer_range=case.wer_range,
        points=tuple(points),
        main=anchor.main,
        left_out=len(anchor.left_out),
        machine=anchor.machine,
    )


def curve_of_evaluations(
    model: "TestCase | AnchorModel", anchor: str | Path, folders: str | Path | Sequence[str | Path], *, method: str = "method"
) -> Curve:
    """Make a curve from finished evaluations.

    Example:
        >>> curve = asrdeploy.make_curve(model, "results/anchor", ["results/2", "results/3"])  # doctest: +SKIP
        >>> asrdeploy.plot_curve(curve, "curve.png")  # doctest: +SKIP

    Args:
        model: The anchor, or its test case.
        anchor: Output folder of the anchor's evaluation.
        folders: Output folders of the test configurations' evaluations, on the same utterances. Their names label the points.
        method: Name of the method in plots.

    Raises:
        AsrDeployError: A folder has no finished evaluation, or one of another model or test set.
    """
    case = model if isinstance(model, TestCase) else model.case
    reference, _ = read_evaluation(Path(anchor))
    points = []
    for folder in map(Path, [folders] if isinstance(folders, str | Path) else folders):
        result, _ = read_evaluation(folder)
        for what in ("model", "data", "split", "utterances"):
            if getattr(result, what) != getattr(reference, what):
                raise AsrDeployError(
                    f"{folder} and {anchor} differ in {what}: {getattr(result, what)} and {getattr(reference, what)}. "
                    "A curve needs evaluations of the same model on the same utterances."
                )
        sent = "artifact" if result.artifact_bytes is not None and result.size_bits == 8 * result.artifact_bytes else "bitstream"
        points.append(make_point(shown(folder.name), sent, result, folder, case, reference.wer, method))
    return make_curve(case, reference, Path(anchor), points)


def pareto(points: Sequence[Point]) -> list[Point]:
    """Return the Pareto front, smallest point first: every point has a lower WER than all smaller points."""
    front: list[Point] = []
    for point in sorted(points, key=lambda each: (each.size_bits, each.wer)):
        if not front or point.wer < front[-1].wer:
            front.append(point)
    return front


def write_curve(curve: Curve, folder: Path) -> None:
    """Write ``points.json`` and ``points.csv`` to a folder."""
    placed = _placed(curve, lambda path: Path(os.path.relpath(path, folder)))
    write_record(folder / "points.json", placed)
    table = io.StringIO()
    writer = csv.DictWriter(table, list(Point.model_fields), lineterminator="\n")
    writer.writeheader()
    writer.writerows(point.model_dump() for point in placed.points)
    write_text(folder / "points.csv", table.getvalue())


def read_curve(folder: Path) -> Curve:
    """Read the ``points.json`` of a sweep or a demo.

    Raises:
        AsrDeployError: The file does not exist, or is not a curve of this version.
    """
    path = folder / "points.json"
    if not path.is_file():
        raise AsrDeployError(f"{folder} has no points.json. Give the output folder of `asrdeploy sweep` or `asrdeploy demo`.")
    try:
        curve = Curve.model_validate(read_json(path, "curve"))
    except ValidationError as error:
        raise AsrDeployError(f"{path} is not a curve of this version of asrdeploy. Repeat the sweep.") from error
    return _placed(curve, lambda relative: folder / relative)


def methods_in(folder: Path) -> set[str]:
    """Return the names of the methods in the ``points.json`` of a folder, of whatever version; none if there is no such file."""
    try:
        return {str(point["method"]) for point in json.loads((folder / "points.json").read_bytes())["points"]}
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return set()


def _placed(curve: Curve, place: Callable[[Path], Path]) -> Curve:
    """Return a curve with ``place`` applied to the folders of its evaluations."""
    points = tuple(point.model_copy(update={"evaluation": place(point.evaluation)}) for point in curve.points)
    return curve.model_copy(update={"points": points, "anchor_evaluation": place(curve.anchor_evaluation)})
