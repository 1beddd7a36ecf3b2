"""Pictures of images: PNG at one pixel per pixel."""

import base64
import io
from dataclasses import dataclass

import numpy as np
from matplotlib.image import imsave


@dataclass(frozen=True)
class Picture:
    """One image: its PNG as a data address, its label, the decision, whether it is a success."""

    address: str
    label: str
    decision: str
    hit: bool


def png(image: np.ndarray) -> str:
    """Return an image (C, H, W) with pixels in [0, 1] as a data address."""
    pixels = np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8).transpose(1, 2, 0)
    pixels = np.broadcast_to(pixels, (*pixels.shape[:2], 3))
    buffer = io.BytesIO()
    imsave(buffer, np.ascontiguousarray(pixels), format="png")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
