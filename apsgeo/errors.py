"""The exceptions and warnings of apsgeo.

Every message says what was given, what was expected, and what to do.
"""

__all__ = [
    "ApsgeoError",
    "ApsgeoWarning",
    "DatasetError",
    "GridError",
    "InputError",
    "LeftOutWarning",
    "LostBoundsWarning",
    "ModelError",
    "NothingObservedWarning",
    "OnLandWarning",
    "OneSeasonWarning",
    "OutlierWarning",
    "OutputExistsError",
    "PriorDrawsWarning",
    "SeldomSeenWarning",
    "ShorterStepsWarning",
    "UnitsError",
    "UnknownNameError",
]


class ApsgeoError(Exception):
    """Base of every error that apsgeo raises on purpose.

    Args:
        message: What was given, what was expected, and what to do in Python.
        shell: What to do in the shell, where that is something else: options, or a command.
    """

    def __init__(self, message: str = "", *, shell: str | None = None) -> None:
        super().__init__(message)
        self.shell = shell


class InputError(ApsgeoError, ValueError):
    """An argument or the data passed in cannot be used."""


class GridError(InputError):
    """Coordinates are invalid, or are not those of the model's grid."""


class UnitsError(InputError):
    """The data's units are not the model's."""


class ModelError(ApsgeoError):
    """A model folder is missing, truncated, altered, of a newer schema, or holds foreign files."""


class OutputExistsError(ApsgeoError, FileExistsError):
    """The output path exists and overwriting was not asked for."""


class DatasetError(ApsgeoError):
    """A data set could not be fetched, verified or unpacked."""


class UnknownNameError(ApsgeoError, AttributeError):
    """apsgeo has no such name, or no longer."""


class ApsgeoWarning(UserWarning):
    """Base of every warning that apsgeo gives on purpose."""


class PriorDrawsWarning(ApsgeoWarning):
    """A flow learns from draws of the prior, since there is no history and none was asked for."""


class OneSeasonWarning(ApsgeoWarning):
    """A history has dates, but not every month twice: one normal holds for all times."""


class OnLandWarning(ApsgeoWarning):
    """Values were observed where a model has none, and have no influence."""


class LeftOutWarning(ApsgeoWarning):
    """Rows of a table are left out: off the domain, or there twice."""


class LostBoundsWarning(ApsgeoWarning):
    """Months are stamped where two of them meet, and their bounds, which tell which, are gone."""


class ShorterStepsWarning(ApsgeoWarning):
    """Records are closer in time than those that a model learned from, and vary more."""


class OutlierWarning(ApsgeoWarning):
    """Values are far from all that is known, or are none: fill values, faults, other units."""


class NothingObservedWarning(ApsgeoWarning):
    """A record holds no observation: its members are draws from the prior."""


class SeldomSeenWarning(UserWarning):
    """Cells of a history are seen so seldom that nothing can be learned of them."""
