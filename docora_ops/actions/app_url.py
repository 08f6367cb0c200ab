"""The base_url of an app: what probes of it find, and its change by the rules of Docora."""

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
from docora_ops.queue.bullmq import jobs_with_other_url
from docora_ops.queue.redis_client import client_for_locked_rows
from docora_ops.text import mask_url

_CLOCKS_APART = timedelta(seconds=20)  # more than that, and `doctor` finds it critical
_LONGEST_URL = 2048  # characters, as JavaScript counts them
# Blanks, control characters and backslashes: programs disagree on where a URL with one leads.
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
# Of names, too: Docora compares the beginning of the host.
_PRIVATE = re.compile(r"10\.|172\.(1[6-9]|2[0-9]|3[01])\.|192\.168\.|127\.|0\.|169\.254\.")


@dataclass(frozen=True)
class ProbeStep:
    """One step of a probe.

    name: `url`, `dns`, `tcp`, `tls`, `http` or `git`.
    app_ids: of `git`, the apps whose links have the token that was used; otherwise empty.
    """

    name: str
    state: CheckState
    finding: str
    hint: str | None
    seconds: float
    app_ids: Sequence[str] = ()


@dataclass(frozen=True)
class Probe:
    """What a worker on this host would meet.

    The fields of an app or a repository that was not probed are None.
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
        """Tells whether a step has failed, or there was no time for it."""
        bad = {CheckState.CRITICAL, CheckState.NOT_CHECKED}
        return any(step.state in bad for step in self.steps)


@dataclass(frozen=True, kw_only=True)
class UrlChange(App):
    """The change of an app's base_url, planned or made. The URLs are without secrets.

    changed: False if the app had this URL before, or if the probe has failed.
    jobs_with_old_url: waiting, delayed and running jobs of BullMQ that carry another URL than the
    new one; None if they were not or can't be counted.
    links_to_resync: the links of these jobs, and links that are or were scanned since the change by
    a job that has begun with the old URL.
    scanned_since: of the links to resync, once the URL is changed: the jobs end their scans after
    this moment. None if there are none.
    has_failed_links: whether links of the app are failed; None if they were not looked for.
    probe: of the new URL, before the change; None if it was not probed.
    """

    old_url: str
    new_url: str
    changed: bool = False
    dry_run: bool
    jobs_with_old_url: int | None = None
    links_to_resync: Sequence[LinkToResync] = ()
    scanned_since: datetime | None = None
    has_failed_links: bool | None = None
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
    """Replaces the base_url of an app, and writes the audit entry, both or neither.

    Yields the plan, and then the change; to keep the URL, close the iterator at the plan. Yields
    the plan only if there is nothing to change, if the probe has failed, or with `dry_run`.

    Workers of docora-ops use the new URL from the next job on. Jobs of BullMQ keep the URL that
    they were queued with, and running jobs the URL that they began with. The links of these jobs
    read `synced` afterwards, though the app has their files at its old URL only.

    app: id or name.
    asks: a person confirms the plan. Then `app` may also be an unambiguous prefix, and the plan
    names what keeps the old URL, which takes 3 s for 200,000 jobs of BullMQ. So does `dry_run`.
    probe: `docora_ops.worker.probe.probe`, to probe the new URL; None: do not probe it.
    reason: for the audit entry.

    Raises UsageError if Docora's onboarding would refuse the URL, or for an unconfirmed change of a
    protected target; NotFoundError, AmbiguousError, PostgresError, RedisError.
    """
    if not dry_run:
        docora.require_confirmation()
    _require_onboarding(docora, url)
    database, is_shown = docora.database, asks or dry_run
    chosen = resolve_app(database, app, by_prefix=is_shown)
    with database.snapshot():
        old = base_url_of(database, chosen)
    plan = UrlChange(**vars(chosen), old_url=mask_url(old), new_url=mask_url(url), dry_run=dry_run)
    if old == url:
        yield replace(plan, jobs_with_old_url=0)
        return
    result = probe(docora, chosen.app_id, new_url=url) if probe else None
    plan = replace(plan, changed=result is None or not result.has_failed, probe=result)
    if is_shown and plan.changed:
        plan = _with_remains(docora, plan, url)
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
            redis = client_for_locked_rows(docora.redis)
            add_entry(redis, audit_entry(entry, AuditEvent.DONE))
    if not change.changed:
        yield replace(change, jobs_with_old_url=0, links_to_resync=())
        return
    yield _with_remains(docora, change, url, changed_at)


def _with_remains(
    docora: Docora, change: UrlChange, url: str, changed_at: datetime | None = None
) -> UrlChange:
    """Returns the change with what keeps the old URL. Warns of what can't be read.

    changed_at: None before the change.
    """
    jobs: list[str] | None = None
    try:
        jobs = jobs_with_other_url(docora.redis, change.app_id, url)
    except RedisError as error:
        docora.warn(f"BullMQ jobs that keep the old URL can't be counted: {error.message}")
    change = replace(change, jobs_with_old_url=None if jobs is None else len(jobs))
    # The URL may be changed already, which no error must conceal.
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
    """Raises UsageError if Docora's onboarding would refuse the URL."""
    problem = refusal_of(url, is_dev=docora.settings.node_env == "dev")
    if problem is None:
        return
    hint = "give the URL below which the app answers to create, update and delete"
    if refusal_of(url, is_dev=True) is None:
        hint = "set NODE_ENV=dev if Docora runs with it, which allows http and private addresses"
    raise UsageError(f"Docora would refuse the URL {mask_url(url)}: {problem}", hint=hint)


def base_url_of(database: Database, app: App, *, lock: bool = False) -> str:
    """Returns the base_url of an app. `lock`: until the commit. Raises NotFoundError."""
    base_url = read_base_url(database, app.app_id, lock=lock)
    if base_url is None:
        raise NotFoundError(f"no app {app.app_id!r}", hint="it was removed a moment ago")
    return base_url


def refusal_of(url: str, *, is_dev: bool) -> str | None:
    """Returns why Docora's onboarding would refuse this base_url, None if it would not.

    As Docora, judges the host as it is written: names are not resolved, nor are IPv6 addresses
    looked at. Also refuses URLs that programs read differently.

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
    """Returns the host as JavaScript's URL would, None if the URL is not valid."""
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
