"""What a service allows: sizes, times, queue and keys, each with its unit and range."""

from __future__ import annotations

import ipaddress
import math
import os
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING

from greffon.errors import InputError
from greffon.pictures.limits import MAX_PIXELS

if TYPE_CHECKING:
    from collections.abc import Mapping

KEYS_VARIABLE = "GREFFON_API_KEYS"
_SHORTEST_KEY = 16


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The limits of a service.

    Attributes:
        body: bytes of a request's body, at most.
        pixels: width times height of one picture, at most; never more than `pictures.limits.MAX_PIXELS`.
        pictures: in one request, at most.
        seconds: from a request's first byte to its answer, at most; a body that arrives slower is refused.
        queue: pictures that wait or are computed at once, at most; who comes then is asked to come again.
        requests: requests that are read or answered at once, at most.
        connections: open connections, at most; further ones are closed.
        batch: pictures that the model computes at once, at most.
        wait: seconds that a batch waits for pictures that are being decoded, at most; 0: it never waits.
        keys: of which a request must carry one; none: every request from this machine is answered.

    Raises:
        InputError: a value is out of its range, or a key is short enough to be guessed.

    Example:
        >>> from greffon.serving.settings import Settings
        >>> Settings(batch=16).batch
        16
    """

    body: int = field(default=32_000_000, metadata={"range": (1_000, 2_000_000_000)})
    pixels: int = field(default=40_000_000, metadata={"range": (1, MAX_PIXELS)})
    pictures: int = field(default=32, metadata={"range": (1, 10_000)})
    seconds: float = field(default=30.0, metadata={"range": (0.05, 3600)})
    queue: int = field(default=64, metadata={"range": (1, 100_000)})
    requests: int = field(default=128, metadata={"range": (1, 100_000)})
    connections: int = field(default=1000, metadata={"range": (1, 100_000)})
    batch: int = field(default=4, metadata={"range": (1, 1024)})
    wait: float = field(default=0.0, metadata={"range": (0, 10)})
    keys: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for one in fields(self):
            if "range" in one.metadata:
                low, high = one.metadata["range"]
                value = getattr(self, one.name)
                if not math.isfinite(value) or not low <= value <= high:
                    raise InputError(f"{one.name} must be {low:,} to {high:,}, got {value!r}")
        if self.pictures > self.queue:
            raise InputError(
                f"a request of {self.pictures} pictures would never find room in a queue of {self.queue}: make queue "
                "at least as large as pictures"
            )
        for key in self.keys:
            if len(key) < _SHORTEST_KEY or not key.isascii() or not key.isprintable() or " " in key:
                raise InputError(
                    f"every key in {KEYS_VARIABLE} must be at least {_SHORTEST_KEY} printable ASCII characters without "
                    "spaces; make one with: python -c 'import secrets; print(secrets.token_urlsafe(32))'"
                )

    @property
    def bytes_at_once(self) -> int:
        """Bytes of bodies that are held in memory at once, at most."""
        return 8 * self.body


def keys_from(environment: Mapping[str, str] | None = None) -> tuple[str, ...]:
    """The keys in `GREFFON_API_KEYS`: one, or several with commas between.

    Example:
        >>> from greffon.serving.settings import keys_from
        >>> len(keys_from({"GREFFON_API_KEYS": "first-key-of-some-length, second-key-of-some-length"}))
        2
    """
    text = (os.environ if environment is None else environment).get(KEYS_VARIABLE, "")
    return tuple(dict.fromkeys(word.strip() for word in text.split(",") if word.strip()))


def check_address(host: str, port: int, keys: tuple[str, ...]) -> None:
    """Refuse to listen where others can reach it without a key.

    Raises:
        InputError: there is no key and `host` is not this machine alone, or the port is out of range.
    """
    if not 0 <= port <= 65535:
        raise InputError(f"port must be 0 to 65535, where 0 takes a free one. Got {port}")
    if not keys and not is_loopback(host):
        raise InputError(
            f"without a key the service listens on this machine alone, 127.0.0.1. To listen on {host}, put one or more "
            f"keys into the environment variable {KEYS_VARIABLE}, with commas between"
        )


def is_loopback(host: str) -> bool:
    """Whether an address or name is this machine's own and can be reached from no other."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
