"""What a command tells the audit trail of itself."""

from __future__ import annotations

import os
import pwd
import re
from pathlib import Path
from typing import TYPE_CHECKING

from docora_ops.cli.context import require_text
from docora_ops.errors import UsageError

if TYPE_CHECKING:
    from docora_ops.audit import ChangeNote
    from docora_ops.links import Link

_LONGEST_REASON = 500
_LONGEST_VALUE = 1000
_LONGEST_NAME = 100
_LOGIN_UID = Path("/proc/self/loginuid")
_UNSET = 2**32 - 1


def require_reason(reason: str | None) -> None:
    """Raise UsageError unless the reason, if given, can be kept."""
    require_text("--reason", reason)
    if reason is not None and len(reason) > _LONGEST_REASON:
        raise UsageError(
            f"--reason has {len(reason)} characters", hint=f"{_LONGEST_REASON} are kept at most"
        )


def change_note(command: str, reason: str | None, **selection: object) -> ChangeNote:
    """Who gives this command, and for what; what was not given is left out, and what is secret."""
    from docora_ops.audit import ChangeNote
    from docora_ops.text import mask

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
    """Name the users that the kernel records, and any other name as a claim.

    `kim`, `kim as root` after sudo or su, `root (claims to be kim)`.
    """
    user = _name_of(os.getuid())
    login = _login() or user
    claim = _claimed_name()
    known = user if login == user else f"{login} as {user}"
    return known if claim in {None, login, user} else f"{known} (claims to be {claim})"


def _login() -> str | None:
    """Return who logged in: the kernel keeps that through sudo and su. None if it is not known."""
    try:
        uid = int(_LOGIN_UID.read_text(encoding="ascii"))
    except (OSError, ValueError):  # another system than Linux
        return None
    return None if uid == _UNSET else _name_of(uid)


def _claimed_name() -> str | None:
    """Return a name that anybody can choose: of the environment or the terminal's login."""
    name = os.environ.get("SUDO_USER")
    if not name:
        try:
            name = os.getlogin()
        except OSError:  # without a terminal
            return None
    text = os.fsencode(name).decode(errors="backslashreplace")[:_LONGEST_NAME]
    # Or the claim could seem to end where it does not.
    return re.sub(r"[()]", "?", text)


def _name_of(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
