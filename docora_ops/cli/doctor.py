"""`doctor`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from docora_ops.cli import options
from docora_ops.cli.context import context_of
from docora_ops.cli.exit_codes import ExitCode
from docora_ops.render.columns import Column, Listing, cell, link_name, style_of, words
from docora_ops.text import amount

if TYPE_CHECKING:
    from docora_ops.actions.checks import Check
    from docora_ops.actions.doctor import Diagnosis
    from docora_ops.actions.drift import Drift


def doctor(
    typer_context: typer.Context,
    show_all: Annotated[
        bool, typer.Option("--all", help="Show all checks, including those that are ok.")
    ] = False,
    max_failed: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=0,
            max=10**9,
            help="Exit with code 6 if there are more than N failed links.",
        ),
    ] = None,
    read_only: Annotated[
        bool,
        typer.Option(
            "--read-only",
            help="Expect read-only credentials (for monitoring), and do not test writing.",
        ),
    ] = False,
    as_json: options.Json = False,
    target: options.Target = None,
    env_file: options.EnvFile = None,
) -> int:
    """Check settings, servers, queue and links.

    Shows each problem with a remedy, the worst one last. Drift between database and queue is looked
    for twice, some seconds apart, so that normal activity does not count. Changes nothing.
    """
    context = context_of(typer_context)
    from docora_ops.actions.checks import CheckState
    from docora_ops.actions.doctor import Diagnosis, diagnose

    docora = context.docora
    docora.settings = docora.settings.hurried(8)
    events = diagnose(docora, max_failed=max_failed, read_only=read_only)
    for event in context.telling_of_second_look(events, "suspect", "suspects"):
        if isinstance(event, Diagnosis):
            diagnosis = event
    checks = diagnosis.checks
    hinted = [replace(check, hint=check.hint and context.addressed(check.hint)) for check in checks]
    diagnosis = replace(diagnosis, checks=hinted)
    if as_json:
        context.show_document(diagnosis.data())
        context.say(summary(diagnosis))
    else:
        # Without --all, the worst comes last, and a pager would show the beginning.
        screen = doctor_screens(diagnosis, show_all=show_all)
        context.show_tables(screen, context.target_line, paged=show_all)
    if diagnosis.misconfigured:
        return ExitCode.USAGE
    if diagnosis.server_lost:
        return ExitCode.SERVER
    return ExitCode.PROBLEMS if diagnosis.state is CheckState.CRITICAL else ExitCode.OK


def _finding(check: Check) -> tuple[str, str | None]:
    hint = f"→ {check.hint}{': see below' if check.command else ''}"
    return check.finding, hint if check.hint else None


_WORST_LAST = ("not_checked", "warning", "critical")
_CHECKS: Sequence[Column[Check]] = (
    Column("Check", lambda check: words(check.name).capitalize().replace("Bullmq", "BullMQ")),
    Column("State", lambda check: words(check.state), lambda check: style_of(check.state)),
    Column("Found", _finding, folds=True),
)
_EXAMPLES: Sequence[Column[Drift]] = (
    Column("Drift", lambda drift: words(drift.kind)),
    Column("Link", link_name, folds=True),
    Column("Where", lambda drift: drift.detail),
)


def doctor_screens(diagnosis: Diagnosis, *, show_all: bool) -> Iterator[object]:
    """Shows the checks that are not ok, the worst last, examples of drift, and the summary.

    show_all: show all checks in display order, and more examples.
    """
    from docora_ops.actions.drift import EXAMPLES_SHOWN

    if show_all:
        yield Listing(_CHECKS, diagnosis.checks)
    else:
        yield from _not_ok(diagnosis)
    if (drift := diagnosis.drift) and drift.total:
        kinds = sum(map(bool, drift.found.values()))
        # About five, so that the checks stay in view.
        examples = drift.examples(EXAMPLES_SHOWN if show_all else max(1, EXAMPLES_SHOWN // kinds))
        yield from ("", Listing(_EXAMPLES, examples))
        if more := drift.total - len(examples):
            yield cell(f"and {more} more: docora-ops repair --dry-run")
        yield ""
    for check in diagnosis.checks:
        if check.command:
            command = cell(check.command)
            command.no_wrap, command.overflow = True, "ignore"  # so that it can be pasted
            yield command
    yield cell(summary(diagnosis), style_of(diagnosis.state))


def _not_ok(diagnosis: Diagnosis) -> Iterator[object]:
    checks = diagnosis.checks
    needs = f"needs {diagnosis.needs}"
    unmade = sum(check.finding == needs for check in checks)
    if unmade:
        verb = "it needs" if unmade == 1 else "they need"
        yield cell(f"{amount(unmade, 'check')} not made: {verb} {diagnosis.needs}", "dim")
    troubles = [
        check
        for state in _WORST_LAST
        for check in checks
        if check.state == state and check.finding != needs
    ]
    if troubles:
        yield Listing(_CHECKS, troubles)
    fine = sum(check.state == "ok" for check in checks)
    if fine:
        yield cell(f"{amount(fine, 'check')} ok; --all shows {'it' if fine == 1 else 'them'}")


def summary(diagnosis: Diagnosis) -> str:
    """Counts the checks that are not ok, in a sentence."""
    counts = Counter(check.state.value for check in diagnosis.checks)
    parts = {
        "critical": f"{counts['critical']} critical",
        "warning": amount(counts["warning"], "warning"),
        "not_checked": f"{counts['not_checked']} not checked",
    }
    return (
        ", ".join(text for state, text in parts.items() if counts[state]) or "All is well"
    ) + "."
