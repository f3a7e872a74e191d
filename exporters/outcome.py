"""What an exporter says of the file that it made; it goes into the manifest."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class ExportOutcome:
    """What an export made.

    Args:
        quantised: weights by what was done to them.
        planned_bytes: memory that the runtime plans for activations of the longest input (XNNPACK's own workspace comes on top).
        delegated: operators in a delegate, by number.
        portable: operators left to portable kernels, by number.
        weight_names: the file's keys of constants to the names of weights, where the file has no names.
    """

    quantised: dict[str, int]
    planned_bytes: int | None = None
    delegated: dict[str, int] = field(default_factory=dict)
    portable: dict[str, int] = field(default_factory=dict)
    weight_names: dict[str, str] = field(default_factory=dict)
