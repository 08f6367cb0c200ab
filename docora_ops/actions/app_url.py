"""Changes the base_url of an app as Docora's onboarding would allow; has the results of probes."""

import re
import socket
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from ipaddress import IPv6Address
from urllib.parse import unquote

from docora_ops.actions.checks import CheckState
from docora_ops.actions.docora import Docora
from docora_ops.actions.lookup import resolve_app
from docora_ops.database import Database
from docora_ops.database.app_url import (
    LinkToResync,
    has_failed_links,
    links_of_old_url,
    read_base_url,
    set_base_url,
)
from docora_ops.errors import NotFoundError, PostgresError, RedisError, UsageError
from docora_ops.links import App
from docora_ops.queue.audit_stream import AuditEvent, add_entry, audit_entry
from docora_ops.queue.bullmq_queue import jobs_with_other_url
from docora_ops.text import mask_url

_CLOCKS_APART = timedelta(seconds=20)  # a larger difference is critical for `doctor`
_LONGEST_URL = 2048  # characters, as JavaScript counts them
# Programs disagree on how to parse a URL with blanks, control characters or backslashes.
_AMBIGUOUS = re.compile(r"[\x00-\x20\x7f\\]")
_PARTS = re.compile(
    r"[A-Za-z]+://(?:[^/?#]*@)?(?:\[(?P<ipv6>[^]/?#]*)\]|(?P<name>[^][:/?#@]+))(?::(?P<port>[0-9]*))?"
    r"(?:[/?#].*)?",
    re.DOTALL,
)
_NOT_IN_A_HOST = re.compile(r"[\x00-\x20#%/:<>?@\[\\\]^|\x7f]")
_NUMBER = re.compile(r"(?:0x[0-9a-f]*|[0-9]+)")
_LAST_PORT = 65_535
_LOCAL = ("localhost", "0.0.0.0")  # noqa: S104 - names to refuse
# Also applies to names, because Docora compares the beginning of the host.
_PRIVATE = re.compile(r"10\.|172\.(1[6-9]|2[0-9]|3[01])\.|192\.168\.|127\.|0\.|169\.254\.")


@dataclass(frozen=True)
class ProbeStep:
    """One step of a probe.

    name: `url`, `dns`, `tcp`, `tls`, `http` or `git`.
    app_ids: for `git`, the apps whose links have the token that was used; otherwise empty.
    """

    name: str
    state: CheckState
    finding: str
    hint: str | None
    seconds: float
    app_ids: Sequence[str] = ()


@dataclass(frozen=True)
class Probe:
    """The result of a probe of an app, a repository or both, as a worker on this host sees them.

    If the app or the repository was not probed, its fields are None.
    """

    host: str
    steps: Sequence[ProbeStep]
    app_id: str | None = None
    app_name: str | None = None
    base_url: str | None = None
    repository_id: str | None = None
    repository_name: str | None = None
    github_url: str | None = None

    @property
    def has_failed(self) -> bool:
        """Tells whether a step failed, or was not made because time ran out."""
        bad = {CheckState.CRITICAL, CheckState.NOT_CHECKED}
        return any(step.state in bad for step in self.steps)


@dataclass(frozen=True, kw_only=True)
class UrlChange(App):
    """A planned or completed change of an app's base_url. Secrets in the URLs are masked.

    changed: False if the app already had this URL, or if the probe failed.
    jobs_with_old_url: the number of BullMQ jobs (waiting, delayed or running) whose URL is not the
        new one; None if unknown.
    links_to_resync: the links whose files a job may have sent, or may still send, to the old URL.
    scanned_since: the value for `--last-scan-after` to select these links, once their jobs have
        ended; None before the change, or without links to resync.
    has_failed_links: whether the app has failed links; None if unknown.
    next_commands: the commands to run next; only `set-url` sets them.
    probe: the probe of the new URL before the change; None if it was not probed.
    """

    old_url: str
    new_url: str
    changed: bool = False
    dry_run: bool
    jobs_with_old_url: int | None = None
    links_to_resync: Sequence[LinkToResync] = ()
    scanned_since: datetime | None = None
    has_failed_links: bool | None = None
    next_commands: Sequence[str] = ()
    probe: Probe | None = None


def set_url(
    docora: Docora,
    app: str,
    url: str,
    *,
    asks: bool = False,
    probe: Callable[..., Probe] | None = None,
    reason: str | None = None,
    dry_run: bool = False,
) -> Iterator[UrlChange]:
    """Replaces the base_url of an app and writes the audit entry, atomically.

    Yields the plan, then the change. To keep the old URL, close the iterator after the plan. Yields
    only the plan if there is nothing to change, if the probe failed, or with `dry_run`.

    Workers of docora-ops use the new URL from their next job on. A BullMQ job keeps the URL with
    which it was queued, and a running job keeps the URL with which it began. Such a job sends the
    files only to the old URL, and yet sets its link to `synced`.

    app: id or name. With `asks` or `dry_run`, an unambiguous prefix is allowed.
    asks: a person confirms the plan, so the plan includes `jobs_with_old_url` and
        `links_to_resync`. Finding them takes 3 s for 200,000 BullMQ jobs.
    probe: `docora_ops.worker.probe.probe` to probe the new URL first; None to skip the probe.
    reason: for the audit entry.
    dry_run: yield only the plan, with the same fields as with `asks`.

    Raises UsageError if Docora's onboarding would refuse the URL; NotFoundError, AmbiguousError,
    PostgresError, RedisError.
    """
    _require_onboarding(docora, url)
    database, is_shown = docora.database, asks or dry_run
    chosen = resolve_app(database, app, by_prefix=is_shown)
    with database.consistent_reads():
        old = base_url_of(database, chosen)
    plan = UrlChange(**vars(chosen), old_url=mask_url(old), new_url=mask_url(url), dry_run=dry_run)
    if old == url:
        yield replace(plan, jobs_with_old_url=0)
        return
    result = probe(docora, chosen.app_id, new_url=url) if probe else None
    plan = replace(plan, changed=result is None or not result.has_failed, probe=result)
    if is_shown and plan.changed:
        plan = _with_old_jobs(docora, plan, url)
    yield plan
    if not plan.changed or dry_run:
        return
    with database.transaction():
        old = base_url_of(database, chosen, lock=True)
        change = replace(plan, old_url=mask_url(old), changed=old != url)
        changed_at = None
        if change.changed:
            changed_at = set_base_url(database, chosen.app_id, url)
            shown = {"old_url": change.old_url, "new_url": change.new_url}
            entry = docora.describe_change("set-url", reason, **vars(chosen), **shown)
            add_entry(docora.redis, audit_entry(entry, AuditEvent.DONE))
    if not change.changed:
        yield replace(change, jobs_with_old_url=0, links_to_resync=())
        return
    yield _with_old_jobs(docora, change, url, changed_at)


def _with_old_jobs(
    docora: Docora, change: UrlChange, url: str, changed_at: datetime | None = None
) -> UrlChange:
    """Adds the number of jobs with the old URL, and the links to resync, to the change.

    If a server can't be read, warns, and leaves out what is unknown.

    changed_at: when the URL was changed; None before the change.
    """
    jobs: list[str] | None = None
    try:
        jobs = jobs_with_other_url(docora.redis, change.app_id, url)
    except RedisError as error:
        docora.warn(f"BullMQ jobs that keep the old URL can't be counted: {error.message}")
    change = replace(change, jobs_with_old_url=None if jobs is None else len(jobs))
    # The URL may already be changed; an error must not hide that.
    try:
        links = links_of_old_url(docora.database, change.app_id, jobs or [], changed_at)
        has_failed = has_failed_links(docora.database, change.app_id)
    except PostgresError as error:
        docora.warn(f"links whose jobs use the old URL can't be read: {error.message}")
        return change
    change = replace(change, links_to_resync=links, has_failed_links=has_failed)
    if changed_at is None or not links:
        return change
    # A worker of Docora dates a scan by its own clock.
    return replace(change, scanned_since=changed_at - _CLOCKS_APART if jobs else changed_at)


def _require_onboarding(docora: Docora, url: str) -> None:
    problem = refusal_of(url, is_dev=docora.settings.node_env == "dev")
    if problem is None:
        return
    hint = "give the URL under which the app serves create, update and delete"
    if refusal_of(url, is_dev=True) is None:
        hint = "set NODE_ENV=dev if Docora runs with it, which allows http and private addresses"
    raise UsageError(f"Docora would refuse the URL {mask_url(url)}: {problem}", hint=hint)


def base_url_of(database: Database, app: App, *, lock: bool = False) -> str:
    """Returns the base_url of an app. With `lock`, locks the app's row. Raises NotFoundError."""
    base_url = read_base_url(database, app.app_id, lock=lock)
    if base_url is None:
        raise NotFoundError(f"no app {app.app_id!r}", hint="it was removed a moment ago")
    return base_url


def refusal_of(url: str, *, is_dev: bool) -> str | None:
    """Returns why Docora's onboarding would refuse this base_url; None if it would accept it.

    Judges the host as written, like Docora: does not resolve names, and accepts any IPv6 address.
    Also returns a reason if different programs would parse the URL differently.

    is_dev: Docora runs with `NODE_ENV=dev`.
    """
    if len(url.encode("utf-16-le")) > 2 * _LONGEST_URL:
        return f"it has more than {_LONGEST_URL:,} characters"
    host = _host_of(url)
    if host is None:
        return "it is not a valid URL"
    if not url.startswith(("https://", "http://") if is_dev else "https://"):
        return f"it must begin with {'https:// or http://' if is_dev else 'https://'}"
    if not is_dev and host in _LOCAL:
        return "localhost is not allowed"
    if not is_dev and _PRIVATE.match(host):
        return "private IP addresses are not allowed"
    return None


def _host_of(url: str) -> str | None:
    """Returns the host as JavaScript's URL class would; None if the URL is invalid."""
    parts = None if _AMBIGUOUS.search(url) else _PARTS.fullmatch(url)
    if parts is None or int(parts["port"] or 0) > _LAST_PORT:
        return None
    try:
        if parts["name"] is None:
            return None if "%" in parts["ipv6"] else f"[{IPv6Address(parts['ipv6'])}]"
        host = unquote(parts["name"], errors="strict").encode("idna").decode().lower()
        if _NOT_IN_A_HOST.search(host):
            return None
        # Such as `127.1`, `0x7f.0.0.1` and `2130706433`.
        if _NUMBER.fullmatch(host.removesuffix(".").rpartition(".")[2]):
            return socket.inet_ntoa(socket.inet_aton(host.removesuffix(".")))
    except (ValueError, OSError):
        return None
    return host
