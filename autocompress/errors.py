"""Every failure that a user can cause, as one tree of exceptions.

AutocompressError
├── SpecError            a flag, a key or a value that cannot be meant
├── ModelError           a model that cannot be read or is of no known architecture
├── TextError            text that cannot be read or is too short
├── StoreError           a database that cannot be opened, or an unknown study
│   ├── StudyHeld        a study that another driver runs
│   └── DatabaseAway     a database whose connection was lost, and may come back
├── UnreachableTarget    no candidate of the space meets the target
├── EvaluationError      a candidate, or all of a rung, could not be measured
├── EngineError          an engine that does not run what it was given
├── ExportError          an artifact that could not be written
└── GateError            an artifact that is not what was searched
"""


class AutocompressError(Exception):
    """The root of all failures raised on purpose; `cli` prints one as a line and exits with 2."""


class SpecError(AutocompressError):
    """A flag, a key or a value that cannot be meant."""


class ModelError(AutocompressError):
    """A model that cannot be read or is of no known architecture."""


class TextError(AutocompressError):
    """Text that cannot be read or is too short."""


class StoreError(AutocompressError):
    """A database that cannot be opened, or an unknown study."""


class StudyHeld(StoreError):
    """Another driver runs the study."""


class DatabaseAway(StoreError):
    """A database whose connection was lost, and may come back."""


class UnreachableTarget(AutocompressError):
    """No candidate of the space meets the target."""


class EvaluationError(AutocompressError):
    """A candidate, or all of a rung, could not be measured."""


class EngineError(AutocompressError):
    """An engine that does not run what it was given."""


class ExportError(AutocompressError):
    """An artifact that could not be written."""


class GateError(AutocompressError):
    """An artifact that is not what was searched."""
