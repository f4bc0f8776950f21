"""An artefact that is a name and no more, for what makes it in a test."""

from dataclasses import dataclass

from scotoma.bench.paper.work import Artefact


@dataclass(frozen=True)
class Named(Artefact):
    """Artefacts of one ``group`` have an affinity; others are on their own."""

    name: str
    needs: tuple[Artefact, ...] = ()
    group: str = ""

    @property
    def label(self):
        return self.name

    def settings(self):
        return {"name": self.name}

    def inputs(self):
        return self.needs

    @property
    def affinity(self):
        return self.group or self.key
