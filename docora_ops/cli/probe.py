"""`probe`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from docora_ops.cli import options
from docora_ops.cli.completion import complete_repo
from docora_ops.cli.context import Context, context_of
from docora_ops.cli.exit_codes import ExitCode
from docora_ops.cli.worker import extra_is_missing
from docora_ops.errors import UsageError
from docora_ops.render.columns import Column, Listing, Pairs, cell, style_of, words

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from docora_ops.actions.app_url import Probe, ProbeStep


def probe(
    typer_context: typer.Context,
    app: options.OptionalApp = None,
    repo: Annotated[
        str | None,
        typer.Option(
            "--repo",
            metavar="REPO",
            help="List the branches of this repository (id, owner/name or URL) with the token of "
            "each of its links, or of APP's link.",
            autocompletion=complete_repo,
        ),
    ] = None,
    as_json: options.Json = False,
    env_file: options.EnvFile = None,
) -> int:
    """Test the connection to an app or a git host.

    Tries DNS, TCP, TLS and an unsigned HEAD request to the app's base_url from this host, with the
    proxies, certificate authorities and timeouts of a worker. With --repo, lists the branches of a
    repository with git. Sends no file and changes nothing. Any HTTP response counts as reachable.
    Exits with code 6 if a step fails. Needs the extra `worker`.
    """
    context = context_of(typer_context)
    if app is None and repo is None:
        raise UsageError("probe needs APP or --repo", hint="name an app, a repository, or both")
    result = load_probe()(context.docora, app, repo)
    context.show(result, [_screen(result), *step_screen(result)])
    say_where(context, result)
    return ExitCode.PROBLEMS if result.has_failed else ExitCode.OK


def load_probe() -> Callable[..., Probe]:
    """Returns the function that probes. Raises ConfigurationError without the extra `worker`."""
    try:
        from docora_ops.worker.probe import probe
    except ImportError as error:
        raise extra_is_missing(error) from error
    return probe


_STEPS: Sequence[Column[ProbeStep]] = (
    Column("Step", lambda step: step.name),
    Column("State", lambda step: words(step.state), lambda step: style_of(step.state)),
    Column(
        "Found",
        lambda step: (step.finding, *([f"→ {step.hint}"] if step.hint else [])),
        folds=True,
    ),
    Column("Seconds", lambda step: f"{step.seconds:.2f}", is_number=True),
)


def _screen(probe: Probe) -> Pairs:
    names = {
        "App": probe.app_name and f"{probe.app_name} ({probe.app_id})",
        "URL": probe.base_url,
        "Repository": probe.repository_name and f"{probe.repository_name} ({probe.repository_id})",
        "GitHub URL": probe.github_url,
    }
    return Pairs([(name, cell(text)) for name, text in names.items() if text])


def step_screen(probe: Probe | None) -> Sequence[object]:
    """Shows a blank line and the steps of the probe; nothing without a probe."""
    return ["", Listing(_STEPS, probe.steps)] if probe else []


def say_where(context: Context, probe: Probe | None) -> None:
    """Says from which host the probe was made; nothing without a probe."""
    if probe:
        context.say(f"Probed from {probe.host}; a worker elsewhere may see otherwise.")
