"""Trying again: how often, with which pauses, and what is said of it. One policy for every service over a network."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from pineco.data_pipeline.errors import InputError

Result = TypeVar("Result")
_logger = logging.getLogger(__name__)
_SAY_EVERY = 5  # tries of one request; a pause of the run must not be silent


class PassingError(Exception):
    """An answer that does not hold what was asked for; another try may get a right one."""


@dataclass(frozen=True, kw_only=True)
class NetworkSettings:
    """How long to wait and how often to try; none of it changes what is read."""

    connect_timeout: float = 10.0  # seconds
    read_timeout: float = 30.0  # seconds without a byte until a connection is given up
    min_rate: int = 4096  # bytes/s; a body slower than this over more than read_timeout is given up too; 0: never
    tries: int = 40  # requests for one range, resumed ones included; with the pauses below 5 to 10 minutes of trying
    first_tries: int = 10  # requests for a listing, which is how a run starts: a wrong endpoint shows in 25 to 50 s
    first_pause: float = 0.1  # seconds before the second try; doubles with each one, of which half is random
    max_pause: float = 20.0  # seconds
    connections: int = 32  # kept open; more threads than this open connections that are not used again


@dataclass(frozen=True, kw_only=True)
class Retry:
    """The policy of one service: which failures may pass, how long to wait, what is said in the end."""

    settings: NetworkSettings
    catch: tuple[type[Exception], ...]  # failures that may pass; others are not held up
    judge: Callable[[Exception, str], str]  # (failure, where) -> why another try may succeed; InputError: none can
    sleep: Callable[[float], None]  # seconds
    draw: Callable[[], float]  # uniform on [0, 1)
    retried: Callable[[], None]  # called before each further try
    advice: str  # what a user can do after the last try


def persist(attempt: Callable[[], Result], where: str, tries: int, retry: Retry) -> Result:
    """The result of `attempt`, tried again after failures that may pass; InputError after the others."""
    reason = ""
    for number in range(tries):
        if number:
            retry.retried()
            if number % _SAY_EVERY == 0:
                _logger.warning("%s: %s; try %d of %d", where, reason, number + 1, tries)
            retry.sleep(pause(number, retry.settings, retry.draw()))
        try:
            return attempt()
        except retry.catch as error:
            reason = retry.judge(error, where)
    raise InputError(f"{where}: gave up after {tries} tries, at last: {reason}; {retry.advice}")


def pause(number: int, settings: NetworkSettings, drawn: float) -> float:
    """Seconds before retry `number`; the random half keeps thousands of readers from coming back together."""
    full = min(settings.max_pause, settings.first_pause * 2 ** (number - 1))
    return full * (1 + drawn) / 2
