"""Parse the output of adb and of programs on a phone: device lists, properties, free space, exit codes and reasons for failures."""

import re
from dataclasses import dataclass, field

from device_runner.errors import AsrDeployError
from device_runner.phone.remedies import named_state

EXITED = "asrdeploy-exit"  # start of the marker line that carries a command's exit code
ATTRIBUTE = re.compile(r"([a-z_]+):(\S+)")
PROPERTY = re.compile(r"^\[([^\[\]\n]+)\]: \[", re.MULTILINE)
DF_ROW = re.compile(r"\s(?:\d+|-)\s+(?:\d+|-)\s+(\d+)\s+(?:\d+%|-)\s+/")  # two numeric columns, the free space, then a path
REFUSED = re.compile(
    r"^adb: (?:error: )?(?:failed to copy '.*' to '.*': remote (?P<remote>.*)"
    r"|(?P<other>failed to stat remote object .*|cannot (?!connect).*|target '.*' is not a directory|filename doesn't end .*))$",
    re.MULTILINE,
)
COMPLAINT = re.compile(r"^(?:adb: error: |adb: |error: |(?=.*protocol fault))(.*)$", re.MULTILINE)
LONGEST = 200  # characters of foreign text quoted in a message


@dataclass(frozen=True)
class Listed:
    """A device as adb lists it.

    Args:
        serial: Serial number, or host:port.
        state: ``device`` if it can be used, or else another state; see ``remedies.remedy``.
        details: Known values of product, model, device and transport_id.
    """

    serial: str
    state: str
    details: dict[str, str] = field(default_factory=dict)


def parse_devices(text: str) -> list[Listed]:
    """Return the devices in the output of ``adb devices -l``."""
    listed = []
    _, _, lines = text.partition("List of devices attached")
    for line in lines.splitlines():
        words = line.split()
        if len(words) < 2 or words[0] == "*":  # a notice of adb itself
            continue
        details: dict[str, str] = {}
        while len(words) > 2 and (found := ATTRIBUTE.fullmatch(words[-1])):
            details[found[1]] = found[2]
            words.pop()
        listed.append(Listed(words[0], " ".join(words[1:]), details))
    return listed


def parse_properties(text: str) -> dict[str, str]:
    """Return the properties in the output of ``getprop``: entries ``[name]: [value]``, whose value may span several lines."""
    text = text.replace("\r\n", "\n")
    found = list(PROPERTY.finditer(text))
    ends = [*(each.start() for each in found), len(text)][1:]
    return {each[1]: text[each.end() : end].removesuffix("\n").removesuffix("]") for each, end in zip(found, ends, strict=bool(found))}


def parse_free_bytes(text: str, folder: str) -> int:
    """Return the available bytes in the output of ``df -k FOLDER`` from Toybox or coreutils. A long name may have its own line.

    Raises:
        AsrDeployError: If the output has another form.
    """
    rows = DF_ROW.findall(text.partition("\n")[2])
    if not rows:
        raise AsrDeployError(f"Cannot read the free space of {folder} on the device. df -k prints: {short(text)}.")
    return int(rows[-1]) * 1024


def split_exit(output: bytes, nonce: str) -> tuple[int, bytes] | None:
    """Split a shell's output into the exit code in its last marker and the rest. Return None if the output was cut before the marker.

    Args:
        output: Complete output of the shell.
        nonce: Random text in this call's marker, which distinguishes it from similar text in the output.
    """
    marks = list(re.finditer(rb"%s:%s:(\d{1,3}):\r?\n?" % (EXITED.encode(), nonce.encode()), output))
    if not marks:
        return None
    return int(marks[-1][1]), output[: marks[-1].start()] + output[marks[-1].end() :]


def verdict(text: str) -> str | None:
    """Return the reason why a device refused an app, an empty text if it accepted the app, or None if it reported neither."""
    failure = re.search(r"\bFailure\b(?: \[(.*)\])?", text)
    if failure:
        return short(failure[1] or "no reason given")
    return "" if re.search(r"^Success\b", text, re.MULTILINE) else None


def refusal(text: str) -> str | None:
    """Return why a file was not copied if the file or a disk is the cause, or None for other causes such as a lost device."""
    found = REFUSED.search(text)
    return short(found["remote"] or found["other"]).rstrip(".") if found else None


def state_in(text: str) -> str:
    """Return the device state that adb's error message names, or else the message itself."""
    return named_state(text) or complaint(text)


def complaint(text: str) -> str:
    """Return adb's last error message without its prefix, or an empty text if there is none."""
    said = COMPLAINT.findall(text)
    return short(re.sub(r"(?: to|:)*(?: '')*$", "", said[-1].strip())).rstrip(".: ") if said else ""


def short(text: str) -> str:
    """Return the text as one line of at most ``LONGEST`` characters."""
    text = " ".join(text.split())
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"
