"""What studies and folders are called where nobody says it."""

from pathlib import Path


def model_name(model: str) -> str:
    """Return the last part of a folder or of a name on the hub; of `.` and `..` the folder's."""
    name = Path(model).name
    return name if name.strip(".") else Path(model).resolve().name
