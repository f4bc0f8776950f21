"""Making artefacts one after the other, in this process."""

from __future__ import annotations

import time

from ....defective.errors import UserError
from ....train.robustness.arithmetic import memory_advice
from .artefact import Artefact
from .context import Context
from .plan import Failure, Plan, without_failed


def run_locally(plan: Plan, context: Context) -> list[Failure]:
    """Make what is missing. What cannot be made ends nothing but what needs it.

    Raises:
        KeyboardInterrupt: stopped; what is finished is kept, and the same call goes on.
    """
    todo = plan.to_make()
    failed: dict[str, Failure] = {}
    own: list[Failure] = []
    for number, artefact in enumerate(todo, 1):
        head = f"[{number}/{len(todo)}] {artefact.kind} {artefact.label}"
        reason = without_failed(artefact, failed)
        if reason is not None:
            failed[artefact.key] = reason
            context.screen.line(f"{head}: left out, {reason.artefact.label} failed")
            continue
        context.screen.line(head)
        context.screen.begin(head)
        start = time.perf_counter()
        try:
            make_one(artefact, context)
        except UserError as error:
            failed[artefact.key] = Failure(artefact, str(error))
            own.append(failed[artefact.key])
            context.screen.line(f"  failed: {error}")
        else:
            context.screen.line(f"  {time.perf_counter() - start:.1f} s")
    return own


def make_one(artefact: Artefact, context: Context) -> None:
    """Make an artefact, unless somebody else just did. Raises as :meth:`Artefact.make`."""
    with context.store.lock(artefact):
        if not artefact.is_done(context.store):
            with memory_advice(context.device, context.batch_size, "; what is finished is kept"):
                artefact.make(context)
