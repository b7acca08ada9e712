"""Lets a process end with the one that started it, which finds it again and begins it anew.

`python -m autocompress.service.parent PID ARGUMENTS` runs a command of autocompress so.
"""

import os
import runpy
import signal
import sys
import threading
import time
from typing import Final

WATCH_SECONDS: Final = 0.5
GRACE_SECONDS: Final = 10.0
"""For clearing up, before what does not end is ended."""


def end_with(parent: int) -> None:
    """Interrupt this process, as Ctrl-C does, when its parent is gone.

    Args:
        parent: It may be gone by now: importing torch takes seconds.
    """

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(WATCH_SECONDS)
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(GRACE_SECONDS)
        os._exit(1)

    if os.getppid() != parent:
        sys.exit(1)
    threading.Thread(target=watch, daemon=True).start()


if __name__ == "__main__":
    end_with(int(sys.argv.pop(1)))
    runpy.run_module("autocompress", run_name="__main__", alter_sys=True)
