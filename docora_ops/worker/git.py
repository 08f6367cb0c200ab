"""Runs git without a shell, a prompt or any configuration but ours."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO
from urllib.parse import urlsplit

from docora_ops.errors import ConfigurationError, GitError

PIECE = 1 << 20
"""Bytes to read from git at once."""

_KEPT_VARIABLES = frozenset(
    {"PATH", "USER", "TMPDIR", "SSH_AUTH_SOCK", "SSL_CERT_DIR", "SSL_CERT_FILE"}
    | {"GIT_SSH", "GIT_SSH_COMMAND", "GIT_SSL_CAINFO", "GIT_SSL_CAPATH"}
    | {"all_proxy", "http_proxy", "https_proxy", "no_proxy"}
    | {"ALL_PROXY", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"}
)
_TOKEN = "DOCORA_OPS_GIT_TOKEN"  # noqa: S105 - the name of the variable
# The token is the user name; git uses this helper only for the repository's own server.
_HELPER = f'!f() {{ test "$1" != get || printf "username=%s\\npassword=\\n" "${_TOKEN}"; }}; f'
_UMASK = 0o077
"""Keeps the files that git writes from other users."""
_KEEP_ALIVE_INTERVAL = 20


def require_git() -> None:
    """Raises ConfigurationError if git is not installed."""
    if shutil.which("git") is None:
        raise ConfigurationError("git is not on PATH", hint="install it, version 2.31 or newer")


class Git:
    """Runs git for one repository.

    `url` is the server's, `token` the login there, and `protocols` those that git may use. git
    follows no redirect. `run` and `trace` take `timeout` seconds at most, and call `keep_alive`
    every 20 s. They raise GitError and the errors of `keep_alive`.
    """

    def __init__(
        self,
        url: str,
        token: str | None,
        protocols: Sequence[str],
        timeout: float,
        keep_alive: Callable[[], None],
    ) -> None:
        self.url = url
        self._environment = _environment(url, token, protocols)
        self._timeout = timeout
        self._keep_alive = keep_alive

    def run(self, arguments: Sequence[str], inside: Path | None = None) -> str:
        """Runs git and returns its stdout. Raises GitError with git's own message."""
        where = [f"--git-dir={inside}"] if inside else []
        code, output, complaint = self._finish([*where, *arguments], arguments[0], {})
        if code:
            raise GitError(_gist(complaint, arguments[0]))
        return output

    def trace(self, arguments: Sequence[str]) -> str:
        """Runs git and returns its log of the HTTP headers.

        The log names hosts, so it must not be shown; git leaves credentials out.
        """
        variables = {"GIT_TRACE_CURL": "1", "GIT_TRACE_CURL_NO_DATA": "1"}
        return self._finish(arguments, arguments[0], variables)[2]

    def _finish(
        self, arguments: Sequence[str], command: str, variables: dict[str, str]
    ) -> tuple[int, str, str]:
        """Runs git to its end; returns its exit code, stdout and stderr."""
        end = time.monotonic() + self._timeout
        process = subprocess.Popen(
            ["git", *arguments],
            env=self._environment | variables,
            umask=_UMASK,
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            errors="replace",
        )
        try:
            while True:
                left = end - time.monotonic()
                if left <= 0:
                    raise GitError(f"git {command} took longer than {self._timeout:g} s")
                with suppress(subprocess.TimeoutExpired):
                    output, complaint = process.communicate(timeout=min(_KEEP_ALIVE_INTERVAL, left))
                    return process.returncode, output, complaint
                self._keep_alive()
        except BaseException:
            stop(process)
            raise

    def start(
        self, clone: Path, *arguments: str, stdin: int = subprocess.DEVNULL
    ) -> subprocess.Popen[bytes]:
        """Starts a git that reads the clone; the caller ends it by `stop`."""
        return subprocess.Popen(
            ["git", f"--git-dir={clone}", *arguments],
            env=self._environment,
            umask=_UMASK,
            cwd="/",
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=PIECE,
        )


def stop(process: subprocess.Popen[bytes] | subprocess.Popen[str]) -> None:
    """Ends a git, which removes its temporary files, and its helpers, which git would leave."""
    for stream in (process.stdin, process.stdout, process.stderr):
        if stream is not None:
            with suppress(OSError):
                stream.close()
    helpers = _helpers(process.pid) if process.poll() is None else []
    process.terminate()
    for helper in helpers:
        with suppress(ProcessLookupError):
            os.kill(helper, signal.SIGTERM)
    try:
        process.wait(timeout=5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def output_of(process: subprocess.Popen[bytes]) -> IO[bytes]:
    """Returns the stdout of a git from `start`."""
    assert process.stdout is not None  # noqa: S101 - opened as a pipe
    return process.stdout


def _environment(url: str, token: str | None, protocols: Sequence[str]) -> dict[str, str]:
    configuration = [
        ("core.hooksPath", os.devnull),
        ("core.bigFileThreshold", "16m"),  # larger ones are streamed, not held in memory
        ("core.fsmonitor", "false"),
        ("credential.helper", ""),
        ("fetch.recurseSubmodules", "false"),
        ("gc.autoDetach", "false"),
        ("maintenance.autoDetach", "false"),
        ("http.followRedirects", "false"),  # git cannot be limited to one host
        ("http.lowSpeedLimit", "1000"),
        ("http.lowSpeedTime", "60"),
    ]
    environment = {name: value for name, value in os.environ.items() if name in _KEPT_VARIABLES} | {
        "HOME": os.devnull,  # no .netrc; ssh finds its keys without HOME
        "LC_ALL": "C",
        "GIT_ALLOW_PROTOCOL": ":".join(protocols),
        "GIT_ASKPASS": "",
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_TERMINAL_PROMPT": "0",
        "SSH_ASKPASS": "",
    }
    if token is not None:
        parts = urlsplit(url)
        # For this server only, even if the server makes git ask for another one.
        configuration.append((f"credential.{parts.scheme}://{parts.netloc}.helper", _HELPER))
        environment[_TOKEN] = token
    environment["GIT_CONFIG_COUNT"] = str(len(configuration))
    for index, (key, value) in enumerate(configuration):
        environment[f"GIT_CONFIG_KEY_{index}"] = key
        environment[f"GIT_CONFIG_VALUE_{index}"] = value
    return environment


def _gist(complaint: str, command: str) -> str:
    """Returns the lines of git's stderr that tell the error."""
    lines = [line.strip() for line in complaint.splitlines() if line.strip()]
    telling = [line for line in lines if line.startswith(("fatal:", "error:", "remote:"))]
    return "; ".join((telling or lines)[-3:]) or f"git {command} failed without a word"


def _helpers(pid: int) -> list[int]:
    """Returns the descendants of a process, on Linux; elsewhere they end by themselves later.

    git gets no process group of its own, since RQ kills a job by the group of its process.
    """
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()
    except OSError:
        return []
    return [each for child in children for each in (int(child), *_helpers(int(child)))]
