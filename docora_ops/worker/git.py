"""Runs git without a shell, without prompts, and without the configuration of user or system."""

import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, urljoin, urlsplit

from docora_ops.errors import GitError, SnapshotError
from docora_ops.worker.authorities import certificate_hint

PIECE = 1 << 20  # bytes to read from git at once
_KEPT_VARIABLES = re.compile(
    "PATH|USER|TMPDIR|SSH_AUTH_SOCK|SSL_CERT_(DIR|FILE)|GIT_SSH(_COMMAND)?|GIT_SSL_CA(INFO|PATH)"
    "|(all|https?|no)_proxy|(ALL|HTTPS?|NO)_PROXY"
)
_SETTINGS = {
    "core.hooksPath": os.devnull,
    "core.bigFileThreshold": "16m",  # larger ones are streamed, not held in memory
    "core.fsmonitor": "false",
    "credential.helper": "",
    "fetch.recurseSubmodules": "false",
    "pack.threads": "4",  # one for each core would keep 96 MB each
    "gc.autoDetach": "false",
    "gc.packRefs": "false",  # we read the ref from its file
    "maintenance.autoDetach": "false",
    "http.followRedirects": "false",  # git cannot be limited to one host
    "http.lowSpeedLimit": "1000",
    "http.lowSpeedTime": "60",
}
_TOKEN = "DOCORA_OPS_GIT_TOKEN"  # noqa: S105 - the name of the variable
# The token is the user name; git uses this helper only for the repository's own server.
_HELPER = f'!f() {{ test "$1" != get || printf "username=%s\\npassword=\\n" "${_TOKEN}"; }}; f'
KEEP_ALIVE_INTERVAL = 20  # seconds
_MOST_REDIRECTS = 5
_REFS = "/info/refs"
_REDIRECT = re.compile(r"unable to access .*: The requested URL returned error: 30[12378]")
_LOCATION = re.compile(r"<= Recv header: location:[ \t]*(\S*)", re.IGNORECASE)
_TRACED = " http.c:"  # marks the lines of the trace, which name hosts: they must not be shown
_MEDIA_TYPE = re.compile(r"<= recv header: content-type:[ \t]*([\w.+/-]+)")
# The content type of git's list. git takes any other short text for a list without refs.
_LIST_OF_REFS = "application/x-git-upload-pack-advertisement"


@dataclass
class Git:
    """Runs git for one repository. Calls raise GitError; an unsafe URL raises SnapshotError.

    token: the login at the server; None for a public repository.
    protocols: the protocols that git may use, separated by commas.
    timeout: the maximum duration of a call, in seconds.
    keep_alive: called every 20 s during a call. If `keep_alive` raises an error, git is ended.
    location: the URL after all redirects; without a redirect, `url`.
    """

    url: str
    token: str | None = field(repr=False)
    protocols: str
    timeout: float
    keep_alive: Callable[[], None]
    location: str = field(init=False)

    def __post_init__(self) -> None:
        _check_url(self.url, self.protocols.split(","))
        self.location = self.url

    def list_refs(self, *patterns: str) -> str:
        """Returns the server's refs that match, as `git ls-remote --symref` prints them.

        Follows redirects within the same server, as of a renamed repository, and sets `location`.
        git itself can only follow redirects to any server, or none. Raises GitError if a redirect
        leads to another server or to no repository, or if the answer is not git's.
        """
        self.location, end = self.url, time.monotonic() + self.timeout
        for _ in range(_MOST_REDIRECTS + 1):
            arguments = ["ls-remote", "--symref", "--", self.location, *patterns]
            headers = {"GIT_TRACE_CURL": "1", "GIT_TRACE_CURL_NO_DATA": "1"}
            code, output, trace = self._finish(arguments, headers, end)
            if code:
                gist = _gist(trace)
                if _REDIRECT.search(gist) is None:
                    raise GitError(gist)
                locations: list[str] = _LOCATION.findall(trace) or [""]
                self.location = target_on_same_server(self.location, locations[-1])
                continue
            types: list[str] = _MEDIA_TYPE.findall(trace.lower()) or ["no content type"]
            # A page may look to git like an empty list.
            if output or _LIST_OF_REFS in types or not self.location.startswith("http"):
                return output
            raise GitError(
                f"{self.url} answers with {types[-1]}, not with git's list of branches: is a "
                "gateway or a login page in between?"
            )
        raise GitError(f"{self.url} redirects more than {_MOST_REDIRECTS} times")

    def run(self, arguments: Sequence[str], inside: Path) -> None:
        """Runs git in a clone. Raises GitError with git's own message."""
        end = time.monotonic() + self.timeout
        code, _, complaint = self._finish(arguments, {"GIT_DIR": str(inside)}, end)
        if code:
            raise GitError(_gist(complaint))

    def start(self, arguments: Sequence[str], inside: Path) -> subprocess.Popen[bytes]:
        """Starts git in a clone. The caller ends the process with `stop`."""
        return _start(
            arguments,
            env=self._environment() | {"GIT_DIR": str(inside)},
            stdin=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=PIECE,
        )

    def _finish(
        self, arguments: Sequence[str], variables: Mapping[str, str], end: float
    ) -> tuple[int, str, str]:
        """Runs git; returns exit code, stdout, stderr. Raises GitError if git still runs at `end`.

        end: the deadline, by the monotonic clock.
        """
        process = _start(
            arguments,
            env={**self._environment(), **variables},
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            errors="replace",
        )
        try:
            while (left := end - time.monotonic()) > 0:
                with suppress(subprocess.TimeoutExpired):
                    output, complaint = process.communicate(timeout=min(KEEP_ALIVE_INTERVAL, left))
                    return process.returncode, output, complaint
                self.keep_alive()
            raise GitError(f"git {arguments[0]} took longer than {self.timeout:g} s")
        finally:
            stop(process)

    def _environment(self) -> dict[str, str]:
        configuration = dict(_SETTINGS)
        kept = {name: os.environ[name] for name in os.environ if _KEPT_VARIABLES.fullmatch(name)}
        environment = kept | {
            "HOME": os.devnull,  # no .netrc; ssh finds its keys without HOME
            "LC_ALL": "C",
            "GIT_ALLOW_PROTOCOL": self.protocols.replace(",", ":"),
            "GIT_ASKPASS": "",
            "GIT_CONFIG_GLOBAL": os.devnull,
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_TERMINAL_PROMPT": "0",
            "SSH_ASKPASS": "",
        }
        if self.token is not None:
            parts = urlsplit(self.location)
            # For this server only: its answers may make git ask for the login of another server.
            configuration[f"credential.{parts.scheme}://{parts.netloc}.helper"] = _HELPER
            environment[_TOKEN] = self.token
        environment["GIT_CONFIG_COUNT"] = str(len(configuration))
        for index, (key, value) in enumerate(configuration.items()):
            environment[f"GIT_CONFIG_KEY_{index}"] = key
            environment[f"GIT_CONFIG_VALUE_{index}"] = value
        return environment


def _start(arguments: Sequence[str], **options: Any) -> subprocess.Popen[Any]:
    """Starts git. If the job reaches its time limit meanwhile, ends git and raises RQ's error."""
    is_late = False

    def note(*_: object) -> None:
        nonlocal is_late
        is_late = True

    before = signal.signal(signal.SIGALRM, note)
    try:
        command = ["git", *arguments]
        process = subprocess.Popen(command, cwd="/", stdout=subprocess.PIPE, **options)
    finally:
        signal.signal(signal.SIGALRM, before)
    try:
        if is_late:
            signal.raise_signal(signal.SIGALRM)
    except BaseException:
        stop(process)
        raise
    return process


def stop(process: subprocess.Popen[Any]) -> None:
    """Ends git and the processes that it has started.

    Sends SIGTERM, on which git removes temporary files. Kills git if it still runs 5 s later.
    """
    for stream in filter(None, (process.stdin, process.stdout, process.stderr)):
        with suppress(OSError):
            stream.close()
    for pid in [process.pid, *_descendants(process.pid)] if process.poll() is None else []:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
    try:
        process.wait(timeout=5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _descendants(pid: int) -> list[int]:
    """Returns the ids of all descendants of a process; none without /proc.

    git leaves its children running when it is killed. git gets no process group of its own, because
    it must end when the process group of the job is killed.
    """
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()
    except OSError:
        return []
    return [pid for child in map(int, children) for pid in (child, *_descendants(child))]


def target_on_same_server(url: str, location: str) -> str:
    """Returns the URL of the repository to which the repository at `url` redirects.

    location: the Location header with which the server answers a request for `info/refs`.

    Raises GitError, without the name of the other host, if the redirect leads to another scheme,
    host or port, or to something other than a repository.
    """
    try:
        target = urlsplit(urljoin(url.rstrip("/") + _REFS, location))
        is_same = _server(urlsplit(url)) == _server(target)
    except ValueError:
        is_same = False
    if not is_same:
        raise GitError(
            f"{url} redirects to another server; only redirects on its own host and port are "
            "followed"
        )
    if not target.path.endswith(_REFS) or "@" in target.netloc:
        raise GitError(f"{url} redirects to something that is not a repository")
    return target._replace(path=target.path.removesuffix(_REFS), query="", fragment="").geturl()


def _server(parts: SplitResult) -> tuple[str, str | None, int | None]:
    default = {"http": 80, "https": 443}.get(parts.scheme)
    return parts.scheme, parts.hostname, parts.port or default


def _check_url(url: str, protocols: Sequence[str]) -> None:
    """Raises SnapshotError for a URL that is unsafe or not allowed. The error shows no login."""
    shown = repr(re.sub("//.*@", "//***@", url, flags=re.DOTALL)[:200])
    try:
        parts = urlsplit(url)
        has_host = parts.scheme == "file" or bool(parts.hostname and parts.port != 0)
    except ValueError:
        has_host = False
    if not has_host or not re.fullmatch(r"[a-z0-9+]+://[^\x00-\x20\x7f]*", url):
        raise SnapshotError(f"the URL {shown} is not one that git may be given")
    if parts.scheme not in protocols:
        allowed = f"allowed is {', '.join(protocols)} (DOCORA_OPS_GIT_PROTOCOLS)"
        raise SnapshotError(f"the URL {shown} uses {parts.scheme}: {allowed}")
    if parts.password is not None or (parts.username and parts.scheme != "ssh"):
        raise SnapshotError("the repository's URL has a user or a password in it")


def _gist(complaint: str) -> str:
    """Returns the lines of git's stderr that name the error.

    Adds a hint if these lines mention a certificate.
    """
    lines = [line.strip() for line in complaint.splitlines() if line.strip()]
    lines = [line for line in lines if _TRACED not in line]
    telling = [line for line in lines if line.startswith(("fatal:", "error:", "remote:"))]
    gist = "; ".join((telling or lines)[-3:]) or "git failed without a word"
    return f"{gist}; {certificate_hint(gist)}" if "certificate" in gist else gist
