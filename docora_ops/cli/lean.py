"""Typer commands with a lean start and help, that take each value once."""

from __future__ import annotations

from typing import Any

from typer.core import TyperCommand, TyperGroup

from docora_ops.errors import UsageError


class _LeanParameters:
    """Takes text as it is, and what is not given as None, without asking Typer's converters.

    Typer (0.29) has pydantic convert each of them, which takes longer than all the rest of a help,
    and calls each flag a `<bool>`, as if it took a value.
    """

    def get_params(self, ctx: Any) -> Any:
        """Typer's own parameters, with other converters. Called again and again."""
        parameters = super().get_params(ctx)  # type: ignore[misc]
        for parameter in parameters:
            if "get_runtime_param" not in vars(parameter):
                converter = _LeanConverter(parameter)
                parameter.get_runtime_param = lambda converter=converter: converter
                if getattr(parameter, "is_flag", True):  # an argument shows its name
                    parameter.display_type_rich = _no_type
        return parameters

    def parse_args(self, ctx: Any, args: list[str]) -> Any:
        """As Typer does, which takes the last of several values and says nothing of the others."""
        if not ctx.resilient_parsing:
            _, _, given = self.make_parser(ctx).parse_args(args=list(args))  # type: ignore[attr-defined]
            for parameter in given:
                if not getattr(parameter, "is_flag", True) and given.count(parameter) > 1:
                    raise UsageError(
                        f"{parameter.opts[0]} is given {given.count(parameter)} times",
                        hint="give it once",
                    )
        return super().parse_args(ctx, args)  # type: ignore[misc]


def _no_type(ctx: Any) -> None:
    """In the place of Typer's own method."""


class _LeanConverter:
    def __init__(self, parameter: Any) -> None:
        self._is_text = parameter.type_descriptor.annotation is str
        self._typers_own = parameter.get_runtime_param

    def coerce(self, value: Any, param: Any, ctx: Any) -> Any:
        if value is None or self._is_text:
            return value
        return self._typers_own().coerce(value, param=param, ctx=ctx)


class LeanCommand(_LeanParameters, TyperCommand):
    """A command."""


class LeanGroup(_LeanParameters, TyperGroup):
    """A group of commands."""
