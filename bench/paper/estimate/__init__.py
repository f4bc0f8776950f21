"""How long a plan takes, before it is begun."""

from .plan import PlanEstimate, estimate_plan
from .report import show_plan

__all__ = ["PlanEstimate", "estimate_plan", "show_plan"]
