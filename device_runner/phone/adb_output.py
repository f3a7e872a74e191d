"""What adb and a phone's programs print, read: lists of devices, properties, free space, exit codes, reasons of failures."""

import re
from dataclasses import dataclass, field

from device_runner.errors import AsrDeployError

EXITED = "asrdeploy-exit"  # begins the mark of a command's exit code
ATTRIBUTE = re.compile(r"([a-z_]+):(\S+)")
PROPERTY = re.compile(r"^\[([^\[\]\n]+)\]: \[", re.MULTILINE)
DF_ROW = re.compile(r"\s(?:\d+|-)\s+(?:\d+|-)\s+(\d+)\s+(?:\d+%|-)\s+/")  # of the columns before the free space, numbers; behind it, a path
REFUSED = re.compile(
    r"^adb: (?:error: )?(?:failed to copy '.*' to '.*': remote (?P<remote>.*)"
    r"|(?P<other>failed to stat remote object .*|cannot (?!connect).*|target '.*' is not a directory|filename doesn't end .*))$",
    re.MULTILINE,
)
COMPLAINT = re.compile(r"^(?:adb: error: |adb: |error: |(?=.*protocol fault))(.*)$", re.MULTILINE)
STATES = ("unauthorized", "offline", "not found")
LONGEST = 200  # characters of others' words in a sentence


@dataclass(frozen=True)
class Listed:
    """A device as adb lists it.

    Args:
        serial: its serial number, or host:port.
        state: ``device`` where it can be used; else ``offline``, ``unauthorized``, ``no permissions …``.
        details: product, model, device, transport_id, as far as they are known.
    """

    serial: str
    state: str
    details: dict[str, str] = field(default_factory=dict)


def parse_devices(text: str) -> list[Listed]:
    """Return the devices in what ``adb devices -l`` prints."""
    listed = []
    _, _, lines = text.partition("List of devices attached")
    for line in lines.splitlines():
        words = line.split()
        if len(words) < 2 or words[0] == "*":  # adb's own news
            continue
        details: dict[str, str] = {}
        while len(words) > 2 and (found := ATTRIBUTE.fullmatch(words[-1])):
            details[found[1]] = found[2]
            words.pop()
        listed.append(Listed(words[0], " ".join(words[1:]), details))
    return listed


def parse_properties(text: str) -> dict[str, str]:
    """Return what ``getprop`` prints, ``[name]: [value]`` each; a value may have several lines."""
    text = text.replace("\r\n", "\n")
    found = list(PROPERTY.finditer(text))
    ends = [*(each.start() for each in found), len(text)][1:]
    return {each[1]: text[each.end() : end].removesuffix("\n").removesuffix("]") for each, end in zip(found, ends, strict=bool(found))}


def parse_free_bytes(text: str, folder: str) -> int:
    """Return the available bytes in what ``df -k FOLDER`` prints: Toybox's columns or those of coreutils, a long name on its own line.

    Raises:
        AsrDeployError: it says something else.
    """
    rows = DF_ROW.findall(text.partition("\n")[2])
    if not rows:
        raise AsrDeployError(f"Cannot tell the free space of {folder} on the device; df -k prints: {short(text)}.")
    return int(rows[-1]) * 1024


def split_exit(output: bytes, nonce: str) -> tuple[int, bytes] | None:
    """Return the exit code that stands in the last mark in what a shell printed, and the rest; None: it was cut before.

    Args:
        output: all that came.
        nonce: what the mark of this call holds; whatever else looks like one has another, or no number.
    """
    marks = list(re.finditer(rb"%s:%s:(\d{1,3}):\r?\n?" % (EXITED.encode(), nonce.encode()), output))
    if not marks:
        return None
    return int(marks[-1][1]), output[: marks[-1].start()] + output[marks[-1].end() :]


def verdict(text: str) -> str | None:
    """Return the reason for which a device refused an app, an empty one where it took it; None: it said neither."""
    failure = re.search(r"\bFailure\b(?: \[(.*)\])?", text)
    if failure:
        return short(failure[1] or "it gives no reason")
    return "" if re.search(r"^Success\b", text, re.MULTILINE) else None


def refusal(text: str) -> str | None:
    """Return why a file was not copied, where that is the file's or a disk's fault; None: not known, as when a device is gone."""
    found = REFUSED.search(text)
    return short(found["remote"] or found["other"]).rstrip(".") if found else None


def state_in(text: str) -> str:
    """Return the state of a device in adb's complaint, else the complaint."""
    return next((each for each in STATES if each in text), complaint(text))


def complaint(text: str) -> str:
    """Return what adb complained of last, without its prefixes; nothing where it did not."""
    said = COMPLAINT.findall(text)
    return short(re.sub(r"(?: to|:)*(?: '')*$", "", said[-1].strip())).rstrip(".: ") if said else ""


def short(text: str) -> str:
    """Return the text as one line of bounded length."""
    text = " ".join(text.split())
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"
