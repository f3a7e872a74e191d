"""Labels of custom models in the order and the spelling that every label selector here expects, in Python and in Kotlin."""

from collections.abc import Collection, Sequence

from device_runner.errors import AsrDeployError
from device_runner.labels import WORD_SEPARATOR

LONGEST_LABEL, MOST_LABELS = 200, 65_536


def index_of_blank(blank: object, labels: Sequence[str], source: str) -> int:
    """Return the index of the blank, which is given as a label or as an index.

    Raises:
        AsrDeployError: it is neither.
    """
    if isinstance(blank, str) and blank in labels:
        return labels.index(blank)
    if isinstance(blank, int) and not isinstance(blank, bool) and 0 <= blank < len(labels):
        return blank
    said = f"“{blank}”" if isinstance(blank, str) else repr(blank)
    raise AsrDeployError(f"{source}: the blank {said} is none of the labels; give a label, or an index from 0 to {len(labels) - 1}.")


def blank_first(labels: int, blank: int) -> list[int]:
    """Return the indexes of outputs in our order: the blank, then the others as they were."""
    return [blank, *(index for index in range(labels) if index != blank)]


def check_labels(labels: object, source: str) -> list[str]:
    """Return labels as a list.

    Raises:
        AsrDeployError: it is no list of texts, too short or too long, or one is there twice.
    """
    if not isinstance(labels, Sequence) or isinstance(labels, str | bytes) or not all(isinstance(each, str) for each in labels):
        raise AsrDeployError(f"{source}: labels is a list of texts, one for each output of the network.")
    if not 2 <= len(labels) <= MOST_LABELS:
        raise AsrDeployError(f"{source}: a recogniser has 2 to {MOST_LABELS} labels, the blank among them; there are {len(labels)}.")
    seen: set[str] = set()
    for label in labels:
        if label in seen and label:
            raise AsrDeployError(f"{source}: the label “{label}” is there twice; every output needs a label of its own.")
        if len(label) > LONGEST_LABEL or any("\ud800" <= each <= "\udfff" for each in label):
            raise AsrDeployError(f"{source}: the label {label[:20]!a} is too long, or no text.")
        seen.add(label)
    return list(labels)


def our_labels(
    labels: Sequence[str], blank: int, source: str, *, separator: str | None = WORD_SEPARATOR, silent: Collection[int] = ()
) -> tuple[str, ...]:
    """Return the labels of a network as manifests have them.

    The blank comes first, ``|`` stands for the space, also inside a label, and the rest is in upper case, as references are.

    Args:
        labels: by index of the network's outputs.
        blank: its index.
        source: where they come from, for messages.
        separator: what stands for the space between words there; None or empty: nothing does.
        silent: indexes of labels that print nothing.

    Raises:
        AsrDeployError: a label has white space inside, or a ``|`` that is no space.
    """
    texts = []
    for index in blank_first(len(labels), blank):
        label = labels[index]
        if index == blank:
            texts.append(label.strip() or "-")  # whatever it is called, nobody prints it
            continue
        if index in silent:
            label = ""
        elif label and not label.strip():
            label = WORD_SEPARATOR
        elif separator != WORD_SEPARATOR:
            if WORD_SEPARATOR in label:
                raise AsrDeployError(f"{source}: the label “{label}” has a |, which stands for the space here; name it otherwise.")
            label = label.replace(separator, WORD_SEPARATOR) if separator else label
        if any(each.isspace() for each in label):
            raise AsrDeployError(f"{source}: the label “{label}” has white space in it; only the space between words may be a label.")
        texts.append(label.upper())
    return tuple(texts)
