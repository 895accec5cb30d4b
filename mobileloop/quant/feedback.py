"""Error feedback between columns: what rounding one input's weights costs is made good by the inputs that follow.

After Frantar et al., "GPTQ" (arXiv 2210.17323, algorithm 1): with H the second moments of a matrix's inputs and U the
upper Cholesky factor of its inverse, the columns are rounded in order, and the error of column j over U[j, j] is
subtracted, times U[j, k], from every later column k. The result minimises the error of the outputs, where plain
rounding minimises that of the weights. Groups take their scales when their first column is reached, from the weights
as they are by then, by the search (`search.py`) weighted with what an error left there costs: 1 / U[j, j]^2.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mobileloop.quant.schemes import QuantTensor
from mobileloop.quant.search import codes_of, searched, value_of

F32 = NDArray[np.float32]
DAMPING = 0.01  # of the mean moment, added to the diagonal: an input that was never seen costs something too
_CODE_TYPES = {"int4": np.uint8, "int4-symmetric": np.uint8, "int8": np.int8}


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
    rows, cols = weights.shape
    factor = inverse_factor(moments, damping)
    left = weights.astype(np.float32)  # a copy: it takes up the errors
    codes = np.empty((rows, cols), _CODE_TYPES[scheme])
    scales = np.empty((rows, cols // group), np.float16)
    minimums = np.empty_like(scales) if scheme == "int4" else None
    importance = 1 / np.square(np.diagonal(factor))
    for number, start in enumerate(range(0, cols, group)):
        stop = start + group
        found = searched(left[:, start:stop], scheme, group, importance[start:stop])
        assert found.scale is not None
        scales[:, number] = found.scale[:, 0]
        scale, minimum = found.scale[:, 0].astype(np.float32), None
        if minimums is not None and found.minimum is not None:
            minimums[:, number] = found.minimum[:, 0]
            minimum = found.minimum[:, 0].astype(np.float32)
        part = np.asfortranarray(left[:, start:stop])
        errors = np.empty_like(part)
        for j in range(group):
            code = codes_of(part[:, j], scheme, scale, minimum)
            codes[:, start + j] = code
            at = start + j
            errors[:, j] = (part[:, j] - value_of(code, scheme, scale, minimum)) / factor[at, at]
            part[:, j + 1 :] -= errors[:, j, None] * factor[at, at + 1 : stop]
        left[:, stop:] -= errors @ factor[start:stop, stop:]
    return QuantTensor(scheme, codes, scales, minimums, group)


def inverse_factor(moments: F32, damping: float = DAMPING) -> F32:
    """The upper Cholesky factor U of the damped moments' inverse, H^-1 = U^T U, [cols, cols] float32.

    From the lower factor of H in reverse order, so that no inverse is ever made: J H J = L L^T gives U = J L^-1 J.
    """
    wide = moments.astype(np.float64)
    mean = float(np.diagonal(wide).mean())
    wide[np.diag_indices_from(wide)] += damping * mean if mean > 0 else 1.0
    lower = np.linalg.cholesky(wide[::-1, ::-1])
    inverse = np.linalg.inv(lower)
    factor: F32 = np.ascontiguousarray(inverse[::-1, ::-1]).astype(np.float32)
    return factor
