"""`doctor`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from docora_ops.cli.context import context_of
from docora_ops.cli.exit_codes import ExitCode
from docora_ops.cli.options import JsonOption

if TYPE_CHECKING:
    from docora_ops.diagnosis import Diagnosis


def doctor(typer_context: typer.Context, as_json: JsonOption = False) -> int:
    """Check the settings, both servers, the queue, and whether database and queue agree.

    Changes nothing, and says of everything that is not well what to do. What looks out of step is
    looked at again some seconds later, and only counts if it is so still.
    """
    context = context_of(typer_context)
    from docora_ops.actions.doctor.diagnose import diagnose
    from docora_ops.render import doctor as render

    def before_second_look(suspects: int, seconds: int) -> None:
        if seconds:
            context.say("{} out of step at first sight: looking again in {} s.", suspects, seconds)

    context.collect_garbage()
    diagnosis = diagnose(context.env_file, before_second_look)
    if as_json:
        context.show_document(render.document(diagnosis))
    else:
        context.show(render.checks(diagnosis, context.out.width))
        examples = diagnosis.drift and render.drift_examples(diagnosis.drift)
        if examples:
            context.show("", examples)
    context.say(render.summary(diagnosis))
    return _exit_code(diagnosis)


def _exit_code(diagnosis: Diagnosis) -> ExitCode:
    from docora_ops.diagnosis import CheckState

    if diagnosis.misconfigured:
        return ExitCode.USAGE
    if diagnosis.server_lost:
        return ExitCode.SERVER
    return ExitCode.PROBLEMS if diagnosis.state is CheckState.FAILED else ExitCode.OK
