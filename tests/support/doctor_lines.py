"""What the doctor's lines are looked for by."""

import torch
from scotoma.bench.doctor.line import OK, Examination, Line

GPU = torch.cuda.is_available()
CPU = torch.device("cpu")
NOTHING = Examination()


def by_what(lines) -> dict[str, Line]:
    found = {line.what: line for line in lines}
    for line in found.values():
        assert line.detail
        assert bool(line.fix) == (line.verdict != OK), line
    return found
