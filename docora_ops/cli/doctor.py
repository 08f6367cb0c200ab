"""`doctor`."""

from __future__ import annotations

import typer

from docora_ops.cli import options
from docora_ops.cli.context import context_of
from docora_ops.cli.exit_codes import ExitCode


def doctor(typer_context: typer.Context, as_json: options.Json = False) -> int:
    """Check the settings, both servers, the queue, and whether database and queue agree.

    Changes nothing, and says what to do about each problem. Mismatches are checked twice, some
    seconds apart, so that normal activity does not count.
    """
    context = context_of(typer_context)
    from docora_ops.actions.doctor.diagnose import diagnose
    from docora_ops.diagnosis import CheckState
    from docora_ops.render import doctor as render
    from docora_ops.render.cells import amount

    def before_second_look(suspects: int) -> None:
        if seconds := context.settings.drift_grace:
            found = amount(suspects, "mismatch", "mismatches")
            context.say(f"{found} at first check: checking again in {seconds} s.")

    context.collect_garbage()
    diagnosis = diagnose(context.env_file, before_second_look)
    examples = diagnosis.drift and render.drift_examples(diagnosis.drift)
    tables = [render.checks(diagnosis, context.out.width), *(["", examples] if examples else [])]
    context.show(render.document(diagnosis), tables)
    context.say(render.summary(diagnosis))
    if diagnosis.misconfigured:
        return ExitCode.USAGE
    if diagnosis.server_lost:
        return ExitCode.SERVER
    return ExitCode.PROBLEMS if diagnosis.state is CheckState.FAILED else ExitCode.OK
