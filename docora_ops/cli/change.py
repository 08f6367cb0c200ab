"""The audit entry of a command: who runs it, with which options, and why."""

from __future__ import annotations

import os
import pwd
import re
from pathlib import Path
from typing import TYPE_CHECKING

from docora_ops.errors import UsageError

if TYPE_CHECKING:
    from docora_ops.audit import Change
    from docora_ops.cli.context import Context
    from docora_ops.links import Link

_LONGEST_REASON = 500
_LONGEST_VALUE = 1000
_LONGEST_NAME = 100
_LOGIN_UID = Path("/proc/self/loginuid")
_UNSET = 2**32 - 1


def check_reason(reason: str | None) -> str | None:
    """Returns the reason. Raises UsageError if it is too long."""
    if reason is not None and len(reason) > _LONGEST_REASON:
        raise UsageError(
            f"--reason has {len(reason)} characters", hint=f"{_LONGEST_REASON} are kept at most"
        )
    return reason


def describe_change(command: str, reason: str | None, **selection: object) -> Change:
    """Describes a command with the options that were given. Secrets are masked.

    An option that may be given several times has a list of its values.
    """
    from docora_ops.audit import Change
    from docora_ops.text import mask

    def recorded(value: object) -> object:
        if isinstance(value, list):
            return list(map(recorded, value))
        return mask(value)[:_LONGEST_VALUE] if isinstance(value, str) else value

    return Change(
        who=f"{_user()}@{os.uname().nodename}",
        command=command,
        selection={
            name: recorded(value)
            for name, value in selection.items()
            if value is not None and value is not False and value != []
        },
        reason=reason and mask(reason),
    )


def reset_in_words(context: Context, links: str, jobs: str) -> str:
    """Returns what happens to links and their jobs, for a question."""
    if context.queue.is_docoras:
        return f"reset {links}, so that Docora's scheduler queues {jobs}"
    return f"reset {links} and queue {jobs}"


def sent_again(*, update: bool) -> str:
    """Returns how files are sent again, and what is done to their records, for a question."""
    if update:
        return "again as updates, and delete there what is gone from the repository (mark"
    return "again (delete"


def in_words(*, front: bool, reset_circuit: bool) -> str:
    """Returns what the two options add to a question about jobs."""
    where = " at the head of the queue" if front else ""
    return where + (", and close open circuits" if reset_circuit else "")


def names_of(link: Link) -> dict[str, object]:
    """Returns the names of the link's app and repository for an audit entry."""
    names = ("app_id", "app_name", "repository_id", "repository_name")
    return {name: getattr(link.payload, name) for name in names}


def _user() -> str:
    """Names the user as the kernel knows it; a name from another source is marked as a claim.

    Examples: `kim`; `kim as root` after sudo or su; `root (claims to be kim)`.
    """
    user = _name_of(os.getuid())
    login = _login() or user
    claim = _claimed_name()
    known = user if login == user else f"{login} as {user}"
    return known if claim in {None, login, user} else f"{known} (claims to be {claim})"


def _login() -> str | None:
    """Returns the user who logged in, which the kernel keeps through sudo and su, if known."""
    try:
        uid = int(_LOGIN_UID.read_text(encoding="ascii"))
    except (OSError, ValueError):  # another system than Linux
        return None
    return None if uid == _UNSET else _name_of(uid)


def _claimed_name() -> str | None:
    """Returns the user's name by the environment or the terminal: anybody can forge both."""
    name = os.environ.get("SUDO_USER")
    if not name:
        try:
            name = os.getlogin()
        except OSError:  # without a terminal
            return None
    text = os.fsencode(name).decode(errors="backslashreplace")[:_LONGEST_NAME]
    # A parenthesis in the name could make the claim look complete.
    return re.sub(r"[()]", "?", text)


def _name_of(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
