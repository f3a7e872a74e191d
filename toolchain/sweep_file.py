"""Sweeps described in a TOML file: several methods on one test case, searched or at rates chosen by hand."""

import tomllib
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from device_runner.errors import AsrDeployError


class Method(BaseModel):
    """One codec with what is fixed of it.

    Args:
        codec: name of the codec.
        calibrate: it may know the inputs of dev-clean.
        set: fixed parameters.
        rates: values of the parameter that sweeps move; none: they are searched.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    codec: str
    calibrate: bool = False
    set: dict[str, bool | int | float | str] = Field(default_factory=dict)
    rates: tuple[Annotated[float, Field(gt=0)], ...] = ()


class SweepFile(BaseModel):
    """What `asrdeploy sweep --config` reads; what is left out is as on the command line."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    testcase: int | str = 0
    weights: str | None = None
    data: str = "digits"
    limit: Annotated[int, Field(gt=0)] | None = None
    threads: Annotated[int, Field(gt=0)] = 1
    method: Annotated[tuple[Method, ...], Field(min_length=1)]


def read_sweep_file(path: Path) -> SweepFile:
    """Read a description of sweeps.

    Raises:
        AsrDeployError: no such file, no TOML, or something unknown in it.
    """
    try:
        return describe(str(path), tomllib.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError as error:
        raise AsrDeployError(f"{path} does not exist; docs/codecs.md shows what a file of sweeps looks like.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise AsrDeployError(f"{path} is not TOML: {str(error).rstrip('.')}.") from error


def describe(source: str, described: dict[str, Any]) -> SweepFile:
    """Return sweeps from plain values; ``source`` is where they come from, for messages.

    Raises:
        AsrDeployError: something unknown or out of range.
    """
    try:
        return SweepFile.model_validate(described)
    except ValidationError as error:
        first = error.errors()[0]
        raise AsrDeployError(f"{source}: {'.'.join(map(str, first['loc']))}: {first['msg'].rstrip('.')}.") from error
