"""What is wrong with a device in each state of adb, and what its user can do about it."""

import re
import shlex

READY = "device"
MISSING, AMBIGUOUS, FORBIDDEN = "not found", "more than one device", "no permissions"

# What is wrong, and what to do. {serial} is quoted for a shell.
_REMEDIES = {
    "unauthorized": (
        "does not trust this computer",
        "Unlock it and allow USB debugging when it asks. If it does not ask, run `adb kill-server` and connect it again.",
    ),
    "authorizing": (
        "has not answered yet whether it trusts this computer",
        "Wait a few seconds, then unlock it and allow USB debugging when it asks.",
    ),
    "connecting": ("is still connecting", "Wait a few seconds. If that does not help, connect it again."),
    "offline": (
        "is connected but does not answer",
        "Unlock it, run `adb reconnect offline`, or try another cable or port.",
    ),
    MISSING: ("is not connected", "Check its cable, its network and that USB debugging is on."),
    FORBIDDEN: (
        "may not be used by your account",
        "Install the udev rules for phones (Debian and Ubuntu: `apt-get install android-sdk-platform-tools-common`), add yourself to the "
        "group plugdev, log in again and reconnect the phone.",
    ),
    "recovery": ("is in recovery mode, which runs no jobs", "Restart it with “Reboot system now”, or with `adb -s {serial} reboot`."),
    "rescue": ("is in rescue mode, which runs no jobs", "Restart it with `adb -s {serial} reboot`."),
    "sideload": ("waits for an update and runs no jobs", "Cancel the update on its screen, then choose “Reboot system now”."),
    "bootloader": ("is in its bootloader, which runs no jobs", "Choose Start on its screen, or run `fastboot reboot`."),
    "host": ("is another computer in adb's list, not a phone", "Choose a phone of `asrdeploy devices`."),
    "detached": ("is detached from adb", "Run `adb -s {serial} attach`."),
    AMBIGUOUS: (
        "names more than one device, and adb cannot tell them apart",
        "Disconnect the others, or connect over the network and use host:port.",
    ),
    READY: ("is connected but does not run commands", "Check its cable or network, or restart it."),
}
# States that end by themselves, or as soon as the connection returns. In all others, a person has to do something.
_PASSING = frozenset({"authorizing", "connecting", "offline", MISSING, READY, ""})
# How adb's messages name a state that differs from its list of devices.
_MESSAGES = {
    "still authorizing": "authorizing",
    "still connecting": "connecting",
    "insufficient permissions": FORBIDDEN,
    AMBIGUOUS: AMBIGUOUS,
    "unauthorized": "unauthorized",
    "offline": "offline",
    MISSING: MISSING,
}


def named_state(text: str) -> str | None:
    """Return the state of a device that a message of adb names, or None."""
    return next((state for words, state in _MESSAGES.items() if words in text), None)


def needs_a_person(state: str) -> bool:
    """Tell whether a device stays in a state until a person does something, so that waiting in silence is useless."""
    known, _ = _known(state)
    return known in _REMEDIES and known not in _PASSING


def remedy(serial: str, state: str, when: str = "") -> str:
    """Return what is wrong with a device and what to do, in two sentences.

    Args:
        serial: Serial number, or host:port.
        state: State as adb lists it, or adb's message.
        when: What was done when the state was noticed, such as ``waited 5 s``.
    """
    known, why = _known(state)
    notes = [f"{known}{why}" if known != READY else "", when]
    noticed = f" ({', '.join(filter(None, notes))})" if any(notes) else ""
    if known in _REMEDIES:
        wrong, todo = _REMEDIES[known]
        return f"{serial} {wrong}{noticed}. {todo.format(serial=shlex.quote(serial))}"
    if known.isalpha():
        return f"{serial} is in a state in which it runs no jobs{noticed}. Restart it, and run `adb devices`."
    return f"The connection to {serial} was lost{noticed}. Check its cable or network."


def _known(state: str) -> tuple[str, str]:
    """Return the state without adb's remark, and the remark: ``no permissions (user in …); see [URL]``."""
    if not state.startswith(FORBIDDEN):
        return state, ""
    remark = re.search(r"\((.*?)\)|: *(.*)", state)
    return FORBIDDEN, f": {remark[1] or remark[2]}".removesuffix(": ") if remark else ""
