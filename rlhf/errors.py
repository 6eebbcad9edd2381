"""Errors meant for people: one clear line saying what was found, what was expected, and how to fix it.

The command line prints the message without a traceback and exits with code 2. Anything else that escapes is a bug.
"""

from __future__ import annotations


class RLHFError(Exception):
    """Base of every error that a user can cause and mend."""

    exit_code = 2


class ConfigError(RLHFError):
    """A configuration that cannot be run: an unknown key, a value out of range, parts that do not fit together."""


class DataError(RLHFError):
    """A file, row or text that cannot be used; the message names file, line, field and fix."""


class ArtifactError(RLHFError):
    """A saved adapter, model or run that is missing, damaged, or made for something else."""


class StoreError(RLHFError):
    """The label store refuses: not there, another schema version, or an operation that its rules forbid."""


class TrainingError(RLHFError):
    """A run stopped itself: a number that is not finite, a KL beyond its limit, a judge that misbehaves."""
