"""Asking one server while another is asked."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from threading import Thread
from typing import TypeVar

T = TypeVar("T")


def in_background(ask: Callable[[], T]) -> Future[T]:
    """Calls the function in a daemon thread, which an interrupt does not wait for."""
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(ask())
        except BaseException as error:  # noqa: BLE001 - raised where the result is asked for
            future.set_exception(error)

    Thread(target=run, daemon=True).start()
    return future
