"""Error feedback between columns: what rounding one input's weights costs is made good by the inputs that follow.

After Frantar et al., "GPTQ" (arXiv 2210.17323, algorithm 1): with H the second moments of a matrix's inputs and U the
upper Cholesky factor of its inverse, the columns are rounded in order, and the error of column j over U[j, j] is
subtracted, times U[j, k], from every later column k. The result minimises the error of the outputs, where plain
rounding minimises that of the weights. The loudest inputs go first, as long as there are others to make good for them;
every group has its scale before, from the search (`search.py`) with the inputs' mean squares as weights.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mobileloop.errors import MobileloopError
from mobileloop.quant.schemes import QuantTensor
from mobileloop.quant.search import codes_of, inverse_of, searched, value_of

F32 = NDArray[np.float32]
DAMPING = 0.01  # of the mean moment, added to the diagonal: an input that was never seen costs something too
_FLOOR = 1e-3  # of the mean loudness, in the search: a group of silent inputs has a best scale too
_COLUMNS = 32  # that are rounded before the rest hears of it, in one product


def with_feedback(weights: F32, moments: F32, scheme: str, group: int, damping: float = DAMPING) -> QuantTensor:
    """Quantize a matrix so that its outputs change little.

    Args:
        weights: [rows, cols] float32.
        moments: [cols, cols], the mean of x x^T over the inputs x.
        scheme: `int4`, `int4-symmetric` or `int8`.
        group: inputs that share a scale; divides cols.
        damping: see `DAMPING`.

    Raises:
        MobileloopError: as `Scheme.quantize`.
    """
    cols = weights.shape[1]
    loudness = np.diagonal(moments)
    found = searched(weights, scheme, group, loudness + np.float32(_FLOOR * max(float(loudness.mean()), 1e-30)))
    assert found.scale is not None
    # All of it transposed: a column is a contiguous row here.
    scale = np.ascontiguousarray(found.scale.T, dtype=np.float32)
    minimum = None if found.minimum is None else np.ascontiguousarray(found.minimum.T, dtype=np.float32)
    inverse = inverse_of(scale)
    order = np.argsort(-loudness, kind="stable")
    factor = inverse_factor(moments[order][:, order], damping)
    left = weights.T[order]  # a copy: it takes up the errors
    codes = np.empty(left.shape, found.codes.dtype)
    for start in range(0, cols, _COLUMNS):
        stop = min(start + _COLUMNS, cols)
        errors = np.empty((stop - start, left.shape[1]), np.float32)
        for j in range(start, stop):
            at = order[j] // group
            low = None if minimum is None else minimum[at]
            code = codes_of(left[j], scheme, inverse[at], low)
            codes[order[j]] = code
            error = errors[j - start]
            np.divide(left[j] - value_of(code, scheme, scale[at], low), factor[j, j], out=error)
            left[j + 1 : stop] -= factor[j, j + 1 : stop, None] * error
        left[stop:] -= factor[start:stop, stop:].T @ errors
    return QuantTensor(scheme, np.ascontiguousarray(codes.T), found.scale, found.minimum, group)


def inverse_factor(moments: F32, damping: float = DAMPING) -> F32:
    """The upper Cholesky factor U of the damped moments' inverse, H^-1 = U^T U, [cols, cols] float32.

    From the lower factor of H in reverse order, so that no inverse is ever made: J H J = L L^T gives U = J L^-1 J.
    """
    wide = moments.astype(np.float64)
    mean = float(np.diagonal(wide).mean())
    wide[np.diag_indices_from(wide)] += damping * mean if mean > 0 else 1.0
    try:
        lower = np.linalg.cholesky(wide[::-1, ::-1])
    except np.linalg.LinAlgError:  # moments so small that float32 has no digits left for them: no feedback
        lower = np.diag(np.sqrt(np.diagonal(wide)[::-1]))
    inverse = np.linalg.inv(lower)
    factor: F32 = np.ascontiguousarray(inverse[::-1, ::-1]).astype(np.float32)
    return factor


def check_finite(values: F32) -> None:
    """Raise MobileloopError where what a model computes over a text is no finite number."""
    if not np.isfinite(values).all():
        raise MobileloopError(
            "over the calibration text the model computes numbers that are not finite; check the checkpoint, or export "
            "it with --calibrate none."
        )
