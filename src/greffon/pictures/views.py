"""Views of a picture: itself, and changes of it that are the same whenever and wherever they are asked for.

Cut-outs are taken from the whole file, not from the square that the network sees. None is smaller than half of the
picture's side, and JPEG is decoded with twice the target's resolution, so that one decoding serves all views of a
picture: view 0 as well, which is `decode`'s to the last bit.
"""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, get_args

import numpy as np

from greffon.errors import DataError, InputError, nearest
from greffon.pictures.augment import Draws, changed
from greffon.pictures.decode import Source, decode, usual_workers
from greffon.pictures.loaded import Loaded, loaded
from greffon.pictures.resize import Box, ResizeRule, check_rule
from greffon.recipe import Augment

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    Array = np.ndarray[Any, Any]

SMALLEST_AREA = 1 / 3
"""The least share of a picture that a cut-out keeps. With sides of 3:4 at most, its shorter side is then half of the
picture's or more: what `DRAFT_MARGIN` leaves of a JPEG is enough for it."""

NARROWEST = 3 / 4
"""The least ratio of a cut-out's sides, in proportion to those of the square or of the picture."""


@dataclass(frozen=True)
class ViewRequest:
    """Some views of one picture file.

    Attributes:
        source: what `decode` takes.
        content: digest of the file, from which the views follow.
        views: their numbers, in the order in which they are wanted.
    """

    source: Source
    content: str
    views: tuple[int, ...]


def decode_views(request: ViewRequest, size: int, rule: ResizeRule, policy: Augment) -> list[Array]:
    """Read one picture, once, and give several views of it.

    Args:
        request: which picture, and which of its views. View 0 is the picture itself, as `decode` gives it.
        size: as for `decode`.
        rule: as for `decode`. Cut-outs of `crop` are nearly square, those of `stretch` and `pad` have nearly the
            picture's own sides, so that they are distorted as it is.
        policy: `flip`: view 1 is view 0 mirrored, and there are no others; `crop`: a third of the picture or more,
            half of the views mirrored; `colour`: the same in other colours; `rand`: the same and two operations of
            RandAugment.

    Returns:
        One array per view, in their order: uint8 (size, size, 3), RGB, 0..255.

    Raises:
        DataError: as for `decode`.
        InputError: `size`, `rule`, `policy`, a view or the type of the source is not one of these.

    Example:
        >>> from PIL import Image
        >>> from greffon.pictures.views import ViewRequest, decode_views
        >>> picture = Image.linear_gradient("L").rotate(90)
        >>> itself, mirrored = decode_views(ViewRequest(picture, "d41d8cd98f00b204", (0, 1)), 32, "crop", "flip")
        >>> (mirrored == itself[:, ::-1]).all()
        np.True_
    """
    check_rule(size, rule)
    _check(policy, request.views)
    if not any(request.views):
        return [decode(request.source, size, rule)] * len(request.views)
    with loaded(request.source, size, rule) as picture:
        itself: Array | None = None
        if 0 in request.views or policy == "flip":
            itself = picture.square(size, rule)
        return [_view(picture, itself, view, request.content, size, rule, policy) for view in request.views]


def decode_views_many(
    requests: Sequence[ViewRequest], size: int, rule: ResizeRule, policy: Augment, *, workers: int | None = None
) -> Iterator[list[Array] | DataError]:
    """Read views of several pictures with several threads, each file once.

    Args:
        requests: all are read; give no more than memory has room for.
        size: as for `decode`.
        rule: as for `decode`.
        policy: as for `decode_views`.
        workers: threads; None: one for each processor that this process may use, at most 16.

    Yields:
        For each request in its order: its views, or why the picture cannot be read.

    Raises:
        InputError: as for `decode_views`.

    Example:
        >>> from PIL import Image
        >>> from greffon.pictures.views import ViewRequest, decode_views_many
        >>> requests = [ViewRequest(Image.new("L", (9, 9)), "d41d8cd98f00b204", (0, 2))]
        >>> [len(views) for views in decode_views_many(requests, 32, "crop", "crop", workers=1)]
        [2]
    """

    def attempt(request: ViewRequest) -> list[Array] | DataError:
        try:
            return decode_views(request, size, rule, policy)
        except DataError as error:
            return error

    with ThreadPoolExecutor(workers or usual_workers(), thread_name_prefix="greffon-views") as pool:
        yield from pool.map(attempt, requests)


def _check(policy: str, views: tuple[int, ...]) -> None:
    known = get_args(Augment)
    if policy not in known:
        raise InputError(f"policy must be one of {', '.join(known)}, got {policy!r}{nearest(str(policy), known)}")
    if any(isinstance(view, bool) or not isinstance(view, int) or view < 0 for view in views):
        raise InputError(f"views must be whole numbers, 0 for the picture itself, got {views!r}")
    if policy == "flip" and any(view > 1 for view in views):
        raise InputError(f"policy 'flip' has the views 0 and 1, got {views!r}")


def _view(
    picture: Loaded, itself: Array | None, view: int, content: str, size: int, rule: ResizeRule, policy: Augment
) -> Array:
    if view == 0 and itself is not None:
        return itself
    if policy == "flip" and itself is not None:
        return np.ascontiguousarray(itself[:, ::-1])
    draws = Draws(content, view, policy)
    pixels = picture.part(_box(draws, *picture.upright, rule), size, rule)
    if draws.below("mirrored", 2):
        pixels = pixels[:, ::-1]
    return changed(np.ascontiguousarray(pixels), policy, draws)


def _box(draws: Draws, width: float, height: float, rule: ResizeRule) -> Box:
    """A random part of an upright picture: left, top, right, bottom."""
    area = draws.uniform("area", SMALLEST_AREA, 1)
    ratio = draws.uniform("ratio", NARROWEST, 1)
    whole = (min(width, height),) * 2 if rule == "crop" else (width, height)
    shares = [math.sqrt(area * ratio), math.sqrt(area / ratio)]
    if draws.below("lying", 2):
        shares.reverse()
    across, down = min(width, whole[0] * shares[0]), min(height, whole[1] * shares[1])
    left, top = draws.uniform("left", 0, width - across), draws.uniform("top", 0, height - down)
    return left, top, left + across, top + down
