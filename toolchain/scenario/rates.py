"""The codec parameters that sweeps vary."""

from dataclasses import dataclass

PLACEHOLDER = "{rate}"  # in the command of an external encoder


@dataclass(frozen=True)
class Rate:
    """The codec parameter that a sweep varies. The rate is positive and grows with the bits; it determines the parameter's value.

    Args:
        parameter: Name of the parameter.
        low: Rate with the fewest bits.
        high: Rate with the most bits.
        whole: The value is a whole number.
        sign: Factor in value = sign x rate + offset.
        offset: Summand in value = sign x rate + offset.
        product: If not 0, value = product / rate instead.
        digits: Number of decimals of the value.
        template: Text in which the value replaces ``{rate}``; empty if the value itself is the parameter.
    """

    parameter: str
    low: float
    high: float
    whole: bool = False
    sign: int = 1
    offset: float = 0
    product: float = 0
    digits: int = 3
    template: str = ""

    def value_of(self, rate: float) -> float:
        """Return the value of a rate, rounded as the codec needs it."""
        value = self.product / rate if self.product else self.sign * rate + self.offset
        return round(value) if self.whole else round(value, self.digits)

    def rate_of(self, value: float) -> float:
        """Return the rate of a value."""
        # Rounded, so that equal values give equal rates.
        return round(self.product / value if self.product else self.sign * (value - self.offset), 12)

    def rounded(self, rate: float) -> float:
        """Return the nearest rate with a valid value."""
        return self.rate_of(self.value_of(rate))

    def setting(self, value: float) -> float | str:
        """Return the setting of the codec's parameter for a value."""
        return self.template.replace(PLACEHOLDER, f"{value:.12g}") if self.template else value


RATES = {
    "ectcq": Rate("bits", 0.8, 6),
    "uniform": Rate("bits", 2, 8, whole=True),
    "palette": Rate("colours", 3, 64, whole=True),
    "lowrank": Rate("share", 0.05, 0.9),
    "prune": Rate("share", 0.02, 0.95, sign=-1, offset=1),  # the share is pruned; the rate is the rest
}
