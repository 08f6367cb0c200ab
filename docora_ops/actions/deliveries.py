"""Lists the files that an app has received, and checks whether they are complete. Only reads."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from docora_ops.actions.docora import Docora
from docora_ops.actions.drift import Suspects
from docora_ops.actions.lookup import period, resolve_app, resolve_link
from docora_ops.actions.verification import Compared, Judged, Verdict, Verification, compare
from docora_ops.database import deliveries as records
from docora_ops.database.deliveries import DeliveredFile, DeliveryFilter
from docora_ops.database.link_rows import names_of
from docora_ops.database.verification import Compare, link_ids
from docora_ops.links import App, LinkRef
from docora_ops.text import When


@dataclass(frozen=True)
class DeliveryChoice:
    """A choice of deliveries, as a person types it.

    app: id or name, or an unambiguous prefix of either.
    repository: id, `owner/name` or GitHub URL; None means all repositories of the app.
    since, until: only files that were last delivered at `since` or later, and before `until`, by
        the clock of Postgres.
    path: only files whose path matches; `*` matches any text.
    """

    app: str
    repository: str | None = None
    since: When | None = None
    until: When | None = None
    path: str | None = None


@dataclass(frozen=True)
class RepositoryDeliveries:
    """The files that an app has received from one repository, compared with the stored commit.

    files: the number of files whose last delivery lies in the period.
    first_at, last_at: when the first and the last of these files were delivered; None without any.
    result: the result of the comparison; None if the link is gone and only records are left.
    stored_files: the number of files of the stored commit.
    missing, outdated, extra: the numbers of files that differ. Like `stored_files`, they are None
        if the link is gone, is `scanning` or has no stored commit.
    """

    repository_id: str
    repository_name: str | None
    files: int
    first_at: datetime | None
    last_at: datetime | None
    result: Verdict | None = None
    stored_files: int | None = None
    missing: int | None = None
    outdated: int | None = None
    extra: int | None = None


@dataclass(frozen=True)
class Deliveries(App):
    """The files that an app has received in a period.

    since_at, until_at: the period; None means no bound.
    files: the number of files whose last delivery lies in the period.
    repositories: sorted by name.
    proof: the comparison of all files with the stored commits, regardless of the period. With
        `path`, only of files that match.
    """

    since_at: datetime | None
    until_at: datetime | None
    path: str | None
    files: int
    repositories: Sequence[RepositoryDeliveries]
    proof: Verification


def read_deliveries(
    docora: Docora, choice: DeliveryChoice
) -> Iterator[Compared | Suspects | Deliveries]:
    """Counts the files delivered to an app, and compares them as `verify` does.

    Yields Compared and Suspects like `verify`, and finally the Deliveries.

    Raises NotFoundError, AmbiguousError, PostgresError; UsageError if the period is empty or begins
    in the future.
    """
    app, ref, which = _choose(docora, choice)
    database, judged = docora.database, dict[str, Judged]()
    counts = records.deliveries_by_repository(database, which)
    ids = [ref.id] if ref else link_ids(database, app.app_id)
    for event in compare(docora, ids, Compare(choice.path, in_detail=True)):
        if isinstance(event, Judged):
            judged[event.link.ref.repository_id] = event
        elif isinstance(event, Verification):
            proof = event
        else:
            yield event
    repository_ids = {*counts, *judged}
    names = names_of(database, [LinkRef("", app.app_id, id_) for id_ in repository_ids])
    repositories = [
        _row(repository_id, name, counts.get(repository_id), judged.get(repository_id))
        for repository_id, (_, name) in zip(repository_ids, names, strict=True)
    ]
    repositories.sort(key=lambda row: (row.repository_name or "", row.repository_id))
    files = sum(row.files for row in repositories)
    chosen = (which.since, which.until, which.path)
    yield Deliveries(app.app_id, app.app_name, *chosen, files, repositories, proof)


def delivered_files(
    docora: Docora, choice: DeliveryChoice
) -> tuple[DeliveryFilter, int, Iterator[DeliveredFile]]:
    """Returns the period with the other choices, the number of files, and an iterator of them.

    The files are sorted by repository id, then path. Raises the errors of `read_deliveries`.
    """
    _, _, which = _choose(docora, choice)
    by_repository = records.deliveries_by_repository(docora.database, which)
    total = sum(files for files, _, _ in by_repository.values())
    return which, total, records.delivered_files(docora.database, which)


def _choose(docora: Docora, choice: DeliveryChoice) -> tuple[App, LinkRef | None, DeliveryFilter]:
    database, ref = docora.database, None
    if choice.repository is None:
        app = resolve_app(database, choice.app)
    else:
        link = resolve_link(database, choice.app, choice.repository)
        app, ref = App(link.ref.app_id, link.payload.app_name), link.ref
    since, until = period(database, choice.since, choice.until)
    repository_id = ref.repository_id if ref else None
    return app, ref, DeliveryFilter(app.app_id, repository_id, since, until, choice.path)


def _row(
    repository_id: str,
    name: str | None,
    counted: tuple[int, datetime, datetime] | None,
    judged: Judged | None,
) -> RepositoryDeliveries:
    files, first_at, last_at = counted or (0, None, None)
    of_period = (repository_id, name, files, first_at, last_at)
    if judged is None:
        return RepositoryDeliveries(*of_period)
    link = judged.link
    if link.files is None:
        return RepositoryDeliveries(*of_period, judged.verdict)
    differences = (link.missing, link.outdated, link.extra)
    return RepositoryDeliveries(*of_period, judged.verdict, link.files, *differences)
