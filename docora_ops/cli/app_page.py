"""The page of an app: `show APP`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from docora_ops.cli.exit_codes import ExitCode
from docora_ops.links import LinkStatus, arguments
from docora_ops.render.columns import Pairs, cell, first_lines, one_line, words
from docora_ops.text import amount, counted, good_until_in_words, moment

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from rich.text import Text

    from docora_ops.actions.app_page import AppPage
    from docora_ops.cli.context import Context
    from docora_ops.error_groups import ErrorGroup

_ERRORS = 4  # lines, so that the page fits 24 lines
TO_READ_CONTACTS = "needs a grant: docora-ops help privileges"


def show_app(context: Context, app: str, *, show_all: bool) -> ExitCode:
    """Shows everything about one app. Without Redis, omits what only Redis knows.

    Returns OK or, if Redis can't be used, the exit code of its error.

    show_all: show all errors.
    """
    from docora_ops.actions.app_page import show_app

    page, lost = show_app(context.docora, app)
    if context.as_json:
        context.show_document(page, lost)
    else:
        rows = list(_rows(page, show_all=show_all))
        context.show_tables([Pairs(rows)])
    return context.report(lost) if lost else ExitCode.OK


def _rows(page: AppPage, *, show_all: bool) -> Iterator[tuple[str, Text]]:
    app = arguments(page.app_id)
    yield "App", cell(f"{page.app_name} ({page.app_id})")
    unknown = page.email is None and page.created_at is None
    yield "Email", cell(TO_READ_CONTACTS, "dim") if unknown else cell(page.email)
    yield "URL", cell(page.base_url)
    if page.created_at:
        yield "Created", cell(moment(page.created_at))
    if page.held:
        yield "Held", cell(page.held.words, "yellow")
        yield "", _command(f"release {app}")
    counts = {words(status): getattr(page, status) for status in LinkStatus}
    yield "Links", cell(", ".join(counted(counts)) or "none")
    if page.overdue:
        yield "Overdue", cell(amount(page.overdue, "link"), "red")
        yield "", _command(f"links --overdue --app {app}")
    if failed := page.failed:
        good = good_until_in_words(
            page.good_until_at, page.good_until_seconds, page.oldest_scan_seconds
        )
        yield "Failed", cell(f"{amount(failed, 'link')}, {good}", "red")
        yield from _errors(page.failed_by_error, show_all=show_all)
        yield "", _command(f"failed --app {app}")
    if tried := sum(group.links for group in page.tried_by_error):
        are_tried = "is tried" if tried == 1 else "are tried"
        yield "Failed tries", cell(f"{amount(tried, 'link')}, which {are_tried} again", "yellow")
        yield from _errors(page.tried_by_error, show_all=show_all)
    yield "Last good scan", cell(moment(page.last_scanned_at) or "never")
    delivered = amount(page.delivered_files, "file")
    if page.last_delivered_at:
        delivered += f", the last at {moment(page.last_delivered_at)}"
    yield "Delivered", cell(delivered)
    if page.delivered_files:
        yield "", _command(f"deliveries {app}")
    for number, operation in enumerate(page.running_operations or ()):
        from docora_ops.cli.bulk_view import running

        yield "" if number else "Running", cell(running(operation), "cyan")


def _errors(groups: Sequence[ErrorGroup], *, show_all: bool) -> Iterator[tuple[str, Text]]:
    counts = [(group.links, group.error_message) for group in groups]
    most, text_of = (sys.maxsize, cell) if show_all else (_ERRORS, one_line)
    yield from (("", text_of(line)) for line in first_lines(counts, most, how=": add --all"))


def _command(command: str) -> Text:
    return cell(f"docora-ops {command}", "dim")
