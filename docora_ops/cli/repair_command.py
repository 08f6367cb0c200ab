"""One repair: looks for drift, asks, repairs it and shows the result."""

from __future__ import annotations

from docora_ops.actions.repair.fix import Repair
from docora_ops.cli.context import Context
from docora_ops.cli.exit_codes import ExitCode
from docora_ops.cli.long_run import LongRun
from docora_ops.cli.signals import interrupted_code
from docora_ops.cli.terminal import Terminal
from docora_ops.drift import DriftKind, RepairOutcome, RepairResult
from docora_ops.errors import ServerError
from docora_ops.render import drift_view
from docora_ops.text import amount


class RepairCommand(LongRun):
    """One repair, from the search for drift to the exit code."""

    def __init__(self, context: Context, fix: Repair, of: str, *, with_list: bool) -> None:
        """Prepares the command.

        `of`: the app or the link for messages, such as ` of Acme Search`; empty for everywhere.
        """
        super().__init__(context, fix)
        self._fix = fix
        self._of = of
        self._with_list = with_list

    def run(self, terminal: Terminal | None) -> int:
        """Finds drift, asks, repairs it and shows the result. Returns the exit code."""
        context = self.context
        context.say(f"{context.servers}: looking for drift{self._of}.")
        context.count_workers(to_change=True, alone=True)
        self._fix.before_second_look = lambda suspects: context.say(
            f"{amount(suspects, 'mismatch', 'mismatches')} at first check: checking again."
        )
        found = self._fix.find()
        if context.dry_run:
            self._fix.plan()
        elif found.total:
            if terminal is not None:
                above = drift_view.found_list(found)
                changes = _changes(found, is_docoras=context.queue.is_docoras)
                terminal.ask(f"{context.servers}: {changes}{self._of}?", above)
            return self.carry_out()
        return self.finish()

    def finish(self) -> int:
        """Shows the result. Returns the exit code."""
        self.show()
        result = self._fix.result()
        if self.context.dry_run:
            self.context.say("Dry run: nothing was changed.")
        elif result.completed < result.total:
            done = f"Stopped after {result.completed} of {result.total}"
            self.context.warn(f"{done}; {self.next_step}.")
            if self._fix.stop.requested:
                return interrupted_code()
        return ExitCode.PROBLEMS if result.counts.get(RepairOutcome.NOT_REPAIRED) else ExitCode.OK

    def show(self, error: ServerError | None = None) -> None:
        """Shows what was done until now, and in JSON the error that has ended it."""
        context, result = self.context, self._fix.result()
        if context.as_json:
            context.show_document(drift_view.repair_data(result), error)
        elif not result.total:
            context.show_tables([drift_view.repair_message(result)])
        else:
            tables = drift_view.repair_screens(result, with_list=self._with_list)
            context.show_tables(tables, is_last=not (error or self._fix.stop.requested))


def _changes(found: RepairResult, *, is_docoras: bool) -> str:
    links = found.found[DriftKind.LOST] + found.found[DriftKind.STUCK]
    removals = found.total - links
    queue = f"queue {amount(links, 'link')} again" if links else ""
    if links and is_docoras:
        queue = f"reset {amount(links, 'link')}, so that Docora's scheduler queues them again"
    remove = f"remove {amount(removals, 'job or entry', 'jobs or entries')}" if removals else ""
    changes = " and ".join(filter(None, (queue, remove)))
    if found.found[DriftKind.STUCK]:
        changes += " (a stuck link without tries left becomes failed instead)"
    return changes
