"""Remarks about models that users should know of but need not act on."""

import logging
from functools import lru_cache

logger = logging.getLogger("asrdeploy")


@lru_cache(maxsize=1024)
def say_once(sentence: str) -> None:
    """Warn on the logger ``asrdeploy``, once in a process, because one command may load a model several times."""
    logger.warning(sentence)
