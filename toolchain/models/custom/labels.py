"""Check the labels and the sample rate of custom models, and bring labels into the order and spelling of the label selectors."""

import unicodedata
from collections.abc import Collection, Sequence
from typing import Any

from device_runner.bitstream.network import HIGHEST_RATE, LOWEST_RATE
from device_runner.errors import AsrDeployError, say_once
from device_runner.labels import WORD_SEPARATOR
from toolchain.data.casing import language_of, upper

LONGEST_LABEL, MOST_LABELS = 200, 65_536
OF_SENTENCEPIECE = "▁"  # U+2581, which stands for nothing but the space
MERGED_NAMED = 5  # merged labels in a warning


def index_of_blank(blank: object, labels: Sequence[str], source: str) -> int:
    """Return the index of the blank.

    Args:
        blank: Label or index of the blank.
        labels: Labels by index.
        source: Origin of the labels, for messages.

    Raises:
        AsrDeployError: If the blank is neither a label nor an index.
    """
    if isinstance(blank, str) and (place := place_of(blank, labels)) is not None:
        return place
    if isinstance(blank, int) and not isinstance(blank, bool) and 0 <= blank < len(labels):
        return blank
    said = f"“{blank}”" if isinstance(blank, str) else repr(blank)
    raise AsrDeployError(f"{source}: the blank {said} is not one of the labels. Give a label, or an index from 0 to {len(labels) - 1}.")


def place_of(label: str, labels: Sequence[str]) -> int | None:
    """Return the index of a label, however its accents are encoded; None if it is not one of the labels."""
    if label in labels:
        return labels.index(label)
    composed = unicodedata.normalize("NFC", label)
    return next((index for index, each in enumerate(labels) if unicodedata.normalize("NFC", each) == composed), None)


def blank_first(labels: int, blank: int) -> list[int]:
    """Return the indices of the outputs with the blank first and the others in their order.

    Args:
        labels: Number of labels.
        blank: Index of the blank.
    """
    return [blank, *(index for index in range(labels) if index != blank)]


def check_labels(labels: object, source: str) -> list[str]:
    """Check labels and return them as a list.

    Args:
        labels: Labels by index.
        source: Origin of the labels, for messages.

    Raises:
        AsrDeployError: If they are not a list of strings, too few or too many, too long, or not unique.
    """
    if not isinstance(labels, Sequence) or isinstance(labels, str | bytes) or not all(isinstance(each, str) for each in labels):
        raise AsrDeployError(f"{source}: labels must be a list of strings, one for each output of the network.")
    if not 2 <= len(labels) <= MOST_LABELS:
        raise AsrDeployError(f"{source} has {len(labels)} labels. Give 2 to {MOST_LABELS} labels, including the blank.")
    seen: set[str] = set()
    for label in labels:
        if label in seen and label:
            raise AsrDeployError(f"{source}: the label “{label}” occurs twice. Give each output a different label.")
        if len(label) > LONGEST_LABEL or any("\ud800" <= each <= "\udfff" for each in label):
            raise AsrDeployError(f"{source}: the label {label[:20]!a} is longer than {LONGEST_LABEL} characters, or not valid Unicode.")
        seen.add(label)
    return list(labels)


def our_labels(
    labels: Sequence[str], blank: int, source: str, *, separator: str | None = WORD_SEPARATOR, silent: Collection[int] = ()
) -> tuple[str, ...]:
    """Return the labels of a network as manifests store them: the blank first, ``|`` for the space, letters in upper case and NFC.

    A vocabulary with ı or İ gets the capitals of Turkish. Labels that become equal are named in a warning.

    Args:
        labels: Labels by index of the network's outputs.
        blank: Index of the blank.
        source: Origin of the labels, for messages.
        separator: Text that stands for the space between words, alone or inside labels; None or empty if nothing does.
        silent: Indices of the labels that print nothing.

    Raises:
        AsrDeployError: If a label contains white space, or a ``|`` that is not the space.
    """
    language = language_of(labels)
    separator = _composed(separator)
    if separator == WORD_SEPARATOR and _words_of_sentencepiece(labels):
        separator = OF_SENTENCEPIECE
        say_once(f"{source}: no label contains {WORD_SEPARATOR}, so {OF_SENTENCEPIECE} stands for the space between words.")
    texts, merged = [], dict[str, list[str]]()
    for index in blank_first(len(labels), blank):
        label = _composed(labels[index]) or ""
        if index == blank:
            texts.append(label.strip() or "-")  # the blank is never printed
            continue
        if index in silent:
            label = ""
        elif label and not label.strip():
            label = WORD_SEPARATOR
        elif separator != WORD_SEPARATOR:
            if WORD_SEPARATOR in label:
                raise AsrDeployError(
                    f"{source}: the label “{label}” contains |, which stands for the space between words. Rename the label."
                )
            label = label.replace(separator, WORD_SEPARATOR) if separator else label
        if any(each.isspace() for each in label):
            raise AsrDeployError(f"{source}: the label “{label}” contains white space. Only the space between words may be white space.")
        texts.append(upper(label, language))
        if len(texts[-1]) > LONGEST_LABEL:
            raise AsrDeployError(f"{source}: the label {label[:20]!a} is longer than {LONGEST_LABEL} characters in upper case. Shorten it.")
        if texts[-1]:
            merged.setdefault(texts[-1], []).append(labels[index])
    equal = [f"{' and '.join(f'“{label}”' for label in each)} (“{text}”)" for text, each in merged.items() if len(each) > 1]
    if equal:
        more = f", and {len(equal) - MERGED_NAMED} more" if len(equal) > MERGED_NAMED else ""
        say_once(
            f"{source}: labels that differ only in case or accents' encoding give the same text: {', '.join(equal[:MERGED_NAMED])}{more}."
        )
    return tuple(texts)


def _words_of_sentencepiece(labels: Sequence[str]) -> bool:
    spaced = any(WORD_SEPARATOR in each or each.isspace() for each in labels)
    return not spaced and any(OF_SENTENCEPIECE in each for each in labels)


def _composed(text: str | None) -> str | None:
    return None if text is None else unicodedata.normalize("NFC", text)


def check_sample_rate(value: Any, source: str) -> int:
    """Check a sample rate in hertz and return it.

    Args:
        value: Sample rate.
        source: Origin of the value, for messages.

    Raises:
        AsrDeployError: If the value is not a whole number in the supported range.
    """
    if not isinstance(value, int) or isinstance(value, bool) or not LOWEST_RATE <= value <= HIGHEST_RATE:
        raise AsrDeployError(
            f"{source}: the sample rate {value!r} is not valid. Give a whole number of hertz from {LOWEST_RATE} to {HIGHEST_RATE}."
        )
    return value
