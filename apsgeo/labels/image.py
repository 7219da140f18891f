"""From arrays of pixels to signals on an `ImageDomain`, and back."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from apsgeo.domains.image.domain import ImageDomain
from apsgeo.errors import InputError

__all__ = ["from_image", "to_image"]


def from_image(image: Tensor | NDArray[np.generic]) -> tuple[ImageDomain, Tensor]:
    """Return the domain and the signal of an image.

    Integers become float32 without being scaled. A masked array's masked pixels become NaN.

    Args:
        image: Tensor `(H, W)`, `(C, H, W)` or `(B, C, H, W)`, as torch has it; or array `(H,
            W)`, `(H, W, C)` or `(B, H, W, C)`, as numpy and image files have it.

    Returns:
        The domain and the signal `(C, N)`, with C = 1 if there is no channel axis, or `(B, C, N)`.

    Raises:
        InputError: If the image has another number of axes, or complex or no numbers.
    """
    is_tensor = isinstance(image, Tensor)
    if not 2 <= image.ndim <= 4:
        order = "(H, W), (C, H, W) or (B, C, H, W)" if is_tensor else "(H, W[, C]) or (B, H, W, C)"
        raise InputError(f"the image has shape {tuple(image.shape)}; {order} is needed.")
    if isinstance(image, Tensor):
        pixels = image
    else:
        array = image
        if isinstance(array, np.ma.MaskedArray):
            exact = array.dtype.kind == "f"
            array = np.ma.filled(array if exact else array.astype(np.float32), np.nan)
        if array.dtype.kind not in "biuf":
            raise InputError(f"the image has dtype {array.dtype}; real numbers are needed.")
        pixels = torch.from_numpy(np.ascontiguousarray(array))
        if pixels.ndim > 2:
            pixels = pixels.movedim(-1, -3)
    if pixels.is_complex():
        raise InputError(f"the image has dtype {pixels.dtype}; real numbers are needed.")
    if pixels.ndim == 2:
        pixels = pixels[None]
    if not pixels.is_floating_point():
        pixels = pixels.float()
    return ImageDomain(*pixels.shape[-2:]), pixels.flatten(-2)


def to_image(domain: ImageDomain, signal: Tensor) -> Tensor:
    """Return the pixels `(..., H, W)` of a signal `(..., N)`.

    Raises:
        InputError: If the signal has not one value for each pixel.
    """
    if not signal.ndim or signal.shape[-1] != domain.num_nodes:
        raise InputError(
            f"the signal has shape {tuple(signal.shape)}, but {domain!r} has {domain.num_nodes} "
            "nodes, which the last axis should have."
        )
    return signal.unflatten(-1, domain.shape)
