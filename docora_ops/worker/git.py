"""Runs git with a configuration of ours and without a prompt; no shell starts it."""

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
"""Bytes that are read from git at once."""

_KEPT_VARIABLES = frozenset(
    {"PATH", "USER", "TMPDIR", "SSH_AUTH_SOCK", "SSL_CERT_DIR", "SSL_CERT_FILE"}
    | {"GIT_SSH", "GIT_SSH_COMMAND", "GIT_SSL_CAINFO", "GIT_SSL_CAPATH"}
    | {"all_proxy", "http_proxy", "https_proxy", "no_proxy"}
    | {"ALL_PROXY", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"}
)
_TOKEN = "DOCORA_OPS_GIT_TOKEN"  # noqa: S105 - the name of the variable
# The token is the user name; git asks for it only where the repository itself lies.
_HELPER = f'!f() {{ test "$1" != get || printf "username=%s\\npassword=\\n" "${_TOKEN}"; }}; f'
_PRIVATE = 0o077
"""The umask of every git: its files are for their owner alone."""
_STEP = 20
"""Seconds after which whoever waits for git shows that he is alive."""


def require_git() -> None:
    """Raise ConfigurationError unless git can be run."""
    if shutil.which("git") is None:
        raise ConfigurationError("git is not on PATH", hint="install it, version 2.31 or newer")


class Git:
    """How git is run for one repository: `timeout` is the seconds that one call may take.

    `url` is what it fetches from, `token` what it shows there, `protocols` those it may use.
    git follows no redirect.
    """

    def __init__(
        self, url: str, token: str | None, protocols: Sequence[str], timeout: float
    ) -> None:
        self.url = url
        self._environment = _environment(url, token, protocols)
        self._timeout = timeout

    def run(
        self, arguments: Sequence[str], keep_alive: Callable[[], None], inside: Path | None = None
    ) -> str:
        """What git prints; `keep_alive` is called every 20 s or so.

        Raises GitError with what git complains about, and whatever `keep_alive` raises.
        """
        code, output, complaint = self._finish(arguments, keep_alive, self._environment, inside)
        if code:
            raise GitError(_gist(complaint, arguments[0]))
        return output

    def trace(self, arguments: Sequence[str], keep_alive: Callable[[], None]) -> str:
        """Runs git and returns its log of the HTTP headers. Not to be shown: it names hosts.

        git leaves credentials out of it. Raises GitError when it takes too long, and whatever
        `keep_alive` raises.
        """
        variables = self._environment | {"GIT_TRACE_CURL": "1", "GIT_TRACE_CURL_NO_DATA": "1"}
        _, _, log = self._finish(arguments, keep_alive, variables, None)
        return log

    def _finish(
        self,
        arguments: Sequence[str],
        keep_alive: Callable[[], None],
        variables: dict[str, str],
        inside: Path | None,
    ) -> tuple[int, str, str]:
        """Runs git to its end; returns its exit code and what it wrote to stdout and stderr."""
        where = [f"--git-dir={inside}"] if inside else []
        end = time.monotonic() + self._timeout
        process = subprocess.Popen(
            ["git", *where, *arguments],
            env=variables,
            umask=_PRIVATE,
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        try:
            while True:
                left = end - time.monotonic()
                if left <= 0:
                    raise GitError(f"git {arguments[0]} took longer than {self._timeout:g} s")
                with suppress(subprocess.TimeoutExpired):
                    output, complaint = process.communicate(timeout=min(_STEP, left))
                    break
                keep_alive()
        except BaseException:
            stop(process)
            raise
        return (
            process.returncode,
            output.decode(errors="replace"),
            complaint.decode(errors="replace"),
        )

    def start(
        self, clone: Path, *arguments: str, stdin: int = subprocess.DEVNULL
    ) -> subprocess.Popen[bytes]:
        """A git that reads the clone, to be stopped by the caller."""
        return subprocess.Popen(
            ["git", f"--git-dir={clone}", *arguments],
            env=self._environment,
            umask=_PRIVATE,
            cwd="/",
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=PIECE,
        )


def stop(process: subprocess.Popen[bytes]) -> None:
    """End a git, which removes its own temporary files, and its helpers, which it leaves behind."""
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
    """What it prints."""
    assert process.stdout is not None  # noqa: S101 - opened as a pipe
    return process.stdout


def _environment(url: str, token: str | None, protocols: Sequence[str]) -> dict[str, str]:
    """What git runs with: nobody's configuration but ours, and no prompt."""
    configuration = [
        ("core.hooksPath", os.devnull),
        ("core.bigFileThreshold", "16m"),  # larger ones are streamed, not held in memory
        ("core.fsmonitor", "false"),
        ("credential.helper", ""),
        ("fetch.recurseSubmodules", "false"),
        ("gc.autoDetach", "false"),
        ("maintenance.autoDetach", "false"),
        ("http.followRedirects", "false"),  # git knows no limit to one host
        ("http.lowSpeedLimit", "1000"),
        ("http.lowSpeedTime", "60"),
    ]
    environment = {name: value for name, value in os.environ.items() if name in _KEPT_VARIABLES} | {
        "HOME": os.devnull,  # no .netrc; ssh does not look here for its keys
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
        # Not for another host, whatever the server makes git ask for.
        configuration.append((f"credential.{parts.scheme}://{parts.netloc}.helper", _HELPER))
        environment[_TOKEN] = token
    environment["GIT_CONFIG_COUNT"] = str(len(configuration))
    for index, (key, value) in enumerate(configuration):
        environment[f"GIT_CONFIG_KEY_{index}"] = key
        environment[f"GIT_CONFIG_VALUE_{index}"] = value
    return environment


def _gist(complaint: str, command: str) -> str:
    """Of all that git says, what went wrong."""
    lines = [line.strip() for line in complaint.splitlines() if line.strip()]
    telling = [line for line in lines if line.startswith(("fatal:", "error:", "remote:"))]
    return "; ".join((telling or lines)[-3:]) or f"git {command} failed without a word"


def _helpers(pid: int) -> list[int]:
    """The processes below this one, where the system tells; elsewhere they end a minute later.

    A process group of git's own would be simpler, but whoever kills a job kills the job's group.
    """
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()
    except OSError:
        return []
    return [each for child in children for each in (int(child), *_helpers(int(child)))]
