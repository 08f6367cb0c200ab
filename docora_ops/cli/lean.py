"""Typer commands that start fast and check what they are given."""

from __future__ import annotations

import re
from enum import Enum
from typing import Any, get_args

from typer.core import TyperCommand, TyperGroup

from docora_ops.errors import UsageError

_NUMBER = re.compile("[0-9]{1,18}")


class _LeanParameters:
    """Replaces the converters of Typer 0.29.

    They use pydantic, whose import takes longer than the whole rest of a help page, and they show
    each flag with the type `<bool>`, as if it took a value.
    """

    def get_params(self, ctx: Any) -> Any:
        """Returns Typer's parameters with other converters."""
        parameters = super().get_params(ctx)  # type: ignore[misc]
        for parameter in parameters:
            if "get_runtime_param" not in vars(parameter):
                converter = _LeanConverter(parameter)
                parameter.get_runtime_param = lambda converter=converter: converter
                if getattr(parameter, "is_flag", True):  # arguments show their name already
                    parameter.display_type_rich = lambda **_: None
        return parameters

    def parse_args(self, ctx: Any, args: list[str]) -> Any:
        """Raises UsageError if an option that takes one value is given twice.

        Typer would take the last value.
        """
        if not ctx.resilient_parsing:
            _, _, given = self.make_parser(ctx).parse_args(args=list(args))  # type: ignore[attr-defined]
            for parameter in given:
                takes_one = not getattr(parameter, "is_flag", True) and not parameter.multiple
                if takes_one and given.count(parameter) > 1:
                    raise UsageError(
                        f"{parameter.opts[0]} is given {given.count(parameter)} times",
                        hint="give it once",
                    )
        return super().parse_args(ctx, args)  # type: ignore[misc]


class _LeanConverter:
    def __init__(self, parameter: Any) -> None:
        is_option = parameter.param_type_name == "option"
        self._name = parameter.opts[0] if is_option else parameter.metavar
        annotation = parameter.type_descriptor.annotation
        [self._kind] = get_args(annotation) or [annotation]
        self._limits = parameter.type_descriptor.parameter_info
        self._typers_own = parameter.get_runtime_param

    def coerce(self, value: Any, param: Any, ctx: Any) -> Any:
        if value is None:
            return None
        if self._kind in {str, int} or issubclass(self._kind, Enum):
            is_list = param.multiple
            return [self._convert(each) for each in value] if is_list else self._convert(value)
        return self._typers_own().coerce(value, param=param, ctx=ctx)

    def _convert(self, value: Any) -> Any:
        if self._kind is str:
            return _checked(self._name, value)
        if self._kind is int:
            return _number(self._name, value, self._limits.min, self._limits.max)
        return _choice(self._name, value, self._kind)


def _checked(name: str, value: str) -> str:
    if not value.strip():
        raise UsageError(f"{name} is empty", hint="give a value")
    if "\0" in value or any("\ud800" <= character <= "\udfff" for character in value):
        raise UsageError(f"{name} {value!r} is not valid text", hint="give it as UTF-8")
    return value


def _number(name: str, value: str | int, least: int, most: int) -> int:
    if not _NUMBER.fullmatch(str(value)) or not least <= int(value) <= most:
        raise UsageError(
            f"{name} {value!r} is not a number from {least} to {most}",
            hint="give digits only, such as 7",
        )
    return int(value)


def _choice(name: str, value: str, kind: type[Enum]) -> Enum:
    try:
        return kind(value)
    except ValueError:
        choices = ", ".join(repr(each.value) for each in kind)
        raise UsageError(
            f"Invalid value for '{name}': {value!r} is not one of {choices}.",
            hint="give one of these",
        ) from None


class LeanCommand(_LeanParameters, TyperCommand):
    """A command."""


class LeanGroup(_LeanParameters, TyperGroup):
    """A group of commands."""
