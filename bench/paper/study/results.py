"""What people answered: their files, held against each other and against the study."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from ....defective.errors import UserError
from .draw import assignment
from .page_data import PageData
from .pairs import Study
from .result import HEAD, Answer, Result, read_result

__all__ = ["Answer", "Result", "read_results"]


def read_results(paths: Iterable[Path], study: Study | PageData | None = None) -> list[Result]:
    """The results in files, and in folders all ``*.json``, one a person, ordered by seed.

    Of a person whose answers were saved twice, the longer file counts, with a note.

    Args:
        study: or what its page says of it. If given, results must be of it, and ask what each
            person's seed draws from it.

    Raises:
        UserError: a file is no result, is damaged or was edited, or results do not fit together.
    """
    results = [read_result(path) for path in _files(paths)]
    first = results[0]
    for other in results:
        if other.study != first.study:
            raise UserError(
                f"results of different studies: {first.path} is of {first.study}, {other.path} of "
                f"{other.study}; score each study by itself"
            )
        if other.head != first.head:
            keys = [key for key in HEAD if other.head[key] != first.head[key]]
            raise UserError(
                f"{first.path} and {other.path} are of one study, but differ in {keys[0]}: one was "
                "edited; leave it out"
            )
    if study is not None:
        results = [_held(result, study) for result in results]
    return sorted(_one_each(results), key=lambda result: result.person_seed)


def _files(paths: Iterable[Path]) -> list[Path]:
    found: dict[Path, Path] = {}
    for path in map(Path, paths):
        files = [path]
        if path.is_dir():
            files = sorted(file for file in path.glob("*.json") if file.is_file())
            if not files:
                raise UserError(
                    f"{path} holds no results (*.json); put the files there that people saved"
                )
        for file in files:
            found.setdefault(file.resolve(), file)
    if not found:
        raise UserError("no results; give the files that people saved, or their folder")
    return list(found.values())


def _held(result: Result, study: Study | PageData) -> Result:
    """The result, held against the study. Raises UserError if the study does not ask that."""
    if result.study != study.digest:
        raise UserError(
            f"{result.path} is of study {result.study}, not of this one, {study.digest}; give the "
            "results of the page that was made from this study"
        )
    head = {key: getattr(study, key) for key in HEAD}
    order = assignment(study.numbers, study.per_person, result.person_seed)
    asked = [(answer.pair, answer.a_side) for answer in result.answers]
    if head != result.head or asked != order[: len(asked)]:
        raise UserError(
            f"{result.path} asks other pairs, or on other sides, than its seed "
            f"{result.person_seed} draws, or says other things of the study: it was edited; leave "
            "it out"
        )
    return replace(result, held=True)


def _one_each(results: list[Result]) -> list[Result]:
    """One result a seed: the longest. Raises UserError if two contradict each other."""
    kept: dict[str, Result] = {}
    for result in sorted(results, key=lambda r: (-len(r.answers), str(r.path))):
        longer = kept.setdefault(result.person_seed, result)
        if longer is result:
            continue
        if result.answers != longer.answers[: len(result.answers)]:
            raise UserError(
                f"{longer.path} and {result.path} are of one person (seed {result.person_seed}) "
                "with different answers; keep the one that counts"
            )
        note = f"{longer.path.name} was saved again as {result.path.name}, which does not count"
        kept[result.person_seed] = replace(longer, notes=(*longer.notes, note))
    return list(kept.values())
