"""Build hook: the wheel holds the three packages of the repository below ``asrdeploy``.

In the repository they lie at the top level and are imported as ``toolchain``, ``exporters`` and ``device_runner``. Another distribution
may install modules of these names, and the one that is installed last would replace the other. So the wheel has them as
``asrdeploy.toolchain`` and so on, with their imports rewritten to match. An editable install (``make setup``) is the checkout as it is.
"""

import re
from pathlib import Path
from typing import Any

from setuptools import setup
from setuptools.command.build_py import build_py
from setuptools.command.egg_info import egg_info

FACE = "asrdeploy"
PACKAGES = ("toolchain", "exporters", "device_runner")
ANY = "|".join(PACKAGES)
# An import statement of one of the packages, or a string that is the dotted name of one of their modules.
REFERENCE = re.compile(rf"""^(\s*(?:from|import)\s+)(?=(?:{ANY})\b)|(?<=["'])(?=(?:{ANY})(?:\.\w+)+["'])""", re.MULTILINE)


def relocated(source: str) -> str:
    """Return a module's source with the packages below ``asrdeploy``; lines keep their numbers."""
    return REFERENCE.sub(lambda found: f"{found[1] or ''}{FACE}.", source)


class BuildPy(build_py):
    """Copies the packages, and moves them below ``asrdeploy`` unless the install is editable."""

    def finalize_options(self) -> None:
        """Map the packages to their names in the wheel."""
        super().finalize_options()
        if self.editable_mode:
            return
        here = [name for name in self.packages if name.split(".")[0] in PACKAGES]
        self.packages = [name if name not in here else f"{FACE}.{name}" for name in self.packages]
        self.package_dir = {**(self.package_dir or {}), **{f"{FACE}.{name}": name.replace(".", "/") for name in here}}
        self.package_data = {(f"{FACE}.{name}" if name in PACKAGES else name): files for name, files in self.package_data.items()}

    def build_module(self, module: Any, module_file: str, package: Any) -> Any:
        """Copy a module and rewrite its imports."""
        copied, done = super().build_module(module, module_file, package)
        if not self.editable_mode:
            source = Path(module_file).read_text(encoding="utf-8")
            Path(copied).write_text(relocated(source), encoding="utf-8")
        return copied, done


class EggInfo(egg_info):
    """Writes the distribution's metadata."""

    def run(self) -> None:
        """Name the one module that the wheel has at its top."""
        super().run()
        Path(self.egg_info, "top_level.txt").write_text(f"{FACE}\n", encoding="utf-8")


setup(cmdclass={"build_py": BuildPy, "egg_info": EggInfo})
