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
        check: Function that takes the name of an entry point and the loaded object, and returns the usable plug-ins by name. It
            raises an exception if the object is not a plug-in.
        taken: Names that asrdeploy itself uses. Plug-ins cannot replace them.
        name: Name of the only entry point to load; None for all.

    Returns:
        The plug-ins by name, and for each one that cannot be used the reason by name.
    """
    found: dict[str, Plugin] = {}
    broken: dict[str, str] = {}
    for point in entry_points(group=group) if name is None else entry_points(group=group, name=name):
        try:
            plugins = check(point.name, point.load())
        except Exception as error:  # a broken plug-in must not stop commands that do not use it
            broken[point.name] = f"{point.value}: {error}"
            continue
        found |= plugins
    for clash in found.keys() & set(taken):
        del found[clash]
        broken[clash] = "the name is already used by asrdeploy"
    return found, broken
