"""`doctor`."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import groupby, islice
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from docora_ops.cli import options
from docora_ops.cli.context import context_of
from docora_ops.cli.exit_codes import ExitCode
from docora_ops.cli.terminal import has_failed
from docora_ops.errors import UsageError
from docora_ops.render.columns import Column, Listing, cell, link_name, style_of, words
from docora_ops.text import amount, duration, moment, seconds_of

if TYPE_CHECKING:
    from docora_ops.actions.checks import Check
    from docora_ops.actions.doctor import Diagnosis
    from docora_ops.actions.doctor_changes import ProblemChanges
    from docora_ops.actions.drift import Drift
    from docora_ops.cli.context import Context


_DAY = 86_400  # seconds


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
    changes: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            resolve_path=True,  # the file is replaced, not a symlink to it
            help="Print only what has become critical, or is over, since the last run with FILE "
            "(exit code 6 while a check is critical). Print nothing if nothing has changed.",
        ),
    ] = None,
    remind: Annotated[
        int | None,
        typer.Option(
            metavar="TIME",
            parser=seconds_of,
            help="With --changes: print problems again that have lasted for TIME since the last "
            "output (default: 24h).",
        ),
    ] = None,
    as_json: options.Json = False,
    env_file: options.EnvFile = None,
) -> int:
    """Check settings, servers, queue and links.

    Shows each problem with a remedy, the worst one last. Looks for drift between database and queue
    twice, some seconds apart, so that normal activity does not count. Changes nothing.
    """
    if remind and not changes:
        raise UsageError("--remind needs --changes", hint="add --changes FILE")
    if changes and show_all:
        raise UsageError("--all and --changes can't be combined", hint="remove one of them")
    context = context_of(typer_context)
    from docora_ops.actions.checks import CheckState
    from docora_ops.actions.doctor import Diagnosis, diagnose
    from docora_ops.actions.doctor_changes import refuse_special

    docora = context.docora
    if changes:
        refuse_special(changes)
    docora.settings = docora.settings.hurried(8, keeps_set=True)
    events = diagnose(docora, max_failed=max_failed, read_only=read_only)
    if not changes:
        events = context.telling_of_second_look(events, "suspect", "suspects")
    [diagnosis] = [event for event in events if isinstance(event, Diagnosis)]
    if changes:
        return _tell_changes(context, diagnosis, changes, remind or _DAY)
    if as_json:
        context.show_document(diagnosis)
        context.say(summary(diagnosis))
    else:
        screen = doctor_screens(diagnosis, show_all=show_all)
        context.show_tables(screen)
    if diagnosis.misconfigured:
        return ExitCode.USAGE
    if diagnosis.server_lost:
        return ExitCode.SERVER
    return ExitCode.PROBLEMS if diagnosis.state is CheckState.CRITICAL else ExitCode.OK


def _tell_changes(context: Context, diagnosis: Diagnosis, file: Path, remind: int) -> int:
    from docora_ops.actions.doctor_changes import compare, keep

    changes = compare(diagnosis.checks, file, remind)
    if not changes.are_news:
        context.docora.notices.clear()  # a check shows them, too
    if context.as_json:
        context.show_document(replace(diagnosis, changes=changes))
    elif changes.are_news:
        context.show_tables(_changes_screen(diagnosis, changes))
    if not has_failed(sys.stdout):  # otherwise, the next run must report this again
        keep(changes, file)
    return ExitCode.PROBLEMS if changes.are_news and changes.has_open else ExitCode.OK


def _changes_screen(diagnosis: Diagnosis, changes: ProblemChanges) -> Iterator[object]:
    checks = {check.name: check for check in diagnosis.checks}
    begins = [(problem, "New") for problem in changes.new]
    for problem in changes.over:
        lasted = duration((changes.told_at - problem.since_at).total_seconds())
        begins.append((problem, f"Over after {lasted}"))
    begins += [(problem, f"Since {moment(problem.since_at)}") for problem in changes.ongoing]
    for problem, begin in begins:
        check, is_open = checks[problem.name], problem not in changes.over
        style = style_of("critical" if is_open else "ok")
        yield cell(f"{begin}: {_title(check)}: {check.finding}", style)
        remedy = [f"  → {check.hint}" if check.hint else "", check.command] if is_open else []
        yield from map(cell, filter(None, remedy))
    over = "" if changes.has_open else "No check is critical any longer. "
    yield cell(over + summary(diagnosis), style_of(diagnosis.state))


def _title(check: Check) -> str:
    return words(check.name).capitalize().replace("Bullmq", "BullMQ")


def _finding(check: Check) -> tuple[str, str | None]:
    hint = f"→ {check.hint}{': see below' if check.command else ''}"
    return check.finding, hint if check.hint else None


_CHECKS: Sequence[Column[Check]] = (
    Column("Check", _title),
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
    from docora_ops.actions.doctor import EXAMPLES_SHOWN

    if show_all:
        yield Listing(_CHECKS, diagnosis.checks)
    else:
        yield from _not_ok(diagnosis)
    if (drift := diagnosis.drift) and drift.total:
        kinds = sum(map(bool, drift.counts.values()))
        # About five, so that the checks stay in view.
        most = EXAMPLES_SHOWN if show_all else max(1, EXAMPLES_SHOWN // kinds)
        of_kind = groupby(drift.examples, key=attrgetter("kind"))
        examples = [example for _, drifts in of_kind for example in islice(drifts, most)]
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
    counts = Counter(check.state.value for check in diagnosis.checks)
    if unmade := counts["not_checked"]:
        verb = "it needs" if unmade == 1 else "they need"
        yield cell(f"{amount(unmade, 'check')} not made: {verb} {diagnosis.needs}", "dim")
    states = ("warning", "critical")
    troubles = [check for state in states for check in diagnosis.checks if check.state == state]
    if troubles:
        yield Listing(_CHECKS, troubles)
    if fine := counts["ok"]:
        yield cell(f"{amount(fine, 'check')} ok; --all shows {'it' if fine == 1 else 'them'}")


def summary(diagnosis: Diagnosis) -> str:
    """Says how many checks are not ok or, if none, which apps are held."""
    from docora_ops.actions.holds import held_in_words

    counts = Counter(check.state.value for check in diagnosis.checks)
    parts = {
        "critical": f"{counts['critical']} critical",
        "warning": amount(counts["warning"], "warning"),
        "not_checked": f"{counts['not_checked']} not checked",
    }
    well = "All is well" + (f"; {held_in_words(diagnosis.held)}" if diagnosis.held else "")
    return (", ".join(text for state, text in parts.items() if counts[state]) or well) + "."
