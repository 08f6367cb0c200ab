"""Runs the command in processes that are forked from one that has imported everything already.

Each command costs half a second of imports otherwise, a thousand times over. A test of the start
itself or of a shell runs the installed command instead (`Docora.start_installed`).
"""

import atexit
import fcntl
import gc
import importlib
import json
import os
import pkgutil
import selectors
import signal
import socket
import struct
import subprocess
import sys
import termios
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from threading import Thread
from typing import IO, Any, NoReturn, Self

import typer.main

HOLDS_ROWS = "TEST_HOLDS_ROWS"
"""For how many seconds a command may have rows locked while it waits for Redis: else for 4."""

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
        ready, told = socket.socketpair()
        self._process = subprocess.Popen(
            [sys.executable, "-X", "faulthandler", "-m", __name__, self._path, str(told.fileno())],
            stdin=subprocess.DEVNULL,
            pass_fds=[told.fileno()],
        )
        told.close()
        with ready:
            assert ready.recv(1) == b"!", "the process that runs commands has not come up"

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        Path(self._path).unlink(missing_ok=True)

    def start(
        self,
        arguments: Sequence[str],
        environment: dict[str, str],
        streams: tuple[int, int, int] | None = None,
    ) -> ForkedProcess:
        """Start a command, its output in pipes.

        `streams`: descriptors for stdin, stdout and stderr instead. A terminal at stdin becomes the
        controlling one.
        """
        nowhere = os.open(os.devnull, os.O_RDONLY)
        out, their_out = os.pipe()
        err, their_err = os.pipe()
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.connect(self._path)
        request = json.dumps([list(arguments), environment, str(Path.cwd())]).encode()
        theirs = streams or (nowhere, their_out, their_err)
        socket.send_fds(connection, [_NUMBER.pack(len(request))], theirs)
        connection.sendall(request)
        for descriptor in (nowhere, their_out, their_err):
            os.close(descriptor)
        return ForkedProcess(connection, out, err)


def _serve(path: str, told: int) -> NoReturn:
    _prepare()
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener,
        selectors.DefaultSelector() as selector,
    ):
        listener.bind(path)
        listener.listen(64)
        selector.register(listener, selectors.EVENT_READ)
        os.write(told, b"!")
        os.close(told)
        while True:
            for key, _ in selector.select():
                if key.data:  # a command has ended
                    pid, connection = key.data
                    with connection, suppress(OSError):  # whoever asked may have gone
                        connection.send(_NUMBER.pack(os.waitpid(pid, 0)[1]))
                    selector.unregister(key.fd)
                    os.close(key.fd)
                    continue
                connection, _ = listener.accept()
                header, descriptors, _, _ = socket.recv_fds(connection, _NUMBER.size, 3)
                size = _NUMBER.unpack(header)[0]
                request = json.loads(connection.recv(size, socket.MSG_WAITALL))
                pid = os.fork()
                if pid == 0:
                    for inherited in (connection, listener, selector):
                        inherited.close()
                    _be_command(*request, *descriptors)
                for descriptor in descriptors:
                    os.close(descriptor)
                selector.register(os.pidfd_open(pid), selectors.EVENT_READ, (pid, connection))
                connection.sendall(_NUMBER.pack(pid))


def _prepare() -> None:
    """Do once what is the same in each process."""
    import docora_ops

    for module in pkgutil.walk_packages(docora_ops.__path__, "docora_ops."):
        if not module.name.startswith(("docora_ops.__main__", "docora_ops.demo")):
            importlib.import_module(module.name)
    later = ("encodings.idna", "importlib.resources.readers", "prometheus_client")
    for name in ("docora_ops.__main__", *later, "tests.support.small_batches"):
        importlib.import_module(name)
    # Typer reads the signatures of all commands anew each time: 10 ms for each process.
    group = typer.main.get_group(importlib.import_module("docora_ops.cli.app").app)
    for command in group.commands.values():
        for parameter in command.params:
            if isinstance(parameter, typer.core.TyperArgument | typer.core.TyperOption):
                parameter.get_runtime_param()
    typer.main.get_group = lambda typer_instance: group
    importlib.import_module("docora_ops.settings").Settings()
    gc.collect()
    gc.freeze()


def _be_command(
    arguments: list[str], environment: dict[str, str], directory: str, *streams: int
) -> NoReturn:
    if seconds := environment.pop(HOLDS_ROWS, ""):
        redis_client, postgres = "docora_ops.queue.redis_client", "docora_ops.database.postgres"
        importlib.import_module(redis_client).__dict__["LONGEST_TIMEOUT"] = int(seconds)
        importlib.import_module(postgres).__dict__["IDLE_LIMIT"] = int(seconds) + 5
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(directory)
    for place, descriptor in enumerate(streams):
        os.dup2(descriptor, place)
        os.close(descriptor)
    from tests.support.small_batches import take_batch_size

    sys.argv = ["docora-ops", *take_batch_size(arguments)]
    os.setsid()  # or a person's own terminal would be asked
    if is_at_terminal := os.isatty(0):
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", encoding="utf-8", buffering=1, closefd=False)  # noqa: SIM115
    code: Any = 1
    try:
        from docora_ops.__main__ import main

        code = main()
    except SystemExit as end:
        code = end.code or 0  # None is success
    finally:
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        if is_at_terminal:
            # Or the kernel would throw away what nobody has read yet.
            signal.signal(signal.SIGHUP, signal.SIG_IGN)
            with suppress(OSError):  # it has been closed
                fcntl.ioctl(0, termios.TIOCNOTTY)
        os._exit(code if isinstance(code, int) else 1)


if __name__ == "__main__":
    _serve(sys.argv[1], int(sys.argv[2]))
