"""Bits per matrix under a size: the choices that cost the least divergence and fit."""

from __future__ import annotations

import heapq
from collections.abc import Mapping

from mobileloop.errors import MobileloopError
from mobileloop.packed import Choice
from mobileloop.quant.schemes import GROUPS, SCHEMES

QUANTIZED = ("int4-symmetric", "int4", "int8")


def choices(cols: int, groups: tuple[int, ...] = GROUPS) -> list[Choice]:
    """What a matrix of so many inputs could be stored as; nothing where no group divides them."""
    return [Choice(scheme, group) for scheme in QUANTIZED for group in groups if cols % group == 0]


def allocate(
    shapes: Mapping[str, tuple[int, int]], damages: Mapping[str, Mapping[Choice, float]], budget_bytes: int
) -> dict[str, Choice]:
    """One choice for every matrix, of little damage in all, within a size.

    Each matrix begins with its smallest choice and moves along the lower convex hull of damage over bytes; the step
    that saves the most damage per byte is taken first, in whatever matrix, as long as it fits. That is the optimum of
    the problem with fractions (a Lagrange multiplier is the slope), short of it by one step at most.

    Args:
        shapes: (rows, cols) of the matrices.
        damages: of each, by choice.
        budget_bytes: what all of them together may take.

    Raises:
        MobileloopError: where they do not fit, naming the least possible size.
    """
    hulls = {name: _hull(_sized(shapes[name], damages[name])) for name in shapes}
    left = budget_bytes - sum(hull[0][0] for hull in hulls.values())
    if left < 0:
        raise MobileloopError(
            f"the matrices of this model take at least {(budget_bytes - left) / 1e6:.2f} MB, more than the budget "
            "leaves for them; ask for more."
        )
    at = dict.fromkeys(hulls, 0)
    waiting = [_step(name, hull, 0) for name, hull in hulls.items() if len(hull) > 1]
    heapq.heapify(waiting)
    while waiting:
        _, name, size = heapq.heappop(waiting)
        if size > left:
            continue  # a smaller one of another matrix may still fit
        left -= size
        at[name] += 1
        if at[name] + 1 < len(hulls[name]):
            heapq.heappush(waiting, _step(name, hulls[name], at[name]))
    return {name: hull[at[name]][2] for name, hull in hulls.items()}


_Point = tuple[int, float, Choice]  # bytes, damage


def _sized(shape: tuple[int, int], damages: Mapping[Choice, float]) -> list[_Point]:
    return [(SCHEMES[c.scheme].stored_bytes(*shape, c.group), damage, c) for c, damage in damages.items()]


def _hull(points: list[_Point]) -> list[_Point]:
    """The lower convex hull, from the smallest on; more bytes always mean less damage."""
    hull: list[_Point] = []
    for point in sorted(points, key=lambda p: (p[0], p[1])):
        if hull and point[1] >= hull[-1][1]:
            continue
        while len(hull) > 1 and _slope(hull[-2], point) <= _slope(hull[-2], hull[-1]):
            hull.pop()
        hull.append(point)
    return hull


def _slope(start: _Point, end: _Point) -> float:
    return (end[1] - start[1]) / (end[0] - start[0])


def _step(name: str, hull: list[_Point], at: int) -> tuple[float, str, int]:
    """(slope, name, bytes) of the step behind `at`; the steepest fall sorts first, and names break ties."""
    return _slope(hull[at], hull[at + 1]), name, hull[at + 1][0] - hull[at][0]
