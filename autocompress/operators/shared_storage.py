"""Where nodes that share no disk leave level files for each other, by fsspec."""

import os
import re
from pathlib import Path

import fsspec
from fsspec.implementations.local import LocalFileSystem

from autocompress.errors import EvaluationError, SpecError


class SharedStorage:
    """Files by the name of their folder and their own, each whole or not there.

    Args:
        url: A folder as fsspec reads it: `s3://bucket/levels`, or a path that is mounted.

    Raises:
        SpecError: If nothing of that kind is known, or its package is not installed.
    """

    def __init__(self, url: str) -> None:
        # A URL may hold a password.
        self._said = re.sub(r"//[^/@]*@", "//", url)
        try:
            self._files, self._root = fsspec.core.url_to_fs(url)
        except (ValueError, ImportError) as error:
            raise SpecError(f"Levels cannot be shared by {self._said}: {error}") from None

    def fetch(self, file: Path) -> bool:
        """Bring a file from there, in the place of what is here; False if it is not there.

        Raises:
            EvaluationError: If the storage cannot be read.
        """
        partial = file.with_suffix(f".{os.getpid()}.fetched")
        try:
            self._files.get_file(self._place(file), str(partial))
        except FileNotFoundError:
            return False
        # Each kind of storage fails in words of its own.
        except Exception as error:
            raise EvaluationError(f"Levels cannot be read from {self._said}: {error}") from error
        else:
            partial.replace(file)
            return True
        finally:
            partial.unlink(missing_ok=True)

    def give(self, file: Path) -> None:
        """Leave a file there, in the place of what is there.

        Raises:
            EvaluationError: If the storage cannot be written.
        """
        place = self._place(file)
        try:
            self._files.makedirs(place.rpartition("/")[0], exist_ok=True)
            if isinstance(self._files, LocalFileSystem):
                # What is half written can be seen there; a rename shows all of it at once.
                partial = f"{place}.{os.getpid()}-{os.urandom(4).hex()}.partial"
                self._files.put_file(str(file), partial)
                self._files.mv(partial, place)
            else:
                self._files.put_file(str(file), place)
        except Exception as error:
            raise EvaluationError(f"Levels cannot be left in {self._said}: {error}") from error

    def _place(self, file: Path) -> str:
        return f"{self._root}/{file.parent.name}/{file.name}"
