"""Where this package lies: in a checkout as ``device_runner``, in the wheel as ``asrdeploy.device_runner`` (see ``setup.py``)."""

from pathlib import Path

NAME = __name__.removesuffix(".package")
# The folder that has to be on the path for this package to be imported by its name.
ROOT = Path(__file__).resolve().parents[NAME.count(".") + 1]
