"""Work in a process of its own, which begins with all that is imported here."""

import os
import signal
import socket
import sys
import time
import traceback


class Forked:
    """A process in a session of its own that works and ends; what it prints goes to files.

    Args:
        work: its result is the status, 0 for None. folder: of the files. environment: set there.
    """

    def __init__(self, work, folder, name="0", **environment):
        folder.mkdir(exist_ok=True)
        self._files = [folder / f"{name}.{stream}" for stream in ("out", "err")]
        self.pid = os.fork()
        if self.pid:
            return
        status = 1
        try:
            os.setsid()
            for number, file in enumerate(self._files, 1):
                os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT), number)
            sys.stdout, sys.stderr = (os.fdopen(number, "w", closefd=False) for number in (1, 2))
            os.environ.update(environment)
            status = work() or 0
        except SystemExit as end:
            status = end.code or 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)

    def lives(self):
        return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None

    def wait(self, seconds=120):
        """(status, standard output, standard error); the status is negative after a signal."""
        deadline = time.monotonic() + seconds
        while not (ended := os.waitpid(self.pid, os.WNOHANG))[0]:
            if time.monotonic() > deadline:
                os.kill(self.pid, signal.SIGKILL)
            time.sleep(0.02)
        return os.waitstatus_to_exitcode(ended[1]), *(file.read_text() for file in self._files)


def in_ranks(work, folder, ranks=2):
    """The same work in several processes, as torchrun starts them: (status, out, err) of each."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1])
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    shared |= {"WORLD_SIZE": str(ranks), "LOCAL_WORLD_SIZE": str(ranks)}
    started = [
        Forked(work, folder, str(rank), RANK=str(rank), LOCAL_RANK=str(rank), **shared)
        for rank in range(ranks)
    ]
    return [process.wait() for process in started]
