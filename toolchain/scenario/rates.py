"""What a sweep moves of a codec."""

from dataclasses import dataclass

PLACEHOLDER = "{rate}"  # in an external encoder's command


@dataclass(frozen=True)
class Rate:
    """The parameter of a codec that a sweep moves. The rate is positive and grows with the bits; the parameter's value follows from it.

    Args:
        parameter: its name.
        low: rate of the fewest bits.
        high: of the most.
        whole: the value is a whole number.
        sign: the value is the rate times it, plus ``offset``.
        offset: see there.
        product: the value is this over the rate instead; 0: it is not.
        digits: of the value, behind the point.
        template: the value stands in this text in the place of ``{rate}``; empty: it is the parameter itself.
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
        """Return the value at a rate, as exactly as the codec takes it."""
        value = self.product / rate if self.product else self.sign * rate + self.offset
        return round(value) if self.whole else round(value, self.digits)

    def rate_of(self, value: float) -> float:
        """Return the rate of a value."""
        # Rounded, so that a value has one rate however it was come to.
        return round(self.product / value if self.product else self.sign * (value - self.offset), 12)

    def rounded(self, rate: float) -> float:
        """Return the nearest rate whose value the codec takes."""
        return self.rate_of(self.value_of(rate))

    def setting(self, value: float) -> float | str:
        """Return what the codec's parameter is set to."""
        return self.template.replace(PLACEHOLDER, f"{value:.12g}") if self.template else value


RATES = {
    "ectcq": Rate("bits", 0.8, 6),
    "uniform": Rate("bits", 2, 8, whole=True),
    "palette": Rate("colours", 3, 64, whole=True),
    "lowrank": Rate("share", 0.05, 0.9),
    "prune": Rate("share", 0.02, 0.95, sign=-1, offset=1),  # the share is lost; the rate is the rest
}
