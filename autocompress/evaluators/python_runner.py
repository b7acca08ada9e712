"""Runs Python that a model wrote, in a process of its own with limits.

This is no sandbox. The limits keep a program that went wrong from taking the machine along; they
do not keep one that means harm from what this user may do: it can read and delete files, reach the
network and signal other processes. Where that matters, run all of this in a container.
"""

import contextlib
import io
import json
import os
import secrets
import select
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Limits:
    """What one program may take.

    Args:
        seconds: Until it is killed; of processor time, a second more.
        memory_bytes: Of address space, in each of its processes.
        open_files: At once.
    """

    seconds: float = 10.0
    memory_bytes: int = 1 << 30
    open_files: int = 32


STANDARD_LIMITS: Final = Limits()
# NumPy starts threads where it is imported, and does not come up where it may not.
_THREAD_SETTINGS: Final = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
# The process narrows itself: a function that runs between fork and exec may hang beside threads.
# The answer is a module of its own: what it guards by `__name__ == "__main__"` is left out.
_RUNNER: Final = """\
import json, os, resource, sys, types
def run(job):
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for name, limit in job["limits"].items():
        resource.setrlimit(getattr(resource, name), (limit, limit))
    module = sys.modules["answer"] = types.ModuleType("answer")
    for name in ("answer", "tests"):
        exec(compile(job[name], name, "exec"), module.__dict__)
    os.write(job["descriptor"], job["token"].encode())
run(json.load(sys.stdin))
"""


def passes(answer: str, tests: str = "", limits: Limits = STANDARD_LIMITS) -> bool:
    """Whether a program, and then tests that see its names, run to their end without an error.

    They run by this interpreter, isolated (`-I`), in an empty folder that is removed afterwards,
    without this environment, standard input or output, and with limits: of time, of memory,
    of open files, no byte written to any file, and no further process or thread (to which Linux
    does not hold root). What they start is killed with them, but for a process that leaves their
    session. To end early, as `os._exit(0)` does, is to fail: a token drawn anew for each run tells
    that the tests' last line was passed. A program that searches the interpreter's frames for the
    token can still cheat.
    """
    token = secrets.token_hex(16)
    verdict, descriptor = os.pipe()
    job = {
        "answer": answer,
        "tests": tests,
        "descriptor": descriptor,
        "token": token,
        "limits": {
            "RLIMIT_CPU": int(limits.seconds) + 1,
            "RLIMIT_AS": limits.memory_bytes,
            "RLIMIT_NOFILE": limits.open_files,
            "RLIMIT_FSIZE": 0,
            "RLIMIT_CORE": 0,
            "RLIMIT_NPROC": 0,
        },
    }
    with os.fdopen(verdict, "rb", buffering=0) as told, _running(job, descriptor):
        # Readable once the token is there, or once nothing that could still write it is left.
        ready, _, _ = select.select([told], [], [], limits.seconds)
        return bool(ready) and told.read(len(token) + 1) == token.encode()


@contextlib.contextmanager
def _running(job: dict[str, object], descriptor: int) -> Iterator[None]:
    """Run a job that inherits a descriptor, which is closed here; kill what is left of it.

    Processes that the job started are in its group, and a group's name is not given anew while its
    first process is not waited for.
    """
    # Without -B bytecode would be written to files, which the limits forbid.
    command = [sys.executable, "-I", "-B", "-X", "utf8", "-c", _RUNNER]
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        try:
            process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd=folder,
                env=dict.fromkeys(_THREAD_SETTINGS, "1"),
                pass_fds=(descriptor,),
                start_new_session=True,
                text=True,
            )
        finally:
            os.close(descriptor)
        try:
            # Its end may be closed already, by a process that could not start.
            with contextlib.suppress(BrokenPipeError), process.stdin or io.StringIO() as given:
                json.dump(job, given)
            yield
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
