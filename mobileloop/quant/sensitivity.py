"""What a matrix's quantization would cost, before it is quantized: the divergence in nats that each choice adds.

To second order, the mean divergence of the model's answers is half the square of what an error of the weights adds to
the log-likelihood of tokens drawn from these very answers, the Fisher information (Amari 1998). Its mean over a row's
weights is taken from the gradients of whole windows: the tokens of a text repeat a matrix's error, and what attention
adds up again cannot be seen token by token. Along the inputs it follows the second moments, as in Martens and Grosse,
arXiv 1503.05671. A choice's error per weight is that of plain rounding; what the feedback between columns makes of it
is known without running it, since its error is sum_j e_j^2 / U_jj^2 (`feedback.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import torch
from numpy.typing import NDArray

from mobileloop.packed import Choice
from mobileloop.quant.feedback import check_finite, inverse_factor
from mobileloop.quant.schemes import SCHEMES
from mobileloop.reference.model import ReferenceModel

F32 = NDArray[np.float32]
SEED = 0


class Sensing(ReferenceModel):
    """A reference that sums squared gradients.

    Attributes:
        rows: by matrix, [rows]: the squared gradients of a row's weights, summed over them and over windows.
        looked_up: [hidden]: the squared gradients of the embedding's rows where they are looked up, summed over tokens.
        tokens: that were run.
    """

    def sense(self, batch: torch.Tensor, loops: int | None) -> None:
        """Run windows [windows, tokens], one by one, forwards and backwards.

        Raises:
            MobileloopError: where the answers are not finite.
        """
        self.rows: dict[str, torch.Tensor] = {}
        self.looked_up = torch.zeros(self.config.hidden_size)
        self.tokens = 0
        matrices = {name: tensor.requires_grad_() for name, tensor in self.tensors.items() if tensor.dim() == 2}
        generator = torch.Generator().manual_seed(SEED)
        for window in batch:
            logits = self.run(window[None], loops=loops)[0]
            check_finite(logits.detach().numpy())
            with torch.no_grad():
                drawn = torch.multinomial(logits.softmax(-1), 1, generator=generator)[:, 0]
            torch.nn.functional.cross_entropy(logits, drawn, reduction="sum").backward()  # type: ignore[no-untyped-call]
            self.tokens += window.shape[0]
            for name, matrix in matrices.items():
                if matrix.grad is not None:
                    found = matrix.grad.square().sum(1)
                    self.rows[name] = self.rows[name] + found if name in self.rows else found
                    matrix.grad = None
        for matrix in matrices.values():
            matrix.requires_grad_(False)

    def _look_up(self, tokens: torch.Tensor) -> torch.Tensor:
        # Apart from the matrix itself, which a tied model multiplies too.
        hidden = torch.nn.functional.embedding(tokens, self.tensors["embedding"].detach()).requires_grad_()
        hidden.register_hook(_summing_into(self.looked_up))  # type: ignore[no-untyped-call]
        return hidden


def _summing_into(total: torch.Tensor) -> Callable[[torch.Tensor], None]:
    """What adds squared gradients [batch, tokens, n] to [n]; a hook that returned something would replace them."""

    def add(gradient: torch.Tensor) -> None:
        total.add_(gradient.square().sum((0, 1)))

    return add


def damages(
    weights: F32, moments: F32 | None, rows: F32, choices: Iterable[Choice], columns: F32 | None = None
) -> dict[Choice, float]:
    """The divergence that each choice adds, in nats per token.

    Args:
        weights: [rows, cols].
        moments: of the inputs, [cols, cols]; None where it is not multiplied.
        rows: of `Sensing`, over the tokens, [rows].
        choices: what could be chosen.
        columns: of an embedding, the mean squared gradients of a looked-up row, [cols].
    """
    importance = np.zeros(weights.shape[1], np.float32)
    loudness = 0.0 if moments is None else float(np.trace(moments))
    if moments is not None and loudness > 0:
        rows = rows / np.float32(loudness)  # per unit of its inputs' power
        importance = (1 / np.square(np.diagonal(inverse_factor(moments)))).astype(np.float32)
    found = {}
    for choice in choices:
        error = SCHEMES[choice.scheme].quantize(weights, choice.group).dequantize()
        error -= weights
        np.square(error, out=error)
        cost = float(rows.astype(np.float64) @ (error @ importance).astype(np.float64))
        if columns is not None:
            cost += float(error.mean(axis=0) @ columns)
        found[choice] = cost / 2
    return found
