"""Runs the command in processes that are forked from one that has imported everything already.

Each command costs half a second of imports otherwise, a thousand times over. What a test is about
the start itself, signals or a terminal runs the installed command instead (`Docora.start`).
"""

from __future__ import annotations

import json
import os
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from threading import Thread
from typing import BinaryIO, NoReturn

_PID_AND_STATUS = struct.Struct("=ii")


class WarmCommand:
    """A process that has imported the command, and forks itself to run it."""

    def __init__(self, directory: Path) -> None:
        self._path = str(directory / f"warm-{os.getpid()}")
        ready, told = socket.socketpair()
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__, self._path, str(told.fileno())],
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

    def run(
        self, arguments: Sequence[str], environment: dict[str, str], timeout: float
    ) -> tuple[int, bytes, bytes]:
        """Exit code, stdout and stderr. Raises TimeoutError, having killed it."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.connect(self._path)
            connection.settimeout(timeout)
            out, their_out = os.pipe()
            err, their_err = os.pipe()
            request = json.dumps([list(arguments), environment, str(Path.cwd())]).encode()
            header = struct.pack("=I", len(request))
            socket.send_fds(connection, [header], [their_out, their_err])
            os.close(their_out)
            os.close(their_err)
            connection.sendall(request)
            shown: list[bytes] = [b"", b""]
            threads = [
                Thread(target=_read, args=(os.fdopen(end, "rb"), shown, index))
                for index, end in enumerate((out, err))
            ]
            for thread in threads:
                thread.start()
            pid = 0
            try:
                pid, _ = _PID_AND_STATUS.unpack(_receive(connection, _PID_AND_STATUS.size))
                _, status = _PID_AND_STATUS.unpack(_receive(connection, _PID_AND_STATUS.size))
            except TimeoutError:
                if pid:
                    os.kill(pid, signal.SIGKILL)
                raise
            for thread in threads:
                thread.join(timeout)
            return os.waitstatus_to_exitcode(status), shown[0], shown[1]


def _read(stream: BinaryIO, into: list[bytes], index: int) -> None:
    with stream:
        into[index] = stream.read()


def _receive(connection: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        piece = connection.recv(size - len(data))
        assert piece, "the process that runs commands has gone"
        data += piece
    return data


def _serve(path: str, told: int) -> NoReturn:
    _import_everything()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(path)
        listener.listen(64)
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the keepers
        os.write(told, b"!")
        os.close(told)
        while True:
            connection, _ = listener.accept()
            if os.fork() == 0:
                listener.close()
                _keep(connection)
            connection.close()


def _import_everything() -> None:
    import importlib
    import pkgutil

    import docora_ops

    for module in pkgutil.walk_packages(docora_ops.__path__, "docora_ops."):
        if not module.name.startswith(("docora_ops.__main__", "docora_ops.demo")):
            importlib.import_module(module.name)


def _keep(connection: socket.socket) -> NoReturn:
    """Fork the command, and tell who asked how it ends."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    header, descriptors, _, _ = socket.recv_fds(connection, 4, 2)
    request = _receive(connection, struct.unpack("=I", header)[0])
    pid = os.fork()
    if pid == 0:
        connection.close()
        _be_command(*json.loads(request), *descriptors)
    for descriptor in descriptors:
        os.close(descriptor)
    connection.sendall(_PID_AND_STATUS.pack(pid, 0))
    _, status = os.waitpid(pid, 0)
    connection.sendall(_PID_AND_STATUS.pack(pid, status))
    os._exit(0)


def _be_command(
    arguments: list[str], environment: dict[str, str], directory: str, out: int, err: int
) -> NoReturn:
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(directory)
    for descriptor, place in ((out, 1), (err, 2)):
        os.dup2(descriptor, place)
        os.close(descriptor)
    sys.argv = ["docora-ops", *arguments]
    sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", encoding="utf-8", buffering=1, closefd=False)  # noqa: SIM115
    code: object = 1
    try:
        from docora_ops.__main__ import main

        code = main()
    except SystemExit as end:
        code = end.code
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code if isinstance(code, int) else 1)


if __name__ == "__main__":
    _serve(sys.argv[1], int(sys.argv[2]))
