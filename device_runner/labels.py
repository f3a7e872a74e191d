"""Greedy CTC label selector of the scenario (3GPP TR 26.847, Figure 2.3-2)."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

BLANK = 0
WORD_SEPARATOR = "|"


def select_labels(logits: npt.NDArray[np.floating], labels: Sequence[str]) -> str:
    """Convert logits into text.

    Take the arg max of every frame, merge runs of the same label, remove blanks (label 0) and replace ``|`` by a space.

    Args:
        logits: Logits ``[frames, labels]``.
        labels: Text of each label.

    Raises:
        ValueError: If the width of the logits is not the number of labels.
    """
    if logits.ndim != 2 or logits.shape[1] != len(labels):
        raise ValueError(f"logits of shape {logits.shape} do not fit {len(labels)} labels")
    best = logits.argmax(axis=1)
    # numpy has no unique_consecutive: keep a label if it differs from that of the frame before.
    starts = np.ones(len(best), dtype=bool)
    starts[1:] = best[1:] != best[:-1]
    text = "".join(labels[index] for index in best[starts] if index != BLANK)
    return text.replace(WORD_SEPARATOR, " ")
