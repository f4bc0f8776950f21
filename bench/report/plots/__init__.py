"""Pictures of result rows, each of one device; the same rows always give the same file."""

from .convergence import draw_convergence
from .families import draw_families
from .layers import draw_layers
from .roofline import draw_roofline
from .steps import draw_steps

__all__ = ["draw_convergence", "draw_families", "draw_layers", "draw_roofline", "draw_steps"]
