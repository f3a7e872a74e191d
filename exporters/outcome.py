"""Facts about an exported file, for its manifest."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class ExportOutcome:
    """Result of an export.

    Args:
        quantised: Number of weights by kind of quantisation.
        planned_bytes: Memory in bytes that the runtime plans for activations of the longest input, without XNNPACK's own workspace.
        delegated: Number of operators in a delegate, by name.
        portable: Number of operators left to portable kernels, by name.
        weight_names: Names of weights by the keys of constants, for files that store no names.
    """

    quantised: dict[str, int]
    planned_bytes: int | None = None
    delegated: dict[str, int] = field(default_factory=dict)
    portable: dict[str, int] = field(default_factory=dict)
    weight_names: dict[str, str] = field(default_factory=dict)
