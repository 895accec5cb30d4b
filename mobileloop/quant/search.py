"""Scales and minimums that cost the least: a search per group, instead of its smallest and largest weight.

Rounding spends its codes on the whole range of a group, however rare its ends are. Here some narrower ranges are
tried, the codes of each are fixed, and the scale (and minimum) that fit those codes best follow from a weighted least
squares; the best of all is kept, plain rounding among them. So the weighted squared error is never above rounding's.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mobileloop.quant.schemes import SCHEMES, QuantTensor

F32 = NDArray[np.float32]

# (lowest code, highest code, code of zero) where the scheme has no minimum; (0, 15) codes where it has one.
_CODES = {"int4": (0, 15, 0), "int4-symmetric": (0, 15, 8), "int8": (-127, 127, 0)}
# Shares of the plain scale that are tried, and how often each is refitted. Ranges of 16 codes are worth cutting by a
# third, those of 255 hardly; a minimum and a scale need some rounds to agree.
_TRIED: dict[str, tuple[tuple[float, ...], int]] = {
    "int4": ((1.0, 0.9, 0.8, 0.7), 5),
    "int4-symmetric": ((1.06, 1.0, 0.94, 0.88, 0.82, 0.74, -1.0, -0.9, -0.8), 2),
    "int8": ((1.0, 0.985), 2),
}
_CHUNK_VALUES = 1 << 16  # what fits a cache


def searched(weights: F32, scheme: str, group: int, importance: F32 | None = None) -> QuantTensor:
    """Quantize a matrix with the scales of the least weighted squared error.

    Args:
        weights: [rows, cols] float32.
        scheme: `int4`, `int4-symmetric` or `int8`; `none` is kept as it is.
        group: inputs that share a scale; divides cols.
        importance: [cols], how much an error of an input's weights counts: its mean square. All the same where None.

    Raises:
        MobileloopError: as `Scheme.quantize`.
    """
    plain = SCHEMES[scheme].quantize(weights, group)
    if scheme == "none":
        return plain
    rows, cols = weights.shape
    if importance is None:
        importance = np.ones(cols, np.float32)
    assert plain.scale is not None
    codes, scale = plain.codes.copy(), plain.scale.copy()
    minimum = None if plain.minimum is None else plain.minimum.copy()
    step = max(1, _CHUNK_VALUES // cols)
    spread = importance.astype(np.float32).reshape(cols // group, group)
    for start in range(0, rows, step):
        part = slice(start, start + step)
        groups = np.ascontiguousarray(weights[part], np.float32).reshape(-1, cols // group, group)
        found = _Best(
            scheme,
            groups,
            spread,
            codes[part].reshape(groups.shape),
            scale[part],
            None if minimum is None else minimum[part],
        )
        shares, refits = _TRIED[scheme]
        for share in shares:
            found.try_share(share, refits)
        codes[part] = found.codes.reshape(-1, cols)
        scale[part] = found.scale
        if minimum is not None and found.minimum is not None:
            minimum[part] = found.minimum
    return QuantTensor(scheme, codes, scale, minimum, group)


def inverse_of(scale: F32) -> F32:
    """1 / scale, and 0 where the scale is."""
    inverse: F32 = np.divide(np.float32(1), scale, out=np.zeros_like(scale), where=scale != 0)
    return inverse


def codes_of(values: F32, scheme: str, inverse: F32, minimum: F32 | None) -> F32:
    """The nearest codes of values, as float32; `inverse` is that of the scale, and all arguments broadcast."""
    low, high, zero = _CODES[scheme]
    codes = values * inverse if minimum is None else (values - minimum) * inverse
    np.rint(codes, out=codes)
    if zero:
        codes += np.float32(zero)
    return np.clip(codes, low, high, out=codes)


def value_of(codes: F32, scheme: str, scale: F32, minimum: F32 | None) -> F32:
    """What codes stand for; all arguments broadcast."""
    values: F32 = (codes - np.float32(_CODES[scheme][2])) * scale
    return values if minimum is None else values + minimum


class _Best:
    """The best codes, scales and minimums of [rows, groups, group] weights so far."""

    def __init__(
        self,
        scheme: str,
        groups: F32,
        importance: F32,
        codes: NDArray[np.generic],
        scale: NDArray[np.float16],
        minimum: NDArray[np.float16] | None,
    ) -> None:
        self.scheme, self.groups, self.importance = scheme, groups, importance
        self.codes = codes.astype(np.float32)
        self.plain, self.low = scale.astype(np.float32), None if minimum is None else minimum.astype(np.float32)
        self.scale, self.minimum = self.plain.copy(), None if self.low is None else self.low.copy()
        self.error = self._error(self.codes, self.scale, self.minimum)

    def _error(self, codes: F32, scale: F32, minimum: F32 | None) -> F32:
        """[rows, groups]: the weighted squared error."""
        away = value_of(codes, self.scheme, scale[:, :, None], None if minimum is None else minimum[:, :, None])
        away -= self.groups
        np.square(away, out=away)
        error: F32 = np.einsum("rgi,gi->rg", away, self.importance)
        return error

    def try_share(self, share: float, refits: int) -> None:
        """Start from a share of the plain range, its middle kept, and refit."""
        scale = self.plain * np.float32(share)
        minimum = None if self.low is None else self.low + self.plain * np.float32(7.5 * (1 - share))
        codes = self._codes(scale, minimum)
        for _ in range(refits):
            scale, minimum = self._fit(codes)
            codes = self._codes(scale, minimum)
            self._keep(codes, scale, minimum)

    def _codes(self, scale: F32, minimum: F32 | None) -> F32:
        low = None if minimum is None else minimum[:, :, None]
        return codes_of(self.groups, self.scheme, inverse_of(scale)[:, :, None], low)

    def _fit(self, codes: F32) -> tuple[F32, F32 | None]:
        """The float16 scale and minimum that fit fixed codes best: weighted least squares of w = d * c (+ m)."""
        centred = codes - np.float32(_CODES[self.scheme][2])
        h = self.importance
        weighted = centred * h
        cc = np.einsum("rgi,rgi->rg", weighted, centred)
        cw = np.einsum("rgi,rgi->rg", weighted, self.groups)
        if self.low is None:
            return _half(_ratio(cw, cc)), None
        total = h.sum(1)
        c, w = weighted.sum(2), np.einsum("rgi,gi->rg", self.groups, h)
        scale = _half(_ratio(total * cw - c * w, total * cc - c * c))
        return scale, _half(_ratio(w - scale * c, np.broadcast_to(total, w.shape)))

    def _keep(self, codes: F32, scale: F32, minimum: F32 | None) -> None:
        error = self._error(codes, scale, minimum)
        better = error < self.error  # false where a fit is no number
        self.error = np.where(better, error, self.error)
        self.codes = np.where(better[:, :, None], codes, self.codes)
        self.scale = np.where(better, scale, self.scale)
        if self.minimum is not None:
            self.minimum = np.where(better, minimum, self.minimum)


def _ratio(above: F32, below: F32) -> F32:
    with np.errstate(over="ignore", invalid="ignore"):
        return np.divide(above, below, out=np.zeros_like(above), where=below > 0)


def _half(values: F32) -> F32:
    """Rounded to float16; infinite where too large, which is then no better than anything."""
    with np.errstate(over="ignore"):
        return values.astype(np.float16).astype(np.float32)
