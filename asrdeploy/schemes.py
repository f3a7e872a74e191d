"""Stable imports for scheme plug-ins; see docs/custom-schemes.md."""

from exporters.schemes import Scheme as Scheme
from exporters.schemes import find_scheme as find_scheme
