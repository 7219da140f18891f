"""Rounding of another processor: what torch adds up or looks up is off by a unit in the last place.

A processor, its number of threads and the alignment of memory decide in which order a kernel adds
up. `APSGEO_TEST_JITTER=1` moves the results of such kernels at random, so that a test that compares
the bits of two computations fails here, always, rather than elsewhere, now and then.
"""

import os
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from tests.cases import seeded

__all__ = ["JITTERS", "Jitter"]

JITTERS = os.environ.get("APSGEO_TEST_JITTER", "0") != "0"

SUMS = (
    "_log_softmax _scaled_dot_product_flash_attention_for_cpu _softmax addbmm addmm addmv baddbmm "
    "bmm convolution convolution_backward cumsum dot index_add linalg_vector_norm logsumexp mean "
    "mm mv native_group_norm native_group_norm_backward native_layer_norm "
    "native_layer_norm_backward scatter_add std std_mean sum var var_mean"
)
SOLVERS = (
    "_linalg_eigh _linalg_slogdet _linalg_solve_ex _linalg_svd cholesky_solve linalg_cholesky_ex "
    "linalg_inv_ex linalg_qr linalg_solve_triangular triangular_solve"
)
FUNCTIONS = (
    "_fft_c2c _fft_c2r _fft_r2c acos asin atan2 cos erf erfinv exp expm1 gelu log log1p sigmoid "
    "silu sin softplus tanh"
)
INEXACT = frozenset(f"{SUMS} {SOLVERS} {FUNCTIONS}".split())


class Jitter(TorchDispatchMode):
    """Multiply the results of kernels whose rounding may differ by 1 - eps, 1 or 1 + eps.

    Whole numbers stay as they are: sums of whole numbers are exact in any order, and exp(0) is 1.
    Sums and products of two numbers, and square roots, stay too: IEEE 754 rounds them alike.
    """

    def __init__(self) -> None:
        super().__init__()
        self.generator = seeded(0)

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        found = func(*args, **(kwargs or {}))
        if func.overloadpacket.__name__.removesuffix("_") in INEXACT:  # type: ignore[attr-defined]
            for each in found if isinstance(found, tuple) else (found,):
                self.move(each)
        return found

    def move(self, values: Any) -> None:
        """Move a tensor of numbers, in place; leave anything else."""
        if type(values) is Tensor and values.is_complex():
            values = torch.view_as_real(values)
        if type(values) is not Tensor or not values.is_floating_point():
            return
        units = torch.randint(-1, 2, values.shape, generator=self.generator).to(values)
        units[values == values.round()] = 0
        values.mul_(1 + torch.finfo(values.dtype).eps * units)
