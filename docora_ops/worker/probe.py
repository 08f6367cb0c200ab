"""Probes what a worker on this host would meet at an app and at a git server. Sends no file."""

import os
import shlex
import signal
import socket
import ssl
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from tempfile import TemporaryDirectory
from threading import Thread
from urllib.parse import urljoin, urlsplit

from cryptography import x509

from docora_ops.actions.app_url import refusal_of
from docora_ops.actions.docora import Docora
from docora_ops.actions.lookup import gone, resolve_app, resolve_repository
from docora_ops.database.urls import LinkToken, read_base_url, read_tokens
from docora_ops.diagnosis import CheckState
from docora_ops.errors import DeliveryError, NotFoundError, SnapshotError
from docora_ops.interrupts import held_back
from docora_ops.links import App, Repository
from docora_ops.probe import Probe, ProbeStep
from docora_ops.settings import Settings
from docora_ops.text import amount, mask, mask_url
from docora_ops.worker import host
from docora_ops.worker.clone import newest_commit
from docora_ops.worker.git import Git, require_git
from docora_ops.worker.secrets import Cleaner, decrypt
from docora_ops.worker.snapshot_job import DELIVERY_TIMEOUT
from docora_ops.worker.webhook import FAILURES, Route, route_to

_LIMIT = 60  # seconds for all steps, of which the app has as many as a delivery
_MOST_NAMED = 3  # addresses or apps in a finding
_PERMANENT = {301, 308}  # redirects


def probe(docora: Docora, app: str | None = None, repository: str | None = None) -> Probe:
    """Probes an app's base_url, and the repository with the token of each of its links.

    With both, only the token of the app's link is used. Takes at most a minute.

    app: id or name, or an unambiguous prefix of either.
    repository: id, `owner/name` or GitHub URL.

    Raises NotFoundError, AmbiguousError, PostgresError, ConfigurationError.
    """
    database = docora.database
    found_app = found_repository = base_url = url = None
    tokens: list[LinkToken] = []
    if app is not None:
        found_app = resolve_app(database, app)
        base_url = read_base_url(database, found_app.app_id)
        if base_url is None:
            raise NotFoundError(f"no app {found_app.app_id!r}", hint="it was removed a moment ago")
    if repository is not None:
        require_git()
        found_repository = resolve_repository(
            database, [found_app] if found_app else [], repository
        )
        app_id = found_app and found_app.app_id
        url, tokens = read_tokens(database, found_repository.repository_id, app_id)
        if not tokens:
            raise gone(app_id or "", found_repository.repository_id)
    return _probe(docora.settings, found_app, base_url, found_repository, url, tokens)


def probe_url(docora: Docora, app: App, base_url: str) -> Probe:
    """Probes a URL as if it were the base_url of the app."""
    return _probe(docora.settings, app, base_url)


def _probe(
    settings: Settings,
    app: App | None,
    base_url: str | None,
    repository: Repository | None = None,
    github_url: str | None = None,
    tokens: Sequence[LinkToken] = (),
) -> Probe:
    steps: list[ProbeStep] = []
    with _authorities(settings):
        end = time.monotonic() + _LIMIT
        if app is not None and base_url is not None:
            steps += _App(app, base_url, settings).steps()
        if github_url is not None:
            steps += _git_steps(settings, github_url, tokens, end)
    return Probe(
        host=os.uname().nodename,
        app_id=app and app.app_id,
        app_name=app and app.app_name,
        base_url=base_url and mask_url(base_url),
        repository_id=repository and repository.repository_id,
        repository_name=repository and repository.repository_name,
        github_url=github_url and mask_url(github_url),
        steps=steps,
    )


@contextmanager
def _authorities(settings: Settings) -> Iterator[None]:
    """Trusts what a worker with these settings trusts, for the time of the block."""
    before = dict(os.environ)
    host.tls_context.cache_clear()
    with TemporaryDirectory() as folder:
        try:
            host.use_authorities(settings.model_copy(update={"repos_base_path": Path(folder)}))
            yield
        finally:
            os.environ.clear()
            os.environ.update(before)
            host.tls_context.cache_clear()


class _App:
    """The steps to an app, each with its time, until one fails."""

    def __init__(self, app: App, base_url: str, settings: Settings) -> None:
        self.app_id = app.app_id
        self.base_url = base_url
        self.is_dev = settings.node_env == "dev"
        self.cleaner = Cleaner()
        self.cleaner.learn_url(base_url)
        self.end = time.monotonic() + DELIVERY_TIMEOUT
        self.hint: str | None = None  # of the step that has just ended

    def steps(self) -> Iterator[ProbeStep]:
        try:
            self.route = route_to(self.base_url)
        except DeliveryError as error:
            yield ProbeStep("url", CheckState.CRITICAL, error.message, error.hint, 0.0)
            return
        self.connection = self.route.connection(DELIVERY_TIMEOUT)
        calls: list[tuple[str, Callable[[], str]]] = [("dns", self.resolve), ("tcp", self.connect)]
        if self.route.url.scheme == "https":
            calls.append(("tls", self.shake_hands))
        calls.append(("http", self.ask))
        with closing(self.connection):
            for name, call in calls:
                step = self.run(name, call)
                yield step
                if step.state is CheckState.CRITICAL:
                    return

    def run(self, name: str, call: Callable[[], str]) -> ProbeStep:
        began, self.hint = time.monotonic(), None
        try:
            finding = _within(self.end - began, call)
            state = CheckState.WARNING if self.hint else CheckState.OK
        except FAILURES as error:
            explained = self.route.explain(error, DELIVERY_TIMEOUT, expired=False)
            finding, state = explained.message, CheckState.CRITICAL
            self.hint = explained.hint
            if isinstance(error, ssl.SSLCertVerificationError):
                finding += self.unverified(self.route)
        seconds = time.monotonic() - began
        return ProbeStep(name, state, self.cleaner.clean(finding), self.hint, round(seconds, 3))

    def resolve(self) -> str:
        """Resolves the host, or that of the proxy."""
        name, port = self.route.first
        found = socket.getaddrinfo(name, port, type=socket.SOCK_STREAM)
        addresses = list(dict.fromkeys(str(each[4][0]) for each in found))
        proxy = "proxy " if self.route.proxy else ""
        return f"{proxy}{name}: {_listed(addresses)}"

    def connect(self) -> str:
        """Connects, and hangs up."""
        with socket.create_connection(self.route.first, self.end - time.monotonic()) as connection:
            address, port, *_ = connection.getpeername()
        return f"connected to {address} port {port}"

    def shake_hands(self) -> str:
        """Connects as a delivery does, through a proxy if there is one."""
        self.connection.connect()
        sock = self.connection.sock
        assert isinstance(sock, ssl.SSLSocket)  # noqa: S101 - a proxy is reached without TLS
        return f"{sock.version()}{_certificate(sock.getpeercert(binary_form=True))}"

    def unverified(self, route: Route) -> str:
        """Describes the certificate that was refused, if it can be had."""
        if route.proxy is not None:
            return ""
        with suppress(*FAILURES):
            pem = ssl.get_server_certificate(route.first, timeout=self.end - time.monotonic())
            return _certificate(ssl.PEM_cert_to_DER_cert(pem))
        return ""

    def ask(self) -> str:
        """Sends a HEAD without a signature; any answer will do."""
        target = self.route.target(self.route.url.path or "/")
        headers = self.route.headers
        self.connection.request("HEAD", target, headers=headers, preload_content=False)
        with closing(self.connection.getresponse()) as answer:
            location = answer.headers.get("Location", "")
            self.hint = self.moved_to(location) if answer.status in _PERMANENT else None
            proxy = ", through the proxy" if self.route.is_forwarded else ""
            to = f" to {mask_url(location)}" if location else ""
            return f"HTTP {answer.status}{to}{proxy}"

    def moved_to(self, location: str) -> str | None:
        """Returns a hint if all paths below the base_url are likely to have moved with it."""
        try:
            new = urljoin(self.base_url, location)
            old_path, path = (urlsplit(url).path or "/" for url in (self.base_url, new))
        except ValueError:
            return None
        if path != old_path or refusal_of(new, is_dev=self.is_dev):
            return None
        is_whole = mask_url(new) == new and mask_url(self.base_url) == self.base_url
        argument = shlex.quote(new) if is_whole else "URL"
        command = f"docora-ops set-url {shlex.quote(self.app_id)} {argument}"
        return f"it has moved, and workers follow no redirects: {command}"


def _certificate(der: bytes | None) -> str:
    """Tells who has signed a certificate, and until when it is valid."""
    with suppress(ValueError):  # the server may send anything
        found = x509.load_der_x509_certificate(der or b"")
        issuer, end = found.issuer.rfc4514_string(), found.not_valid_after_utc
        return f", signed by {issuer}, valid until {end:%Y-%m-%d}"
    return ""


def _within(seconds: float, call: Callable[[], str]) -> str:
    """Calls in a thread, since nothing else can end the wait for a name server or a slow answer.

    Raises TimeoutError, and what the call raises.
    """
    answers: SimpleQueue[str | Exception] = SimpleQueue()

    def run() -> None:
        try:
            answers.put(call())
        except Exception as error:  # noqa: BLE001 - raised below
            answers.put(error)

    with held_back(signal.valid_signals()):  # a signal must interrupt the main thread
        Thread(target=run, daemon=True).start()
    try:
        answer = answers.get(timeout=max(seconds, 0))
    except Empty:
        raise TimeoutError from None
    if isinstance(answer, Exception):
        raise answer
    return answer


def _git_steps(
    settings: Settings, url: str, tokens: Sequence[LinkToken], end: float
) -> Iterator[ProbeStep]:
    """Lists the branches once with each token, and once without if links have none.

    The job of a link uses the token of this link only.
    """
    groups: dict[tuple[str | None, str], list[App]] = {}  # by token, and why it can't be used
    cleaner = Cleaner()
    for link in tokens:
        token, problem = link.encrypted, ""
        if token is not None:
            try:
                token = decrypt(token, settings.require_encryption_key(), "the GitHub token")
            except SnapshotError as error:
                token, problem = None, error.message
        cleaner.learn((token, link.encrypted))
        groups.setdefault((token, problem), []).append(link.app)
    for (token, problem), apps in groups.items():
        began, state = time.monotonic(), CheckState.CRITICAL
        finding = problem
        try:
            if began >= end:
                finding, state = f"no time was left of {_LIMIT} s", CheckState.NOT_CHECKED
            elif not problem:
                git = Git(url, token, settings.git_protocols.split(","), end - began, lambda: None)
                commit = newest_commit(git)
                finding = f"{commit.branch} at {commit.sha[:12]}" if commit else "no branch"
                state = CheckState.OK if commit else CheckState.WARNING
        except SnapshotError as error:
            finding = error.message
        names = mask(_listed([each.app_name for each in apps]))
        is_without = token is None and not problem
        token_of = "without a token, for" if is_without else "with the token of"
        finding = f"{token_of} {names}: {cleaner.clean(finding)}"
        seconds = round(time.monotonic() - began, 3)
        yield ProbeStep("git", state, finding, None, seconds, [each.app_id for each in apps])


def _listed(names: Sequence[str]) -> str:
    more = len(names) - _MOST_NAMED
    return ", ".join(names[:_MOST_NAMED]) + (f" and {amount(more, 'other')}" if more > 0 else "")
