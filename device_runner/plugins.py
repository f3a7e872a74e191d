"""Plug-ins: codecs, schemes and decoders that other installed packages register through entry points."""

from collections.abc import Callable, Collection
from importlib.metadata import entry_points
from typing import Any, TypeVar

Plugin = TypeVar("Plugin")


def load_plugins(
    group: str, check: Callable[[str, Any], dict[str, Plugin]], *, taken: Collection[str] = (), name: str | None = None
) -> tuple[dict[str, Plugin], dict[str, str]]:
    """Load the plug-ins of an entry point group.

    Args:
        group: Entry point group, such as ``asrdeploy.codecs``.
        check: Called with an entry point's name and the loaded object. Returns the usable plug-ins by name; raises where it is none.
        taken: Names of our own. A plug-in cannot replace them.
        name: Load only the entry point of this name.

    Returns:
        The plug-ins by name, and the reason for each one that cannot be used.
    """
    found: dict[str, Plugin] = {}
    broken: dict[str, str] = {}
    for point in entry_points(group=group) if name is None else entry_points(group=group, name=name):
        try:
            plugins = check(point.name, point.load())
        except Exception as error:  # whatever another package's import raises: it must not stop the commands that do without it
            broken[point.name] = f"{point.value}: {error}"
            continue
        found |= plugins
    for clash in found.keys() & set(taken):
        del found[clash]
        broken[clash] = "the name is already used by asrdeploy"
    return found, broken
