"""`show`."""

from __future__ import annotations

from rich.console import RenderableType
from rich.text import Text

from docora_ops.jobs import MOST_SEARCHED, Backend, JobPlace
from docora_ops.link_lists import LinkDetails, LinkHistory
from docora_ops.render.cells import cell, circuit, failed_tries, state, with_id
from docora_ops.render.json import Document, fields_of
from docora_ops.render.layout import pairs
from docora_ops.text import amount, duration, moment

_LISTED = {"queued", "wait"}
"""The status of a job that should stand in a list."""
_SCORES = {
    "scheduled": "due",
    "delayed": "due",
    "deferred": "since",
    "ready": "since",
    "rate_limited": "since",
}
"""The meaning of an entry's score by place; elsewhere it is when the entry expires."""

_TOKEN = {True: "yes", False: "no", None: "not known: our role has no right to look for it"}


def document(details: LinkDetails) -> Document:
    """Returns the JSON of `show`."""
    data = fields_of(details) | fields_of(details.history)
    del data["history"]
    return {"data": data}


def table(details: LinkDetails, *, full: bool) -> RenderableType:
    """Shows the rows of the database, then the job in the queue. `full`: all of its failure."""
    history = details.history
    error = details.error_message
    return pairs(
        [
            ("App", cell(with_id(details.app_name, details.app_id))),
            ("App URL", cell(details.base_url)),
            ("Repository", cell(with_id(details.repository_name, details.repository_id))),
            ("GitHub URL", cell(details.github_url)),
            ("Token", cell(_TOKEN[details.has_token])),
            ("Status", cell(f"{details.status}, {failed_tries(details.retry_count)}")),
            ("Error", cell("none" if error is None else error)),
            ("Linked since", cell(moment(history.created_at))),
            ("Last good scan", cell(moment(history.last_scanned_at) or "never")),
            ("Circuit", _circuit(details)),
            ("Delivered", _delivered(history)),
            ("Snapshot", _snapshot(history)),
            ("Job", cell(details.job_id)),
            ("Job state", _state(details)),
            *_job(details, full=full),
        ]
    )


def _circuit(details: LinkDetails) -> Text:
    until, failures = details.circuit_open_until, details.history.consecutive_failures
    text = circuit(until, is_open=details.circuit_is_open)
    if until is not None and not details.circuit_is_open:
        text = cell(f"was open until {moment(until)}")
    if failures:
        text.append(f", {amount(failures, 'git failure')} in a row")
    return text


def _delivered(history: LinkHistory) -> Text:
    last = f", the last at {moment(history.last_delivered_at)}" if history.last_delivered_at else ""
    return cell(f"{amount(history.delivered_files, 'file')}{last}")


def _snapshot(history: LinkHistory) -> Text:
    snapshot = history.snapshot
    if snapshot is None:
        return cell("none")
    return cell(
        f"{snapshot.commit_sha} of {snapshot.branch}, {amount(snapshot.files, 'file')}, "
        f"{moment(snapshot.scanned_at) or 'never'}"
    )


def _state(details: LinkDetails) -> Text:
    held = ", a worker holds the link" if details.lock_held else ""
    return state(details.job).append(held)


def _job(details: LinkDetails, *, full: bool) -> list[tuple[str, Text]]:
    job = details.job_record
    rows = []
    if job.status is not None:
        left = (
            ""
            if job.retries_left is None
            else f", {amount(job.retries_left, 'retry', 'retries')} left"
        )
        made = "" if job.attempts is None else f", {amount(job.attempts, 'try', 'tries')} made"
        name = "RQ status" if details.backend is Backend.RQ else "BullMQ"
        rows.append((name, cell(f"{job.status}{made}{left}")))
    if job.origin is not None:
        rows.append(("Queue", cell(job.origin)))
    rows += [("Stands in", _place(place)) for place in job.places]
    if job.status in _LISTED and not any(place.position for place in job.places):
        rows.append(("Stands in", cell(f"none of the first {MOST_SEARCHED:,} places of its list")))
    for name, when in (
        ("Created", job.created_at),
        ("Queued", job.enqueued_at),
        ("Began", job.started_at),
        ("Ended", job.ended_at),
    ):
        if when is not None:
            rows.append((name, cell(moment(when))))
    if job.worker:
        rows.append(("Worker", cell(job.worker)))
    if job.expires_in is not None:
        rows.append(("Is kept for", cell(duration(job.expires_in))))
    if job.last_failure is not None:
        failure = job.last_failure
        by = f" on {failure.worker}" if failure.worker else ""
        rows.append(
            ("Last failure", cell(f"{moment(failure.failed_at) or 'in an earlier try'}{by}"))
        )
        # The error is the last line of Python's traceback, and the first one of Node's text.
        lines = failure.text.split("\n")
        first = lines.pop(-1 if details.backend is Backend.RQ else 0)
        rows += [("", cell(line)) for line in (first, *(lines if full else ()))]
        if lines and not full:
            rows.append(("", cell(f"and {amount(len(lines), 'line')} more: add --full", "dim")))
    return rows


def _place(place: JobPlace) -> Text:
    if place.where == "list":
        return cell(f"waiting list of {place.queue_name}, place {place.position}")
    if place.where == "intermediate":
        return cell(f"between {place.queue_name} and a worker")
    text = f"{place.where} of {place.queue_name}"
    if place.position is not None:
        text += f", place {place.position}"
    if place.worker:
        text += f" on {place.worker}"
    if place.alive is not None:
        text += ", alive" if place.alive else ", dead"
        if place.score_at is not None:
            verb = "expires" if place.alive else "expired"
            text += f", heartbeat {verb} {moment(place.score_at)}"
    elif place.score_at is not None:
        text += f", {_SCORES.get(place.where, 'expires')} {moment(place.score_at)}"
    return cell(text)
