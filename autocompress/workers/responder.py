"""What runs inside a worker of any kind: answers jobs, one after the other."""

import os
import pickle
import socket
import traceback
from dataclasses import dataclass

from autocompress.errors import AutocompressError, EvaluationError
from autocompress.workers.base import BuildJob, Measured, Session, SessionFactory, Shard

ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
"""The environment of a worker: cores are shared out by workers, and sums keep one order."""


@dataclass(frozen=True, slots=True)
class ArriveJob:
    """Say where the worker runs: the first job, and its answer the sign that there was room."""


@dataclass(frozen=True, slots=True)
class OpenJob:
    """Make the session, if it is not there yet."""


Job = ArriveJob | OpenJob | BuildJob | Shard

Answer = str | None | int | Measured | Exception
"""What a worker says: for `ArriveJob` where it runs, for `OpenJob` None, or in place of any result
the exception.
"""


class Responder:
    """Answers jobs inside a worker, with one session; never raises an `Exception`."""

    def __init__(self, factory: SessionFactory) -> None:
        """Keep the factory; the session is made by the first `OpenJob`."""
        self._factory = factory
        self._session: Session | None = None

    def answer(self, job: Job) -> Answer:
        """Do the job and return its result, or the exception in a form that can travel."""
        if isinstance(job, ArriveJob):
            return _place()
        try:
            if self._session is None:
                self._session = self._factory()
            if isinstance(job, Shard):
                return self._session.measure(job)
            if isinstance(job, BuildJob):
                return self._session.build(job)
            return None
        except Exception as error:  # noqa: BLE001  # One candidate's failure must not end the rest.
            return _portable(error)


def _place() -> str:
    """Return machine, process and, if it was given some, GPUs of this worker."""
    gpus = os.environ.get("CUDA_VISIBLE_DEVICES")
    place = f"{socket.gethostname()} {os.getpid()}"
    return f"{place} GPU {gpus}" if gpus else place


def _portable(error: Exception) -> Exception:
    """Return the exception if it survives pickling, else an `EvaluationError` with its text."""
    text = f"{type(error).__name__}: {error}"
    if not isinstance(error, AutocompressError):
        # A bug, then: where it happened would be lost, because pickle drops the traceback.
        error.add_note("In the worker:\n" + "".join(traceback.format_exception(error)))
    try:
        # Loading fails as easily as dumping: for classes whose __init__ takes other arguments.
        copy = pickle.loads(pickle.dumps(error))  # noqa: S301  # Our own bytes.
    except Exception:  # noqa: BLE001  # An exception's own pickling code may raise anything.
        return EvaluationError(text)
    return error if type(copy) is type(error) else EvaluationError(text)
