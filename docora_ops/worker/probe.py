"""Tests from this host what a worker would meet at an app and a git server. Sends no file."""

import math
import os
import resource
import shlex
import signal
import socket
import ssl
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from datetime import datetime
from pathlib import Path
from queue import Empty, SimpleQueue
from tempfile import TemporaryDirectory
from threading import Thread
from urllib.parse import urljoin, urlsplit

from cryptography import x509
from urllib3.connection import HTTPConnection

from docora_ops.actions.app_url import Probe, ProbeStep, base_url_of, refusal_of
from docora_ops.actions.checks import CheckState
from docora_ops.actions.docora import Docora
from docora_ops.actions.encryption import decrypt
from docora_ops.actions.lookup import gone, resolve_app, resolve_repository
from docora_ops.database.app_url import LinkToken, read_tokens
from docora_ops.errors import DeliveryError, SnapshotError
from docora_ops.links import App
from docora_ops.settings import Settings
from docora_ops.text import amount, mask_url
from docora_ops.worker import host
from docora_ops.worker.clone import newest_commit
from docora_ops.worker.git import Git, require_git
from docora_ops.worker.interrupts import blocked
from docora_ops.worker.resources import DELIVERY_TIMEOUT
from docora_ops.worker.secrets import Cleaner
from docora_ops.worker.webhook import FAILURES, LOGIN_HINT, Route, route_to

_LIMIT = 60  # seconds for all steps; the steps to the app share DELIVERY_TIMEOUT
_MOST_NAMED = 3  # addresses or apps that a finding lists
_PERMANENT = {301, 308}  # redirects
_SUCCESS = range(200, 300)
_REDIRECT_HINT = (
    "Docora's own worker follows redirects, those of docora-ops do not: ask whoever runs the app "
    "for the URL at the end of the redirects, then: docora-ops set-url APP URL"
)
_DOWN_HINT = (
    "a gateway answers for the app, which is down, overloaded or too slow: whoever runs the app "
    "must see to it; a POST will hardly do better"
)
_FAULT_HINT = (
    "the app, or a gateway in front of it, is at fault: whoever runs the app must look into its "
    "log; a POST will hardly do better"
)
# What the answer to a HEAD means, and who can act, unless a POST may succeed.
_HINTS = {
    **dict.fromkeys(range(300, 400), _REDIRECT_HINT),
    **dict.fromkeys(range(500, 600), _FAULT_HINT),
    401: "it wants a login, or only the signature, which a HEAD does not have: if links fail with "
    "HTTP 401, whoever runs the app must say which USER:PASSWORD@ the base_url needs, or accept "
    "Docora's signature",
    403: "it denies access, or only lacks the signature, which a HEAD does not have: if links fail "
    "with HTTP 403, whoever runs the app must let the workers' address pass",
    407: LOGIN_HINT,
    413: "it refuses requests for their size, and a POST carries a whole file: whoever runs the "
    "app must raise the limit of the app or of its gateway",
    501: "it does not know HEAD: if links fail with HTTP 501, whoever runs the app must look into "
    "its log",
    **dict.fromkeys((502, 503, 504), _DOWN_HINT),
}

# Apps by the token of their links (None without a usable token), and by the reason why the token is
# not usable (otherwise empty).
_Tokens = Mapping[tuple[str | None, str], list[App]]


def probe(
    docora: Docora,
    app: str | None = None,
    repository: str | None = None,
    *,
    new_url: str | None = None,
) -> Probe:
    """Probes an app's base_url, a repository with the tokens of its links, or both.

    With an app and a repository, uses only the token of their link. Takes at most a minute.

    app: id or name, or an unambiguous prefix of either.
    repository: id, `owner/name` or GitHub URL.
    new_url: the URL to probe in place of the app's base_url.

    Raises NotFoundError, AmbiguousError, PostgresError, ConfigurationError, HostFaultError.
    """
    database, settings = docora.database, docora.settings
    known_app = None if app is None else resolve_app(database, app)
    base_url = (new_url or base_url_of(database, known_app)) if known_app else None
    known_repository, url, cleaner = None, None, Cleaner()
    tokens: _Tokens = {}
    if repository is not None:
        require_git()
        apps = [known_app] if known_app else []
        known_repository = resolve_repository(database, apps, repository)
        app_id = known_app.app_id if known_app else None
        repository_id = known_repository.repository_id
        url, links = read_tokens(database, repository_id, app_id)
        if not links:
            raise gone(app_id or "", repository_id)
        tokens = _decrypted(settings, links, cleaner)
    steps: list[ProbeStep] = []
    with _as_a_worker(settings, for_git=url is not None):
        end = time.monotonic() + _LIMIT
        if known_app is not None and base_url is not None:
            steps += _App(known_app, base_url, settings).steps()
        if url is not None:
            steps += _git_steps(settings, url, tokens, cleaner, end)
    return Probe(
        host=os.uname().nodename,
        steps=steps,
        app_id=known_app.app_id if known_app else None,
        app_name=known_app.app_name if known_app else None,
        base_url=mask_url(base_url) if base_url else None,
        repository_id=known_repository.repository_id if known_repository else None,
        repository_name=known_repository.repository_name if known_repository else None,
        github_url=mask_url(url) if url else None,
    )


@contextmanager
def _as_a_worker(settings: Settings, *, for_git: bool) -> Iterator[None]:
    """Within the block, trusts the certificate authorities that a worker would trust.

    for_git: also limit the memory of this process, and of git, to that of a job.

    Raises HostFaultError if the file for git can't be written.
    """
    before = {name: os.environ.get(name) for name in host.AUTHORITY_VARIABLES}
    memory = resource.getrlimit(resource.RLIMIT_DATA)
    needs_file = for_git and (settings.node_extra_ca_certs or before["NODE_EXTRA_CA_CERTS"])
    try:
        with ExitStack() as stack:
            try:
                folder = Path(stack.enter_context(TemporaryDirectory())) if needs_file else None
            except OSError as error:
                raise host.authorities_fault("a temporary folder", error) from error
            host.use_authorities(settings, folder)
            if for_git:
                host.limit_memory(settings)
            yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, memory)
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
        host.tls_context.cache_clear()


class _App:
    """Probes an app step by step, up to the first critical step."""

    def __init__(self, app: App, base_url: str, settings: Settings) -> None:
        self.app_id = app.app_id
        self.base_url = base_url
        self.is_dev = settings.node_env == "dev"
        self.cleaner = Cleaner()
        self.cleaner.learn_url(base_url)
        self.end = time.monotonic() + DELIVERY_TIMEOUT
        self.hint: str | None = None  # of the last step

    def steps(self) -> Iterator[ProbeStep]:
        try:
            route = route_to(self.base_url)
        except DeliveryError as error:
            yield ProbeStep("url", CheckState.CRITICAL, error.message, error.hint, 0.0)
            return
        with closing(route.connection(DELIVERY_TIMEOUT)) as connection:
            calls: dict[str, Callable[[], str]] = {
                "dns": lambda: _resolve(route),
                "tcp": lambda: _connect(route, self.end),
                "tls": lambda: _shake_hands(connection),
                "http": lambda: self.ask(route, connection),
            }
            for name, call in calls.items():
                if name == "tls" and route.url.scheme == "http":
                    continue
                step = self.run(name, call, route)
                yield step
                if step.state is CheckState.CRITICAL:
                    return

    def run(self, name: str, call: Callable[[], str], route: Route) -> ProbeStep:
        began = time.monotonic()
        try:
            finding = _within(self.end - began, call)
            state = CheckState.WARNING if self.hint else CheckState.OK
        except FAILURES as error:
            explained = route.explain(error, DELIVERY_TIMEOUT, expired=False)
            finding, state, self.hint = explained.message, CheckState.CRITICAL, explained.hint
            if isinstance(error, ssl.SSLCertVerificationError) and route.proxy is None:
                with suppress(*FAILURES):
                    limit = self.end - time.monotonic()
                    pem = ssl.get_server_certificate(route.endpoint, timeout=limit)
                    words, end = _certificate(ssl.PEM_cert_to_DER_cert(pem))
                    # OpenSSL reports an expired certificate only if it knows the authority.
                    if end is not None and end < host.now():
                        finding = f"the certificate of {route.url.netloc} has expired"
                        self.hint = host.EXPIRED_HINT
                    finding += words
        seconds = round(time.monotonic() - began, 3)
        return ProbeStep(name, state, self.cleaner.clean(finding), self.hint, seconds)

    def ask(self, route: Route, connection: HTTPConnection) -> str:
        """Sends an unsigned HEAD, to prove that requests arrive. Returns the answer in words."""
        target = route.request_target(route.url.path or "/")
        connection.request("HEAD", target, headers=route.headers, preload_content=False)
        with closing(connection.getresponse()) as answer:
            status, location = answer.status, answer.headers.get("Location", "")
        self.hint = (status in _PERMANENT and self.moved_to(location)) or _HINTS.get(status)
        to = f" to {mask_url(location)}" if location else ""
        note = "" if self.hint or status in _SUCCESS else ": reached; only POST tells"
        return f"HTTP {status}{to}{', through the proxy' * route.is_forwarded}{note}"

    def moved_to(self, location: str) -> str | None:
        """Returns a hint if the whole base_url, with all paths below it, seems to have moved."""
        try:
            new = urljoin(self.base_url, location)
            old_path, path = (urlsplit(url).path or "/" for url in (self.base_url, new))
        except ValueError:
            return None
        if path != old_path or refusal_of(new, is_dev=self.is_dev):
            return None
        has_secrets = mask_url(new) != new or mask_url(self.base_url) != self.base_url
        words = shlex.join(["set-url", self.app_id, "URL" if has_secrets else new])
        return f"it has moved, and workers follow no redirects: docora-ops {words}"


def _resolve(route: Route) -> str:
    """Resolves the host name of the app, or of the proxy. Returns the list of addresses."""
    name, port = route.endpoint
    answers = socket.getaddrinfo(name, port, type=socket.SOCK_STREAM)
    addresses = list(dict.fromkeys(str(sockaddr[0]) for *_, sockaddr in answers))
    return f"{'proxy ' if route.proxy else ''}{name}: {_listed(addresses)}"


def _connect(route: Route, end: float) -> str:
    """Opens and closes a TCP connection. Returns the address in words. `end`: the deadline."""
    with socket.create_connection(route.endpoint, end - time.monotonic()) as connection:
        address, port, *_ = connection.getpeername()
    return f"connected to {address} port {port}"


def _shake_hands(connection: HTTPConnection) -> str:
    """Connects as a delivery does, through a proxy if there is one.

    Returns, in words, the TLS version, and the issuer and last day of the certificate.
    """
    connection.connect()
    sock = connection.sock
    assert isinstance(sock, ssl.SSLSocket)  # noqa: S101 - of an HTTPSConnection
    words, _ = _certificate(sock.getpeercert(binary_form=True))
    return f"{sock.version()}{words}"


def _certificate(der: bytes | None) -> tuple[str, datetime | None]:
    """Returns a certificate's issuer and last day in words, and its expiry; None if unreadable."""
    with suppress(ValueError, x509.InvalidVersion):  # the server may send anything
        certificate = x509.load_der_x509_certificate(der or b"")
        issuer, end = certificate.issuer.rfc4514_string(), certificate.not_valid_after_utc
        return f", signed by {issuer}, valid until {end:%Y-%m-%d}", end
    return "", None


def _within(seconds: float, call: Callable[[], str]) -> str:
    """Calls a function; raises TimeoutError if the function takes longer than `seconds`.

    Calls the function in a thread, because nothing can interrupt a wait for a name server.
    """
    answers: SimpleQueue[str | Exception] = SimpleQueue()

    def run() -> None:
        try:
            answers.put(call())
        except Exception as error:  # noqa: BLE001 - raised below
            answers.put(error)

    with blocked(signal.valid_signals()):  # a signal must interrupt the main thread
        Thread(target=run, daemon=True).start()
    try:
        answer = answers.get(timeout=max(seconds, 0))
    except Empty:
        raise TimeoutError from None
    if isinstance(answer, Exception):
        raise answer
    return answer


def _decrypted(settings: Settings, links: Sequence[LinkToken], cleaner: Cleaner) -> _Tokens:
    """Decrypts the tokens of links. Raises ConfigurationError for tokens without a key."""
    tokens: dict[tuple[str | None, str], list[App]] = {}
    for link in links:
        token, problem = link.encrypted, ""
        if token is not None:
            key = settings.require_encryption_key()
            try:
                token = decrypt(token, key, "the GitHub token")
            except SnapshotError as error:
                token, problem = None, error.message
        cleaner.learn((token, link.encrypted))
        tokens.setdefault((token, problem), []).append(link.app)
    return tokens


def _git_steps(
    settings: Settings, url: str, tokens: _Tokens, cleaner: Cleaner, end: float
) -> Iterator[ProbeStep]:
    """Lists the branches once with each token."""
    for (token, problem), apps in tokens.items():
        began, state, finding = time.monotonic(), CheckState.CRITICAL, problem
        try:
            if began >= end:
                state, finding = CheckState.NOT_CHECKED, f"no time was left of {_LIMIT} s"
            elif not problem:
                timeout = min(settings.git_timeout, math.ceil(end - began))
                git = Git(url, token, settings.git_protocols, timeout, lambda: None)
                commit = newest_commit(git)
                state = CheckState.OK if commit else CheckState.WARNING
                finding = f"{commit.branch} at {commit.sha[:12]}" if commit else "no branch"
        except SnapshotError as error:
            finding = error.message
        except MemoryError:
            finding = "the list of branches takes more memory than a job may have"
        has_token = token is not None or problem
        names = _listed([app.app_name for app in apps])
        whose = f"{'with the token of' if has_token else 'without a token, for'} {names}"
        ids = [app.app_id for app in apps]
        seconds = round(time.monotonic() - began, 3)
        yield ProbeStep("git", state, f"{whose}: {cleaner.clean(finding)}", None, seconds, ids)


def _listed(names: Sequence[str]) -> str:
    more = len(names) - _MOST_NAMED
    return ", ".join(names[:_MOST_NAMED]) + (f" and {amount(more, 'other')}" if more > 0 else "")
