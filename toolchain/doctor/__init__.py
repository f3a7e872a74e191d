"""Checks of this machine for `asrdeploy doctor`."""
