"""The command line that was typed, corrected, so that a hint shows a command to paste."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from docora_ops.errors import Correction, DocoraOpsError, Retyped


@dataclass(frozen=True)
class _Typed:
    head: list[str]
    """The words up to the command's name."""
    arguments: list[str]
    options: list[str]
    """With their values."""

    def corrected(self, retyped: Retyped) -> str:
        """Returns the command with the corrections and the added words, quoted for the shell."""
        arguments, options = list(self.arguments), list(self.options)
        for correction in retyped.corrections:
            _correct(arguments, options, correction)
        for word in retyped.added:
            (options if word.startswith("-") else arguments).append(word)
        return self.command(arguments, options)

    def command(self, arguments: Sequence[str], options: Sequence[str]) -> str:
        """Returns the command with these arguments and options, masked, quoted for the shell."""
        from docora_ops.text import mask

        if any(word.startswith("-") for word in arguments):
            words = [*self.head, *options, "--", *arguments]
        else:
            words = [*self.head, *arguments, *options]
        return mask(shlex.join(["docora-ops", *words]))


def with_commands(error: DocoraOpsError, words: Sequence[str], group: Any) -> DocoraOpsError:
    """Returns the error; its hint ends with the commands to paste, if it has any.

    `words` is the command line after the program's name, `group` Typer's group of commands.
    """
    typed = _read(words, group)
    if typed is not None and error.retyped:
        commands = dict.fromkeys(typed.corrected(retyped) for retyped in error.retyped)
        error.hint = f"{error.hint}: {' or: '.join(commands)}"
    return error


def quoted_name(words: Sequence[str], group: Any) -> str | None:
    """Returns the command with all arguments before the REPO joined to one APP, in quotes.

    None if the command does not take an APP and a REPO.
    """
    typed = _read(words, group)
    if typed is None or len(_arguments_of(group.commands[typed.head[-1]])) != len(("APP", "REPO")):
        return None
    *name, repository = typed.arguments
    return typed.command([" ".join(name), repository], typed.options)


def _read(words: Sequence[str], group: Any) -> _Typed | None:
    """Splits a command line; returns None if it names no command."""
    takers = _options_with_values(group.params)
    left = iter(words)
    head = []
    for word in left:
        head.append(word)
        if word in takers:
            head += islice(left, 1)
        elif word in group.commands:
            takers |= _options_with_values(group.commands[word].params)
            return _Typed(head, *_split(left, takers))
    return None


def _split(words: Iterable[str], takers: set[str]) -> tuple[list[str], list[str]]:
    """Returns the arguments and the options of a command."""
    arguments: list[str] = []
    options: list[str] = []
    left = iter(words)
    for word in left:
        if word == "--":
            arguments += left
        elif not word.startswith("-") or word == "-":
            arguments.append(word)
        else:
            options.append(word)
            if word in takers:
                options += islice(left, 1)
    return arguments, options


def _correct(arguments: list[str], options: list[str], correction: Correction) -> None:
    """Replaces the argument or, of a command without arguments, the value of the option."""
    place = int(correction.is_repository)
    if arguments[place : place + 1] == [correction.typed]:
        arguments[place] = correction.meant
        return
    option = "--repo" if correction.is_repository else "--app"
    for number, word in enumerate(options):
        if word == f"{option}={correction.typed}":
            options[number] = f"{option}={correction.meant}"
            return
        if word == option and options[number + 1] == correction.typed:
            options[number + 1] = correction.meant
            return


def _options_with_values(parameters: Iterable[Any]) -> set[str]:
    return {
        name
        for parameter in parameters
        if parameter.param_type_name == "option" and not parameter.is_flag
        for name in parameter.opts
    }


def _arguments_of(command: Any) -> list[Any]:
    return [each for each in command.params if each.param_type_name == "argument"]
