"""Runs git without a shell, a prompt or any configuration but ours."""

import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, urljoin, urlsplit

from docora_ops.errors import ConfigurationError, GitError, SnapshotError
from docora_ops.interrupts import CUT_OFF, deferred
from docora_ops.text import inert
from docora_ops.worker.certificates import HINT
from docora_ops.worker.host import memory_limit
from docora_ops.worker.log import log

PIECE = 1 << 20
"""Bytes to read from git at once."""

_KEPT_VARIABLES = (
    *("PATH", "USER", "TMPDIR", "SSH_AUTH_SOCK", "SSL_CERT_DIR", "SSL_CERT_FILE"),
    *("GIT_SSH", "GIT_SSH_COMMAND", "GIT_SSL_CAINFO", "GIT_SSL_CAPATH"),
    *("all_proxy", "http_proxy", "https_proxy", "no_proxy"),
    *("ALL_PROXY", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"),
)
_SETTINGS = {
    "core.hooksPath": os.devnull,
    "core.bigFileThreshold": "16m",  # larger ones are streamed, not held in memory
    "core.fsmonitor": "false",
    "credential.helper": "",
    "fetch.recurseSubmodules": "false",
    "pack.threads": "4",  # one for each core would keep 96 MB each
    "gc.autoDetach": "false",
    "maintenance.autoDetach": "false",
    "http.followRedirects": "false",  # git cannot be limited to one host
    "http.lowSpeedLimit": "1000",
    "http.lowSpeedTime": "60",
}
_TOKEN = "DOCORA_OPS_GIT_TOKEN"  # noqa: S105 - the name of the variable
# The token is the user name; git uses this helper only for the repository's own server.
_HELPER = f'!f() {{ test "$1" != get || printf "username=%s\\npassword=\\n" "${_TOKEN}"; }}; f'
_UMASK = 0o077
"""Keeps the files that git writes from other users."""
_KEEP_ALIVE_INTERVAL = 20
"""Seconds."""
_UNKNOWN_AUTHORITY = re.compile(
    "certificate signer not trusted|certificate verification failed"  # GnuTLS
    "|SSL certificate problem: (unable to|self.signed)"  # OpenSSL
)
_OUT_OF_MEMORY = re.compile("out of memory|cannot allocate memory", re.IGNORECASE)
_MOST_REDIRECTS = 5
_REFS = "/info/refs"
_DEFAULT_PORTS = {"http": 80, "https": 443}
_REDIRECT = re.compile(r"unable to access .*: The requested URL returned error: 30[12378]")
_LOCATION = re.compile(r"<= Recv header: location:[ \t]*(\S*)", re.IGNORECASE)
_TRACE_HEADERS = {"GIT_TRACE_CURL": "1", "GIT_TRACE_CURL_NO_DATA": "1"}
_TRACED = " http.c:"
"""In each line of the trace, which names hosts and must not be shown."""
_MEDIA_TYPE = re.compile(r"<= recv header: content-type:[ \t]*([\w.+/-]+)")
_LIST_OF_REFS = "application/x-git-upload-pack-advertisement"
"""The content type of git's list. To git any other short text is a list without refs."""


def require_git() -> None:
    """Raises ConfigurationError if git is not installed."""
    if shutil.which("git") is None:
        raise ConfigurationError("git is not on PATH", hint="install it, version 2.31 or newer")


class Git:
    """Runs git for one repository. Calls raise GitError.

    url: where the repository is. Raises SnapshotError if it is unsafe.
    token: the login there.
    protocols: those that git may use.
    timeout: seconds that a call may take.
    keep_alive: called every 20 s while a call lasts. Its errors end git and the call.
    authorities: a file with the certificates to trust, instead of git's own.
    """

    def __init__(
        self,
        url: str,
        *,
        token: str | None,
        protocols: Sequence[str],
        timeout: float,
        keep_alive: Callable[[], None],
        authorities: Path | None = None,
    ) -> None:
        _check_url(url, protocols)
        self.url = url
        self.location = url
        """The URL to which the server redirects; `url` if it does not."""
        self._token = token
        self._protocols = protocols
        self._timeout = timeout
        self._keep_alive = keep_alive
        self._authorities = authorities

    def list_refs(self, *patterns: str) -> str:
        """Lists refs of the server; sets `location` to the URL that redirects lead to.

        Follows redirects on the same server, as a renamed repository needs them. git itself could
        follow them to any host or not at all. Raises GitError if a redirect leads elsewhere, or if
        something else than git answers.
        """
        self.location = self.url
        for _ in range(_MOST_REDIRECTS + 1):
            arguments = ["ls-remote", "--symref", "--", self.location, *patterns]
            code, output, trace = self._finish(arguments, "ls-remote", _TRACE_HEADERS)
            if not code:
                if not output and self.location.startswith("http"):
                    self._require_list_of_refs(trace)
                return output
            gist = _gist(trace, "ls-remote")
            if _REDIRECT.search(gist) is None:
                raise GitError(gist)
            found: list[str] = _LOCATION.findall(trace)
            self.location = target_on_same_server(self.location, found[-1] if found else "")
        raise GitError(f"{self.url} redirects more than {_MOST_REDIRECTS} times")

    def _require_list_of_refs(self, trace: str) -> None:
        """Raises GitError if the server has not sent git's list; a page may look empty."""
        types: list[str] = _MEDIA_TYPE.findall(trace.lower())
        if _LIST_OF_REFS not in types:
            raise GitError(
                f"{self.url} answers with {types[-1] if types else 'no content type'}, not with "
                "git's list of branches: is a gateway or a login page in between?"
            )

    def run(self, arguments: Sequence[str], inside: Path) -> str:
        """Runs git in a clone and returns its stdout. Raises GitError with git's own message."""
        command = arguments[0]
        code, output, complaint = self._finish([f"--git-dir={inside}", *arguments], command, {})
        if code:
            raise GitError(_gist(complaint, command))
        return output

    def start(self, clone: Path, *arguments: str) -> subprocess.Popen[bytes]:
        """Starts a git that reads the clone; the caller ends it by `stop`."""
        return _start(
            [f"--git-dir={clone}", *arguments],
            env=self._environment(),
            stdin=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=PIECE,
        )

    def _finish(
        self, arguments: Sequence[str], command: str, variables: dict[str, str]
    ) -> tuple[int, str, str]:
        """Runs git to its end; returns its exit code, stdout and stderr."""
        end = time.monotonic() + self._timeout
        process = _start(
            arguments,
            env=self._environment() | variables,
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            errors="replace",
        )
        try:
            while (left := end - time.monotonic()) > 0:
                with suppress(subprocess.TimeoutExpired):
                    output, complaint = process.communicate(timeout=min(_KEEP_ALIVE_INTERVAL, left))
                    return process.returncode, output, complaint
                self._keep_alive()
            raise GitError(f"git {command} took longer than {self._timeout:g} s")
        except BaseException:
            stop(process)
            raise

    def _environment(self) -> dict[str, str]:
        configuration = dict(_SETTINGS)
        environment = {name: os.environ[name] for name in _KEPT_VARIABLES if name in os.environ} | {
            "HOME": os.devnull,  # no .netrc; ssh finds its keys without HOME
            "LC_ALL": "C",
            "GIT_ALLOW_PROTOCOL": ":".join(self._protocols),
            "GIT_ASKPASS": "",
            "GIT_CONFIG_GLOBAL": os.devnull,
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_TERMINAL_PROMPT": "0",
            "SSH_ASKPASS": "",
        }
        if self._authorities is not None:
            environment["GIT_SSL_CAINFO"] = str(self._authorities)
        if self._token is not None:
            parts = urlsplit(self.location)
            # For this server only, even if the server makes git ask for another one.
            configuration[f"credential.{parts.scheme}://{parts.netloc}.helper"] = _HELPER
            environment[_TOKEN] = self._token
        environment["GIT_CONFIG_COUNT"] = str(len(configuration))
        for index, (key, value) in enumerate(configuration.items()):
            environment[f"GIT_CONFIG_KEY_{index}"] = key
            environment[f"GIT_CONFIG_VALUE_{index}"] = value
        return environment


def _start(arguments: Sequence[str], **options: Any) -> subprocess.Popen[Any]:
    """Starts git. A cut-off or timeout that comes meanwhile finds a process that it can end."""
    process = None
    try:
        with deferred((CUT_OFF, signal.SIGALRM)):
            process = subprocess.Popen(
                ["git", *arguments], umask=_UMASK, cwd="/", stdout=subprocess.PIPE, **options
            )
    except BaseException:
        if process is not None:
            stop(process)
        raise
    return process


def stop(process: subprocess.Popen[Any]) -> None:
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


def _helpers(pid: int) -> list[int]:
    """Returns the descendants of a process, on Linux; elsewhere they end by themselves later.

    git gets no process group of its own, since RQ kills a job by the group of its process.
    """
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()
    except OSError:
        return []
    return [each for child in children for each in (int(child), *_helpers(int(child)))]


def target_on_same_server(url: str, location: str) -> str:
    """Returns the URL of the repository at `url` after a redirect of its `info/refs`.

    Raises GitError, without the name of the other host, if the redirect leaves the host or the
    port, or leads to something else than a repository. http may redirect to https.
    """
    try:
        target = urlsplit(urljoin(url.rstrip("/") + _REFS, location))
        here, there = _server(urlsplit(url)), _server(target)
    except ValueError:
        target, here, there = urlsplit(""), None, ("", None, None)
    is_upgrade = here == ("http", there[1], 80) and there == ("https", there[1], 443)
    if there != here and not is_upgrade:
        where = "{}://{}:{}".format(*there)
        log.warning("%s redirects to %s: not followed", inert(url), inert(where))
        raise GitError(
            f"{url} redirects to another server; only redirects on its own host and port are "
            "followed"
        )
    if not target.path.endswith(_REFS) or "@" in target.netloc:
        raise GitError(f"{url} redirects to something that is not a repository")
    return target._replace(path=target.path.removesuffix(_REFS), query="", fragment="").geturl()


def _server(parts: SplitResult) -> tuple[str, str | None, int | None]:
    return parts.scheme, parts.hostname, parts.port or _DEFAULT_PORTS.get(parts.scheme)


def _check_url(url: str, protocols: Sequence[str]) -> None:
    """Raises SnapshotError, without a login, for a URL that git may not be given."""
    shown = repr(re.sub("//.*@", "//***@", url, flags=re.DOTALL)[:200])
    try:
        parts = urlsplit(url)
        has_host = parts.scheme == "file" or bool(parts.hostname and parts.port != 0)
    except ValueError:
        parts, has_host = urlsplit(""), False
    if not has_host or not re.fullmatch(r"[a-z0-9+]+://[^\x00-\x20\x7f]*", url):
        raise SnapshotError(f"the URL {shown} is not one that git may be given")
    if parts.scheme not in protocols:
        raise SnapshotError(
            f"the URL {shown} uses {parts.scheme}: allowed is {', '.join(protocols)} "
            "(DOCORA_OPS_GIT_PROTOCOLS)"
        )
    if parts.password is not None or (parts.username and parts.scheme != "ssh"):
        raise SnapshotError("the repository's URL has a user or a password in it")


def _gist(complaint: str, command: str) -> str:
    """Returns the lines of git's stderr that tell the error, with a hint if there is one."""
    lines = [line.strip() for line in complaint.splitlines() if line.strip()]
    lines = [line for line in lines if _TRACED not in line]
    telling = [line for line in lines if line.startswith(("fatal:", "error:", "remote:"))]
    gist = "; ".join((telling or lines)[-3:]) or f"git {command} failed without a word"
    if _OUT_OF_MEMORY.search(gist):
        return f"git ran out of memory ({memory_limit()}): {gist}"
    return f"{gist}; {HINT}" if _UNKNOWN_AUTHORITY.search(gist) else gist
