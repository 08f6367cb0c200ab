"""Changes the base_url of an app, by the rules of Docora's onboarding."""

import re
import socket
from dataclasses import replace
from datetime import timedelta
from ipaddress import IPv6Address
from urllib.parse import unquote

from docora_ops.actions.docora import Docora
from docora_ops.actions.lookup import resolve_app
from docora_ops.database import Database
from docora_ops.database.urls import (
    has_failed_links,
    links_of_old_url,
    read_base_url,
    set_base_url,
)
from docora_ops.errors import NotFoundError, PostgresError, RedisError, UsageError
from docora_ops.links import App, arguments
from docora_ops.probe import UrlChange
from docora_ops.queue.audit_stream import AuditEvent, add_entry, audit_entry
from docora_ops.queue.bullmq_queue import jobs_with_other_url
from docora_ops.queue.redis_client import client_for_locked_rows
from docora_ops.text import mask_url, moment

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


def set_url(
    docora: Docora,
    app: str,
    url: str,
    *,
    by_prefix: bool = True,
    reason: str | None = None,
    find_jobs: bool = True,
    dry_run: bool = False,
) -> UrlChange:
    """Replaces the base_url of an app, and writes the audit entry, both or neither.

    Workers of docora-ops use the new URL from the next job on. Jobs of BullMQ keep the URL that
    they were queued with, and running jobs the one that they have begun with. Their links read
    `synced` afterwards, though the app has their files at its old URL only: the result names them.
    Does nothing if the app has this URL.

    app: id or name; with `by_prefix`, also an unambiguous prefix of either.
    reason: for the audit entry.
    find_jobs: look for jobs and links that keep the old URL. Takes 3 s for 200,000 jobs of BullMQ.

    Raises UsageError if Docora's onboarding would refuse the URL, or for an unconfirmed change of a
    protected target; NotFoundError, AmbiguousError, PostgresError, RedisError.
    """
    if not dry_run:
        docora.require_confirmation()
    is_dev = docora.settings.node_env == "dev"
    if problem := refusal_of(url, is_dev=is_dev):
        hint = "give the URL below which the app answers to create, update and delete"
        if refusal_of(url, is_dev=True) is None:
            hint = (
                "set NODE_ENV=dev if Docora runs with it, which allows http and private addresses"
            )
        raise UsageError(f"Docora would refuse the URL {mask_url(url)}: {problem}", hint=hint)
    database = docora.database
    found = resolve_app(database, app, by_prefix=by_prefix)
    changed_at = None
    with database.snapshot() if dry_run else database.transaction():
        old = base_url_of(database, found, lock=not dry_run)
        shown_old, shown_new = mask_url(old), mask_url(url)
        if old != url and not dry_run:
            changed_at = set_base_url(database, found.app_id, url)
            shown = {"old_url": shown_old, "new_url": shown_new}
            change = docora.describe_change("set-url", reason, **vars(found), **shown)
            redis = client_for_locked_rows(docora.redis)
            add_entry(redis, audit_entry(change, AuditEvent.DONE))
    result = UrlChange(
        app_id=found.app_id,
        app_name=found.app_name,
        old_url=shown_old,
        new_url=shown_new,
        changed=old != url,
        dry_run=dry_run,
        jobs_with_old_url=0 if old == url else None,
    )
    if old == url or not find_jobs:
        return result
    jobs: list[str] | None = None
    try:
        jobs = jobs_with_other_url(docora.redis, found.app_id, url)
    except RedisError as error:
        docora.warn(f"BullMQ jobs that keep the old URL can't be counted: {error.message}")
    result = replace(result, jobs_with_old_url=None if jobs is None else len(jobs))
    # The URL may be changed already, which no error must conceal.
    try:
        links = links_of_old_url(database, found.app_id, jobs or [], changed_at)
        has_failed = has_failed_links(database, found.app_id)
    except PostgresError as error:
        docora.warn(f"links whose jobs use the old URL can't be read: {error.message}")
        return result
    resync = retry = None
    if changed_at is not None:
        # A worker of Docora dates a scan by its own clock.
        since = moment(changed_at - _CLOCKS_APART if jobs else changed_at)
        app_id = arguments(found.app_id)
        if links:
            resync = f"docora-ops resync {app_id} --all --last-scan-after {since}"
        if has_failed:
            retry = f"docora-ops retry-all-failed --app {app_id}"
    return replace(result, links_to_resync=links, resync_command=resync, retry_command=retry)


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
