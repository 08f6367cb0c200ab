"""`hold` keeps workers from taking the jobs of an app; `release` ends the hold."""

from collections.abc import Container, Sequence
from dataclasses import dataclass, replace

from docora_ops.actions.docora import Docora, require_rq
from docora_ops.actions.lookup import resolve_app
from docora_ops.database import Database, Selection
from docora_ops.database.names import app_names
from docora_ops.database.selections import keep_links
from docora_ops.errors import DocoraOpsError, HoldNotObeyedError
from docora_ops.jobs import HeldApp, Hold
from docora_ops.links import App, AppCount
from docora_ops.operations import Change
from docora_ops.queue.holds import hold_app, read_holds, release_app
from docora_ops.text import amount, inert, mask

_INSTEAD = (
    "stop Docora's workers, or give the app a URL where nothing listens (docora-ops set-url): its "
    "links fail until you set the URL back and retry them"
)


@dataclass(frozen=True)
class HoldResult(App):
    """An app, its hold (None if it is not held), and the numbers of its jobs.

    replaced: the earlier hold that this hold replaces, if any.
    waiting: waiting and delayed jobs.
    """

    held: Hold | None
    replaced: Hold | None
    waiting: int
    running: int


@dataclass(frozen=True)
class ReleaseResult(App):
    """The result of `release`. `jobs`: the number of live jobs of the app."""

    released: bool  # False if the app was not held
    jobs: int


def look(docora: Docora, app: str, *, by_prefix: bool = True) -> HoldResult:
    """Returns an app, its hold and the numbers of its jobs, for a confirmation prompt.

    app: id or name.
    by_prefix: allow an unambiguous prefix of the app's id or name.

    Raises NotFoundError, AmbiguousError, NeedsRqError, UnclearBackendError, PostgresError,
    RedisError; WrongBackendError or HoldNotObeyedError if a live worker would not obey a hold.
    """
    found = resolve_app(docora.database, app, by_prefix=by_prefix)
    docora.queue.read_use()  # again, because a person may have taken long to answer
    require_rq(docora, "hold", _INSTEAD, alone="it obeys no hold")
    workers = docora.queue.overview(1).workers
    if deaf := [worker.name for worker in workers if not worker.obeys_holds]:
        raise HoldNotObeyedError(
            f"{amount(len(deaf), 'live worker')} would still take the app's jobs: "
            f"{', '.join(map(inert, deaf))}",
            hint="one of RQ's own sends nothing, but takes each job and gives it back, again and "
            "again; one that may not read holds sends as before. To replace them: docora-ops help "
            "hold; until then, docora-ops pause stops all workers",
            details={"worker_names": deaf},
        )
    live, _ = docora.queue.jobs_of_apps([found.app_id], 1)
    running = sum(job.app_id == found.app_id for worker in workers for job in worker.jobs)
    held = docora.read_holds().get(found.app_id)
    return HoldResult(found.app_id, found.app_name, held, None, max(0, live - running), running)


def hold(
    docora: Docora,
    app: str,
    seconds: int | None,
    *,
    by_prefix: bool = True,
    reason: str | None = None,
) -> HoldResult:
    """Holds an app: no worker takes its jobs, and its running snapshots stop before the next POST.

    seconds: the length of the hold; None means until `release`.
    reason: for the audit entry and the screens that show the hold.

    Raises the errors of `look`.
    """
    now = look(docora, app, by_prefix=by_prefix)
    change = _describe(docora, "hold", now, reason, **{"for": f"{seconds}s" if seconds else "ever"})
    held = hold_app(docora.redis, now.app_id, seconds, change)
    return replace(now, held=held, replaced=now.held)


def release(docora: Docora, app: str, *, reason: str | None = None) -> ReleaseResult:
    """Ends the hold of an app. Workers take its jobs again.

    app: id or name, or an unambiguous prefix of either; the id also works if the app is gone.
    reason: for the audit entry, which is written only if the app was held.

    Raises NotFoundError, AmbiguousError, PostgresError, RedisError.
    """
    if app in read_holds(docora.redis):
        found = App(app, app_names(docora.database, [app]).get(app, app))
    else:
        found = resolve_app(docora.database, app)
    change = _describe(docora, "release", found, reason)
    released = release_app(docora.redis, found.app_id, change)
    live, _ = docora.queue_to_read.jobs_of_apps([found.app_id], 1)
    return ReleaseResult(found.app_id, found.app_name, released, live)


def warn_of_unknown_holds(docora: Docora, error: DocoraOpsError) -> None:
    """Warns that it is unknown which apps are held. `error`: why."""
    docora.warn(f"it is unknown which apps are held: {error.message}")


def held_apps(docora: Docora) -> list[HeldApp]:
    """Returns the held apps, sorted by name. Raises PostgresError, RedisError."""
    held = [HeldApp(app_id, None, hold) for app_id, hold in docora.read_holds().items()]
    return with_names(docora.database, held) if held else []


def with_names(database: Database, held: Sequence[HeldApp]) -> list[HeldApp]:
    """Returns the held apps with their names, sorted by name. Raises PostgresError."""
    names = app_names(database, [app.app_id for app in held])
    named = [replace(app, app_name=names.get(app.app_id)) for app in held]
    return sorted(named, key=lambda app: (app.app_name or "", app.app_id))


def without_held_apps(
    docora: Docora, selection: Selection, holds: Container[str], limit: int | None = None
) -> Selection:
    """Removes the links of held apps from a selection. Adds a notice if any links were removed.

    holds: ids of the held apps.
    limit: the maximum number of links to keep; None keeps all.
    """
    left_out = [app for app in selection.by_app if app.app_id in holds]
    if left_out:
        links = amount(sum(app.links for app in left_out), "link")
        docora.note(f"{links} left out: {held_in_words(left_out)}.")
    refs = [ref for ref in selection.refs if ref.app_id not in holds][:limit]
    return replace(keep_links(selection, refs), held_left_out=left_out)


def held_in_words(apps: Sequence[AppCount | HeldApp]) -> str:
    """Returns a text such as `Acme Search, Quiet Harbor are held`. `apps`: at least one."""
    names = ", ".join(mask(app.app_name or app.app_id) for app in apps)
    return f"{names} {'is' if len(apps) == 1 else 'are'} held"


def _describe(docora: Docora, command: str, app: App, reason: str | None, **more: object) -> Change:
    return docora.describe_change(command, reason, app_id=app.app_id, app_name=app.app_name, **more)
