"""Runs the command in processes forked from one that has imported everything already.

Otherwise, each command costs 0.4 s of imports, hundreds of times over. A test of the start itself,
or of a shell, runs the installed command instead (`Docora.start_installed`).
"""

import atexit
import gc
import importlib
import json
import os
import pkgutil
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from threading import Thread
from typing import IO, Any, NoReturn, Self

_NUMBER = struct.Struct("=i")


class ForkedProcess:
    """What a test needs of `subprocess.Popen[str]`."""

    def __init__(self, connection: socket.socket, stdout: int, stderr: int) -> None:
        self._connection = connection
        self.returncode: int | None = None
        self.stdout = open(stdout, encoding="utf-8", newline="")  # noqa: SIM115
        self.stderr = open(stderr, encoding="utf-8", newline="")  # noqa: SIM115
        self.pid = self._receive(None)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind:  # the test has failed, and told nobody to end
            self.kill()
        self.stdout.close()
        self.stderr.close()
        self.wait()

    def poll(self) -> int | None:
        with suppress(subprocess.TimeoutExpired):
            return self.wait(0)
        return None

    def wait(self, timeout: float | None = None) -> int:
        if self.returncode is None:
            try:
                self.returncode = os.waitstatus_to_exitcode(self._receive(timeout))
            except (BlockingIOError, TimeoutError):
                raise subprocess.TimeoutExpired("docora-ops", timeout or 0) from None
            self._connection.close()
        return self.returncode

    def send_signal(self, number: signal.Signals) -> None:
        if self.poll() is None:
            with suppress(ProcessLookupError):  # it has ended since, as Popen allows
                os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        shown = ["", ""]

        def read(stream: IO[str], index: int) -> None:
            with stream:
                shown[index] = stream.read()

        threads = [
            Thread(target=read, args=(stream, index), daemon=True)
            for index, stream in enumerate((self.stdout, self.stderr))
            if not stream.closed
        ]
        for thread in threads:
            thread.start()
        self.wait(timeout)
        for thread in threads:
            thread.join(timeout)
        return shown[0], shown[1]

    def _receive(self, timeout: float | None) -> int:
        self._connection.settimeout(timeout)
        data = self._connection.recv(_NUMBER.size, socket.MSG_WAITALL)
        assert data, "the process that runs commands has gone"
        number: int = _NUMBER.unpack(data)[0]
        return number


class ForkServer:
    """A process that has imported the command, and forks itself to run it."""

    def __init__(self, directory: Path) -> None:
        self._path = str(directory / f"fork_server-{os.getpid()}")
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(self._path)
            listener.listen(64)
            self._process = subprocess.Popen(
                [sys.executable, "-m", __name__, str(listener.fileno())],
                stdin=subprocess.DEVNULL,
                pass_fds=[listener.fileno()],
            )

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        Path(self._path).unlink(missing_ok=True)

    def start(self, arguments: Sequence[str], environment: dict[str, str]) -> ForkedProcess:
        """Starts a command, its output in pipes."""
        nowhere = os.open(os.devnull, os.O_RDONLY)
        out, their_out = os.pipe()
        err, their_err = os.pipe()
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(self._path)
        request = json.dumps([list(arguments), environment, str(Path.cwd())]).encode()
        theirs = (nowhere, their_out, their_err)
        socket.send_fds(connection, [_NUMBER.pack(len(request))], theirs)
        connection.sendall(request)
        for descriptor in theirs:
            os.close(descriptor)
        return ForkedProcess(connection, out, err)


def _serve(listener: socket.socket) -> NoReturn:
    _prepare()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for those that wait for a command
    while True:
        connection, _ = listener.accept()
        if os.fork() == 0:
            listener.close()
            _run_command(connection)
        connection.close()


def _prepare() -> None:
    """Does once what is the same in each process."""
    import docora_ops

    for module in pkgutil.walk_packages(docora_ops.__path__, "docora_ops."):
        if not module.name.startswith(("docora_ops.__main__", "docora_ops.demo")):
            with suppress(ImportError):  # the command will say it
                importlib.import_module(module.name)
    for name in ("docora_ops.__main__", "encodings.idna", "importlib.resources.readers"):
        importlib.import_module(name)
    gc.collect()
    gc.freeze()


def _run_command(connection: socket.socket) -> NoReturn:
    """Starts the command that the test asks for; sends its process id, then how it ended."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    header, streams, _, _ = socket.recv_fds(connection, _NUMBER.size, 3)
    request = json.loads(connection.recv(_NUMBER.unpack(header)[0], socket.MSG_WAITALL))
    pid = os.fork()
    if pid == 0:
        connection.close()
        _be_command(*request, *streams)
    for stream in streams:
        os.close(stream)
    with suppress(OSError):  # whoever asked may have gone
        connection.sendall(_NUMBER.pack(pid))
        connection.sendall(_NUMBER.pack(os.waitpid(pid, 0)[1]))
    os._exit(0)


def _be_command(
    arguments: list[str], environment: dict[str, str], directory: str, *streams: int
) -> NoReturn:
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(directory)
    for place, descriptor in enumerate(streams):
        os.dup2(descriptor, place)
        os.close(descriptor)
    sys.argv = ["docora-ops", *arguments]
    os.setsid()  # or a person's own terminal would be asked
    sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", encoding="utf-8", buffering=1, closefd=False)  # noqa: SIM115
    code: Any = 1
    try:
        from docora_ops.__main__ import main

        code = main()
    except SystemExit as end:
        code = end.code or 0  # None is success
    except BaseException:  # noqa: BLE001 - as the interpreter does at the end of a process
        sys.excepthook(*sys.exc_info())
    finally:
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code if isinstance(code, int) else 1)


if __name__ == "__main__":
    _serve(socket.socket(fileno=int(sys.argv[1])))
