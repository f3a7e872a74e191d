"""Sweeps described in a TOML file: several methods on one test case, searched or at rates chosen by hand."""

import math
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from device_runner.errors import AsrDeployError, first_problem
from toolchain.compression.external import NAME as EXTERNAL
from toolchain.scenario.rates import PLACEHOLDER, RATES, Rate

Finite = Annotated[float, Field(allow_inf_nan=False)]
SIGNIFICANT = 3  # digits of the smallest value of a search, one more behind them


class Method(BaseModel):
    """One codec with what is fixed of it.

    Args:
        codec: name of the codec.
        calibrate: it may know the inputs of dev-clean.
        set: fixed parameters.
        rates: values of the parameter that sweeps move; none: they are searched.
        vary: this parameter, of a codec that sweeps do not know.
        span: its value for the fewest bits and for the most, between which they are searched.
        whole: its values are whole numbers.
        decoder: the command of an external encoder's decoder.
        name: what tables and plots call the method; None: the codec with what is fixed.
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
        """What no point differs in."""
        return {key: value for key, value in self.set.items() if self.codec != EXTERNAL or key != "encoder"}


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
        raise AsrDeployError(f"{source}: {first_problem(error)}.") from error


def moved(method: Method) -> Rate | None:
    """Return what a sweep moves of a method, from its least bits to its most; None where the sweep knows it by the codec's name.

    Raises:
        AsrDeployError: what the method says of it is too little, too much, or contradicts itself.
    """
    codec, values = method.codec, method.rates or method.span or ()
    given = [name for name in ("vary", "span", "whole", "decoder") if getattr(method, name)]
    if codec in RATES:
        if given:
            raise AsrDeployError(f"{codec}: sweeps know how to move its {RATES[codec].parameter}; leave {', '.join(given)} out.")
        return None
    template = _encoder(method) if codec == EXTERNAL else ""
    if not template and method.decoder is not None:
        raise AsrDeployError(f"{codec}: only the codec {EXTERNAL} has a decoder's command; leave decoder out.")
    if not template and method.vary is None:
        return None
    if bool(method.rates) == (method.span is not None):
        raise AsrDeployError(f"{codec}: give either span = [LOW, HIGH], the values for the fewest bits and for the most, or rates.")
    odd = next((value for value in values if method.whole and not value.is_integer()), None)
    if odd is not None:
        raise AsrDeployError(f"{codec}: {odd:g} is not whole; change it, or leave whole out.")
    rate = Rate(method.vary or "encoder", min(values), max(values), method.whole, digits=12, template=template)
    return rate if method.span is None else _searched(codec, rate, *method.span)


def _encoder(method: Method) -> str:
    """Return the command of a method's external encoder with the placeholder in it."""
    encoder = method.set.get("encoder")
    if not isinstance(encoder, str):
        raise AsrDeployError(
            f'{EXTERNAL}: the encoder is missing: set = {{ encoder = "PROGRAM --qp {PLACEHOLDER} {{input}} {{output}}" }}.'
        )
    if PLACEHOLDER not in encoder:
        raise AsrDeployError(f"{EXTERNAL}: the encoder's command “{encoder}” needs {PLACEHOLDER} in it, where the values are put.")
    if method.vary is not None:
        raise AsrDeployError(f"{EXTERNAL}: what is moved is {PLACEHOLDER} in the encoder's command; leave vary out.")
    if method.decoder is None:
        raise AsrDeployError(f'{EXTERNAL}: the decoder is missing: decoder = "PROGRAM {{input}} {{output}}".')
    if PLACEHOLDER in method.decoder:
        raise AsrDeployError(f"{EXTERNAL}: a decoder knows the bitstream alone; take {PLACEHOLDER} out of its command.")
    if method.calibrate:
        raise AsrDeployError(f"{EXTERNAL}: an external encoder takes the weights alone; leave calibrate out.")
    return encoder


def _searched(codec: str, rate: Rate, low: float, high: float) -> Rate:
    """Return how values are searched from ``low``, the fewest bits, to ``high``."""
    if low == high:
        raise AsrDeployError(f"{codec}: span = [{low:g}, {high:g}] leaves nothing to search; give two values, or rates.")
    smallest = min(abs(each) for each in (low, high) if each)
    rate = replace(rate, digits=max(0, SIGNIFICANT - math.floor(math.log10(smallest))))
    if low > high > 0 and not rate.whole:
        # A quantiser's step: its bits grow with its reciprocal.
        rate = replace(rate, product=low)
    elif not 0 < low < high:
        sign = 1 if low < high else -1
        rate = replace(rate, sign=sign, offset=low - sign)
    return replace(rate, low=rate.rate_of(low), high=rate.rate_of(high))
