"""Points (cSize, wer) and the curve that a test case's points make; the files that tables and plots are drawn from."""

import csv
import io
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from device_runner.errors import AsrDeployError
from device_runner.files import write_record, write_text
from toolchain.accuracy.scoring import Evaluation
from toolchain.models.test_cases import TestCase

FEWEST_IN_RANGE = 5


class Point(BaseModel):
    """One test configuration's outcome. Word error rates and cSize as fractions."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    configuration: str
    size_bits: Annotated[int, Field(gt=0)]
    c_size: Annotated[float, Field(gt=0)]
    wer: Annotated[float, Field(ge=0)]
    wer_low: Annotated[float, Field(ge=0)]
    wer_high: Annotated[float, Field(ge=0)]
    in_range: bool = Field(description="the word error rate lies between the anchor's and the range above it")
    bits_per_parameter: float
    artifact_bytes: int | None
    real_time_factor: float
    sent: str = Field(description="what reaches the UE: the artifact, or a codec's bitstream")
    method: str = Field(description="what the points of one line have in common: a codec and what is fixed of it")
    above_anchor: float = Field(description="absolute distance to the anchor's word error rate")
    relative: float | None = Field(description="the same over the anchor's word error rate; None where that is 0")
    evaluation: Path = Field(description="folder of transcripts and result; in files relative to theirs")


class Curve(BaseModel):
    """The points of a test case, with the anchor that they are compared with."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    version: Literal[2] = 2
    test_case: str
    data: str
    split: str
    anchor_size_bits: Annotated[int, Field(gt=0)]
    anchor_wer: Annotated[float, Field(ge=0)]
    anchor_wer_interval: tuple[float, float]
    anchor_evaluation: Path = Field(description="folder of the anchor's transcripts; in files relative to theirs")
    wer_range: Annotated[float, Field(ge=0)]
    points: tuple[Point, ...]
    machine: dict[str, Any]

    @property
    def in_range(self) -> tuple[Point, ...]:
        """The points whose word error rate lies in the test case's range."""
        return tuple(point for point in self.points if point.in_range)

    @property
    def complete(self) -> bool:
        """Whether the scenario's five points lie in the range."""
        return len(self.in_range) >= FEWEST_IN_RANGE


def make_point(
    configuration: str, sent: str, evaluation: Evaluation, folder: Path, case: TestCase, anchor_wer: float, method: str
) -> Point:
    """Make the point of a test configuration that was evaluated into ``folder``."""
    above = evaluation.wer - anchor_wer
    return Point(
        configuration=configuration,
        size_bits=evaluation.size_bits,
        c_size=evaluation.size_bits / case.anchor.size_bits,
        wer=evaluation.wer,
        wer_low=evaluation.wer_interval[0],
        wer_high=evaluation.wer_interval[1],
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
    """Make the curve of a test case from its points and the evaluation of its anchor into ``folder``."""
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
        machine=anchor.machine,
    )


def pareto(points: Sequence[Point]) -> list[Point]:
    """Return the points that no smaller one is as good as, smallest first: word error rates fall along it."""
    front: list[Point] = []
    for point in sorted(points, key=lambda each: (each.size_bits, each.wer)):
        if not front or point.wer < front[-1].wer:
            front.append(point)
    return front


def write_curve(curve: Curve, folder: Path) -> None:
    """Write ``points.json`` and ``points.csv`` into a folder."""
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
        AsrDeployError: there is none, or it is something else.
    """
    path = folder / "points.json"
    if not path.is_file():
        raise AsrDeployError(f"{folder} has no points.json; `asrdeploy sweep` and `asrdeploy demo` write one.")
    try:
        curve = Curve.model_validate(json.loads(path.read_text(encoding="utf-8")))
    except (ValidationError, ValueError, RecursionError) as error:
        raise AsrDeployError(f"{path} is not a curve of this version: run the sweep again.") from error
    return _placed(curve, lambda relative: folder / relative)


def _placed(curve: Curve, place: Callable[[Path], Path]) -> Curve:
    """Return a curve with other folders of evaluations."""
    points = tuple(point.model_copy(update={"evaluation": place(point.evaluation)}) for point in curve.points)
    return curve.model_copy(update={"points": points, "anchor_evaluation": place(curve.anchor_evaluation)})
