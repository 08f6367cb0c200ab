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
from docora_ops.render import repair as render
from docora_ops.render.cells import amount


class RepairCommand(LongRun):
    """One repair, from the search for drift to the exit code."""

    def __init__(self, context: Context, fix: Repair) -> None:
        super().__init__(context, fix, 0)
        self._fix = fix

    def run(self, terminal: Terminal | None) -> int:
        """Finds drift, asks, repairs it and shows the result. Returns the exit code."""
        context = self.context
        context.say("{}: looking for drift.", context.servers)
        context.count_workers()
        context.collect_garbage()
        self._fix.before_second_look = lambda suspects: context.say(
            "{} at first check: checking again.", amount(suspects, "mismatch", "mismatches")
        )
        found = self._fix.find()
        self._total = found.total
        if self.context.dry_run:
            self._fix.plan()
            return self.finish()
        if not found.total:
            return self.finish()
        if terminal is not None:
            self._ask(terminal, found)
        return self.carry_out()

    def finish(self) -> int:
        """Shows the result. Returns the exit code."""
        self.show()
        result = self._fix.result()
        if self.context.dry_run:
            self.context.say("Dry run: nothing was changed.")
        elif not result.complete:
            stopped = "Stopped after {} of {}; {}."
            self.context.warn(stopped, result.completed, result.total, self.next_step)
            if self._fix.stop.requested:
                return interrupted_code()
        return ExitCode.PROBLEMS if result.counts.get(RepairOutcome.FAILED) else ExitCode.OK

    def show(self, error: ServerError | None = None) -> None:
        """Shows what was done until now, and in JSON the error that has ended it."""
        context, result = self.context, self._fix.result()
        if self.context.as_json:
            context.show_text(render.encode(result, error))
        elif not result.total:
            context.show_tables(render.message(result))
        else:
            for part in render.tables(result, context.out.width):
                context.show_tables(part)
            context.show_tables("", render.summary(result))

    def _ask(self, terminal: Terminal, found: RepairResult) -> None:
        links = found.found[DriftKind.LOST] + found.found[DriftKind.STUCK]
        removals = found.total - links
        changes = [
            "queue {links} again" if links else "",
            "remove {removals}" if removals else "",
        ]
        terminal.ask(
            f"{{servers}}: {' and '.join(filter(None, changes))}?",
            render.found(found),
            links=amount(links, "link"),
            removals=amount(removals, "job or entry", "jobs or entries"),
            servers=self.context.servers,
        )
