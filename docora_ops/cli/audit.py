"""What a command tells the audit trail of itself."""

from __future__ import annotations

import os
import pwd
from typing import TYPE_CHECKING

from docora_ops.cli.context import require_text
from docora_ops.errors import UsageError

if TYPE_CHECKING:
    from docora_ops.models import ChangeNote, Link

_LONGEST_REASON = 500
_LONGEST_VALUE = 1000


def require_reason(reason: str | None) -> None:
    """Raise UsageError unless the reason, if given, can be kept."""
    require_text("--reason", reason)
    if reason is not None and len(reason) > _LONGEST_REASON:
        raise UsageError(
            f"--reason has {len(reason)} characters", hint=f"{_LONGEST_REASON} are kept at most"
        )


def change_note(command: str, reason: str | None, **selection: object) -> ChangeNote:
    """Who gives this command, and for what; what was not given is left out, and what is secret."""
    from docora_ops.masking import mask
    from docora_ops.models import ChangeNote

    return ChangeNote(
        who=f"{_user()}@{os.uname().nodename}",
        command=command,
        selection={
            name: mask(value)[:_LONGEST_VALUE] if isinstance(value, str) else value
            for name, value in selection.items()
            if value is not None and value is not False
        },
        reason=reason and mask(reason),
    )


def link_note(command: str, reason: str | None, link: Link, **options: object) -> ChangeNote:
    """The same for a command that is about one link."""
    return change_note(
        command,
        reason,
        app_id=link.ref.app_id,
        app_name=link.payload.app_name,
        repository_id=link.ref.repository_id,
        repository=link.payload.repository,
        **options,
    )


def _user() -> str:
    """The person behind sudo or su, if there is one."""
    if name := os.environ.get("SUDO_USER"):
        return os.fsencode(name).decode(errors="backslashreplace")[:_LONGEST_VALUE]
    try:
        return os.getlogin()
    except OSError:  # nobody has logged in: cron, a container
        pass
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())
