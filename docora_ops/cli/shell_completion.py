"""Completion in bash and zsh.

Replaces the scripts and classes of Typer 0.29 for these two shells. Typer's cut a value at its
blanks, do not quote it, and offer files where a value is unknown.
"""

from __future__ import annotations

import faulthandler
import os
import re
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from typer import _completion_shared
from typer._click.shell_completion import CompletionItem, add_completion_class
from typer._completion_classes import BashComplete, ZshComplete

from docora_ops.cli.completers import AnyFile
from docora_ops.cli.lean import LeanGroup

# The first line of an answer says what follows, and is empty if there is none. It is `files` if the
# shell is to offer files, and `list` if the values must not be inserted: they have less in common
# than was typed, and the shell would delete the rest. Readline inserts nothing if a value is blank.
_BASH_SCRIPT = """
%(complete_func)s() {
    local answer
    mapfile -t answer < <(
        %(autocomplete_var)s=complete_bash COMP_LINE="${COMP_LINE:0:COMP_POINT}" COMP_WORD="$2" \\
            "$1" 2>/dev/null
    )
    COMPREPLY=("${answer[@]:1}")
    case ${answer-} in
        files) compopt -o default ;;
        list) COMPREPLY+=(' ') ;;
    esac
}

complete -o nosort -F %(complete_func)s %(prog_name)s
"""

# zsh quotes the values itself. `_describe` takes `value:description`, with \\ before other colons.
_ZSH_SCRIPT = """\
#compdef %(prog_name)s

%(complete_func)s() {
  local -a words_so_far answer
  words_so_far=("${(@Q)words[2,CURRENT-1]}" "${(Q)${:-$QIPREFIX$PREFIX$compstate[quote]}}")
  answer=("${(@f)$(
    _TYPER_COMPLETE_ARGS="${(F)words_so_far}" %(autocomplete_var)s=complete_zsh \\
      "${(Q)words[1]}" 2>/dev/null
  )}")
  case $answer[1] in
    files) compset -P 1 '--*='; _files ;;
    list) compstate[insert]='' ;&
    values) shift answer; _describe -V value answer -U ;;
  esac
}

compdef %(complete_func)s %(prog_name)s
# zsh reads the installed file as the function _docora-ops, at the first Tab.
if [[ $funcstack[1] == _%(prog_name)s ]]; then
  %(complete_func)s
fi
"""

_PATIENCE = 1.9
"""Seconds after the start of the process at which a completion ends."""

_UNQUOTED = frozenset("_@%+=:,./-")
"""Characters beside letters and digits that bash takes as they are."""


class CompletingGroup(LeanGroup):
    """The group of all commands.

    It completes with the classes below, prints no error, and gives up in time.
    """

    def _main_shell_completion(
        self, ctx_args: Any, prog_name: str, complete_var: str | None = None
    ) -> None:
        if not os.environ.get("_DOCORA_OPS_COMPLETE"):
            return
        # A thread in C: no signal handler and no thread in Python runs during a call of libpq,
        # which may wait for a name server.
        nowhere = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 - until the end
        left = max(_PATIENCE - _age_of_process(), 0.1)
        faulthandler.dump_traceback_later(left, exit=True, file=nowhere)
        add_completion_class(_Bash, "bash")
        add_completion_class(_Zsh, "zsh")
        with suppress(Exception):
            super()._main_shell_completion(ctx_args, prog_name, complete_var)
        sys.exit(1)


def _age_of_process() -> float:
    """Returns the seconds since the process started; not on Linux, those on the CPU."""
    try:
        # The 22nd field; the second one is a name in parentheses, which may contain blanks.
        stat = Path("/proc/self/stat").read_text(encoding="utf-8", errors="replace")
        ticks = int(stat.rpartition(")")[2].split()[19])
    except OSError:
        return time.process_time()
    return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")


class _Word(NamedTuple):
    text: str
    """Without quotes and backslashes."""
    start: int
    """The index of the first character of the word in the line."""
    quote: str
    """The quote that is open at the end of the line, if any."""
    quoted_from: int
    """The index of the first character after the last opening quote."""


class _Bash(BashComplete):
    def get_completion_args(self) -> tuple[list[str], str]:
        _, *words = _split(os.environ["COMP_LINE"])
        *arguments, incomplete = (word.text for word in words)
        return arguments, incomplete

    def complete(self) -> str:
        """Returns the values as they replace the word of readline, which may begin late.

        It begins after an open quote, or after a colon or another of COMP_WORDBREAKS.
        """
        arguments, incomplete = self.get_completion_args()
        items = _with_option(self.get_completions(arguments, incomplete), incomplete)
        line = os.environ["COMP_LINE"]
        word = _split(line)[-1]
        start = word.quoted_from if word.quote else len(line) - len(os.environ["COMP_WORD"])
        kept = _split(line[word.start : max(start, word.start)])[-1].text
        replacements = [
            _quoted(item.value[len(kept) :], word.quote)
            for item in items
            if item.value[: len(kept)].casefold() == kept.casefold()
        ]
        return _answer(items, incomplete, replacements)


class _Zsh(ZshComplete):
    def get_completion_args(self) -> tuple[list[str], str]:
        *arguments, incomplete = os.environ["_TYPER_COMPLETE_ARGS"].split("\n")
        return arguments, incomplete

    def complete(self) -> str:
        arguments, incomplete = self.get_completion_args()
        items = _with_option(self.get_completions(arguments, incomplete), incomplete)
        lines = [":".join(map(_escaped, filter(None, (each.value, each.help)))) for each in items]
        return _answer(items, incomplete, lines)


def _with_option(items: list[CompletionItem], incomplete: str) -> list[CompletionItem]:
    """Puts the option before its values if the typed word is `--option=value`."""
    option, equals, _ = incomplete.partition("=")
    if equals and option.startswith("--"):
        for item in items:
            if not isinstance(item.value, AnyFile):
                item.value = f"{option}={item.value}"
    return items


def _answer(items: list[CompletionItem], typed: str, values: list[str]) -> str:
    """Returns the lines for the script."""
    if any(isinstance(item.value, AnyFile) for item in items):
        return "files"
    beginnings = {item.value[: len(typed)] for item in items}
    loses_text = len(items) > 1 and [each.casefold() for each in beginnings] != [typed.casefold()]
    return "\n".join(["list" if loses_text else "values", *values])


def _split(line: str) -> list[_Word]:
    """Splits a line into words as bash does. The last one may be empty or lack its end."""
    words: list[_Word] = []
    text, start, quote, quoted_from, is_escaped = "", 0, "", 0, False
    for place, character in enumerate(line):
        if is_escaped:
            keeps_backslash = quote == '"' and character not in '"\\$`'
            text += f"\\{character}" if keeps_backslash else character
            is_escaped = False
        elif character == "\\" and quote != "'":
            is_escaped = True
        elif character == quote:
            quote = ""
        elif quote:
            text += character
        elif character in "'\"":
            quote, quoted_from = character, place + 1
        elif not character.isspace():
            text += character
        else:
            if place > start:
                words.append(_Word(text, start, "", 0))
            text, start = "", place + 1
    return [*words, _Word(text, start, quote, quoted_from)]


def _quoted(text: str, quote: str) -> str:
    """Returns a text as bash reads it after this open quote, or outside of quotes."""
    if quote == "'":
        quoted = text.replace("'", "'\\''")
    elif quote == '"':
        # An interactive bash replaces ! within double quotes even after a backslash.
        quoted = re.sub(r'(["\\$`])', r"\\\1", text).replace("!", '"\\!"')
    else:
        return "".join(
            character if character.isalnum() or character in _UNQUOTED else f"\\{character}"
            for character in text
        )
    # Readline closes the quote, unless it takes the last character for the closing quote.
    return quoted + quote if quoted.endswith(quote) else quoted


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace(":", "\\:")


_completion_shared._completion_scripts.update(bash=_BASH_SCRIPT, zsh=_ZSH_SCRIPT)  # noqa: SLF001
