"""Every failure that alpipe states in one line.

    AlpipeError
    ├── ConfigError        the project's configuration, or an option, is wrong
    ├── DataError          an image or a label file is wrong
    ├── PluginError        a learner, strategy, annotator or format is unknown or cannot be loaded
    ├── StoreError         the pool store cannot be opened or is of another version
    ├── AnnotatorError     the annotation server is down, refuses us, or answers something unexpected
    ├── TrainingError      a training cannot start or went wrong
    └── BusyError          another run holds the step

The message says what was wrong, with which file, item or task, and what to do. The command line prints it as one line
and exits with status 1; anything else that escapes is a bug.
"""

from __future__ import annotations


class AlpipeError(Exception):
    """A stated failure: its message is one line that a user can act on."""

    def __str__(self) -> str:
        return " ".join(super().__str__().split())


class ConfigError(AlpipeError):
    """The project's configuration, or an option, is wrong."""


class DataError(AlpipeError):
    """An image or a label file is wrong."""


class PluginError(AlpipeError):
    """A learner, strategy, annotator or format is unknown or cannot be loaded."""


class StoreError(AlpipeError):
    """The pool store cannot be opened or is of another version."""


class AnnotatorError(AlpipeError):
    """The annotation server is down, refuses us, or answers something unexpected."""


class TrainingError(AlpipeError):
    """A training cannot start or went wrong."""


class BusyError(AlpipeError):
    """Another run holds the step."""
