"""Outputs of a network that have no label: those to which trainers pad a head, and those of fairseq's dictionary."""

from collections.abc import Collection, Sequence

from torch import Tensor

from device_runner.errors import AsrDeployError, say_once
from toolchain.models.test_cases import UNUSED_ROWS

PADDED_TO = (8, 16, 32, 64, 128, 256, 512, 1024)  # multiples to which trainers pad the outputs, for speed
EXAMPLES = 4  # indices in a message


def rows_by_order(head: Tensor, labels: Sequence[str], blank: int, unused: Collection[int], source: str) -> Sequence[int]:
    """Return the output of each label, for labels that come in their order but without indices.

    Args:
        head: Weight of the head ``[outputs, features]``.
        labels: Labels in the order of the outputs.
        blank: Index of the blank in ``labels``.
        unused: Indices of the outputs that the user says have no label.
        source: Origin of the weights, for messages.

    Raises:
        AsrDeployError: If there are more labels than outputs, or it is in doubt which outputs have no label.
    """
    outputs, count = len(head), len(labels)
    why = f"{source} has {outputs} outputs, but {count} labels"
    if unused:
        rows = [index for index in range(outputs) if index not in unused]
        if len(rows) != count or max(unused) >= outputs:
            raise AsrDeployError(f"{why} and unused_outputs {ranges(sorted(unused))}. Give one label for each of the other outputs.")
        return rows
    if count > outputs:
        raise AsrDeployError(f"{why}. Give one label for each output.")
    padding = range(count, outputs)
    found: Sequence[int] | None
    if len(padding) == len(UNUSED_ROWS) and blank == 0:
        found = padding_or_dictionary(head)
    else:
        found = padding if any(outputs == -(-count // multiple) * multiple for multiple in PADDED_TO) or _alike(head, padding) else None
    if found is None and padding:
        example = ", ".join(map(str, padding[:EXAMPLES]))
        raise AsrDeployError(
            f"{why}. Give one label for each output, or list the outputs without a label, such as unused_outputs = [{example}]."
        )
    return [index for index in range(outputs) if index not in (found or ())]


def padding_or_dictionary(head: Tensor) -> Sequence[int] | None:
    """Return which three outputs have no label: those that pad the head at its end, or those of fairseq's dictionary after the blank.

    Rows that pad a head are often copies of one row, which training never gives.

    Args:
        head: Weight of the head ``[outputs, features]``.

    Returns:
        Their indices, or None if the weights do not tell.
    """
    padding = range(len(head) - len(UNUSED_ROWS), len(head))
    if _alike(head, padding) == _alike(head, UNUSED_ROWS):
        return None
    return padding if _alike(head, padding) else UNUSED_ROWS


def say_unnamed(source: str, outputs: int, rows: Sequence[int]) -> None:
    """Warn of outputs without a label.

    Args:
        source: Origin of the weights.
        outputs: Number of outputs.
        rows: Indices of the outputs that have a label.
    """
    named = set(rows)
    without = [index for index in range(outputs) if index not in named]
    if without:
        which, them = (f"outputs {ranges(without)} have", "them") if len(without) > 1 else (f"output {without[0]} has", "it")
        say_once(f"{source} has {outputs} outputs, but {len(rows)} labels: {which} no label, so the model is used without {them}.")


def ranges(indices: Sequence[int]) -> str:
    """Return sorted indices for a message: ``1-3, 7``."""
    runs: list[list[int]] = []
    for index in indices:
        if runs and index == runs[-1][-1] + 1:
            runs[-1][1:] = [index]
        else:
            runs.append([index])
    return ", ".join("-".join(map(str, run)) for run in runs)


def _alike(head: Tensor, rows: Sequence[int]) -> bool:
    return len(rows) > 1 and bool((head[list(rows)] == head[rows[0]]).all())
