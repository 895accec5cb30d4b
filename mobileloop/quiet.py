"""Keeps other libraries' chatter off the terminal: what matters to a user is said by us, in a sentence."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

_CHATTY = ("torchao", "torch.utils._pytree", "executorch", "root")


@contextmanager
def quiet_imports() -> Iterator[None]:
    """Silence warnings and log lines below errors; errors that are raised pass through."""
    levels = {name: logging.getLogger(name).level for name in _CHATTY}
    for name in _CHATTY:
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)


@contextmanager
def muted_stderr() -> Iterator[None]:
    """Send the process's standard error to nowhere, for C++ libraries that log each error they also return."""
    sys.stderr.flush()
    saved = os.dup(2)
    null = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(null, 2)
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(null)
