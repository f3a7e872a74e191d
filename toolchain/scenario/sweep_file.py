"""Sweep files (TOML): several methods on one test case, with searched or given rates."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from device_runner.documents import read_toml
from device_runner.errors import AsrDeployError, first_problem
from device_runner.home import NameOrPath
from toolchain.compression.external import NAME as EXTERNAL
from toolchain.scenario.rates import PLACEHOLDER, RATES, Rate

Finite = Annotated[float, Field(allow_inf_nan=False)]
SIGNIFICANT = 3  # significant digits of the smallest value of a search, plus one


class Method(BaseModel):
    """A codec with its fixed parameters, as a sweep file describes it.

    Args:
        codec: Name of the codec.
        calibrate: Calibrate the codec on dev-clean.
        set: Fixed parameters.
        rates: Values of the varied parameter (default: searched).
        vary: Parameter to vary, for codecs without a known one.
        span: Values of the varied parameter with the fewest and the most bits, between which the sweep searches.
        whole: The values are whole numbers.
        decoder: Decoder command of an external encoder.
        name: Name in tables and plots (default: the codec with its fixed parameters).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    codec: str
    calibrate: bool = False
    set: dict[str, bool | int | float | str] = Field(default_factory=dict)
    rates: tuple[Finite, ...] = ()
    vary: str | None = None
    span: tuple[Finite, Finite] | None = None
    whole: bool = False
    decoder: str | None = None
    name: Annotated[str, Field(pattern=r"^[^\W_][^,]{0,19}$")] | None = None

    @property
    def fixed(self) -> dict[str, bool | int | float | str]:
        """Parameters that are the same for all points."""
        return {key: value for key, value in self.set.items() if self.codec != EXTERNAL or key != "encoder"}


class SweepFile(BaseModel):
    """The file that ``asrdeploy sweep --config`` reads. Defaults are those of the command line."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    testcase: int | NameOrPath = 0
    weights: NameOrPath | None = None
    data: NameOrPath = "digits"
    limit: Annotated[int, Field(gt=0)] | None = None
    skip_bad: bool = False
    threads: Annotated[int, Field(gt=0)] = 1
    method: Annotated[tuple[Method, ...], Field(min_length=1)]


def read_sweep_file(path: Path) -> SweepFile:
    """Read a sweep file.

    Raises:
        AsrDeployError: The file does not exist, is not TOML, or contains an unknown key or value.
    """
    if not path.exists():
        raise AsrDeployError(f"{path} does not exist. See docs/codecs.md for an example of a sweep file.")
    return describe(str(path), read_toml(path, "sweep file"))


def describe(source: str, described: dict[str, Any]) -> SweepFile:
    """Return the sweep file of plain values.

    Args:
        source: Origin of the values, for error messages.
        described: The values.

    Raises:
        AsrDeployError: A key is unknown, or a value is out of range.
    """
    try:
        return SweepFile.model_validate(described)
    except ValidationError as error:
        raise AsrDeployError(f"{source}: {first_problem(error)}.") from error


def moved(method: Method) -> Rate | None:
    """Return the parameter that a sweep varies for a method; None if ``RATES`` defines it for the codec.

    Raises:
        AsrDeployError: A key is missing, superfluous, or contradicts another one.
    """
    codec, values = method.codec, method.rates or method.span or ()
    given = [name for name in ("vary", "span", "whole", "decoder") if getattr(method, name)]
    if codec in RATES:
        if given:
            raise AsrDeployError(
                f"{codec}: sweeps vary its parameter {RATES[codec].parameter} by themselves. Leave {', '.join(given)} out."
            )
        return None
    template = _encoder(method) if codec == EXTERNAL else ""
    if not template and method.decoder is not None:
        raise AsrDeployError(f"{codec}: only the codec {EXTERNAL} has a decoder command. Leave decoder out.")
    if not template and method.vary is None:
        return None
    if bool(method.rates) == (method.span is not None):
        raise AsrDeployError(f"{codec}: give either span = [A, B], the values with the fewest and the most bits, or rates.")
    odd = next((value for value in values if method.whole and not value.is_integer()), None)
    if odd is not None:
        raise AsrDeployError(f"{codec}: {odd:g} is not a whole number. Change it, or leave whole out.")
    rate = Rate(method.vary or "encoder", min(values), max(values), method.whole, digits=12, template=template)
    return rate if method.span is None else _searched(codec, rate, *method.span)


def _encoder(method: Method) -> str:
    """Return the command of the external encoder, with the placeholder for the rate."""
    encoder = method.set.get("encoder")
    if not isinstance(encoder, str):
        raise AsrDeployError(
            f'{EXTERNAL}: the encoder is missing. Add set = {{ encoder = "PROGRAM --qp {PLACEHOLDER} {{input}} {{output}}" }}.'
        )
    if PLACEHOLDER not in encoder:
        raise AsrDeployError(f"{EXTERNAL}: the encoder command “{encoder}” needs {PLACEHOLDER} where the varied value belongs.")
    if method.vary is not None:
        raise AsrDeployError(f"{EXTERNAL}: the sweep varies {PLACEHOLDER} in the encoder command. Leave vary out.")
    if method.decoder is None:
        raise AsrDeployError(f'{EXTERNAL}: the decoder is missing. Add decoder = "PROGRAM {{input}} {{output}}".')
    if PLACEHOLDER in method.decoder:
        raise AsrDeployError(f"{EXTERNAL}: the decoder does not get the rate. Remove {PLACEHOLDER} from its command.")
    if method.calibrate:
        raise AsrDeployError(f"{EXTERNAL}: an external encoder cannot be calibrated. Leave calibrate out.")
    return encoder


def _searched(codec: str, rate: Rate, low: float, high: float) -> Rate:
    """Return the rate for a search from ``low``, the value with the fewest bits, to ``high``."""
    if low == high:
        raise AsrDeployError(f"{codec}: span = [{low:g}, {high:g}] leaves nothing to search. Give two different values, or rates.")
    smallest = min(abs(each) for each in (low, high) if each)
    rate = replace(rate, digits=max(0, SIGNIFICANT - math.floor(math.log10(smallest))))
    if low > high > 0 and not rate.whole:
        # The step of a quantiser: bits grow with its reciprocal.
        rate = replace(rate, product=low)
    elif not 0 < low < high:
        sign = 1 if low < high else -1
        rate = replace(rate, sign=sign, offset=low - sign)
    return replace(rate, low=rate.rate_of(low), high=rate.rate_of(high))
