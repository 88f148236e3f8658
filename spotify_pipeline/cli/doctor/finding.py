"""What a check of `doctor` finds."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from spotify_pipeline.cli.errors import explain

OK = "ok"
# Worth knowing, but nothing is wrong.
NOTE = "note"
PROBLEM = "problem"


@dataclass(frozen=True, slots=True)
class Finding:
    """What a check found; `to_do` says how to mend a problem."""

    check: str
    status: str
    detail: str
    to_do: str | None = None


def guarded(check: str, findings: Iterable[Finding]) -> Iterator[Finding]:
    """The findings of a check; an error becomes a problem instead of an end of all checks."""
    try:
        yield from findings
    except Exception as error:
        sentence, _ = explain(error)
        yield problem(check, sentence)


def problem(check: str, sentence: str) -> Finding:
    """A problem from a sentence of ours, whose end says what to do."""
    for separator in ("; ", ". Correct"):
        what, found, to_do = sentence.rpartition(separator)
        if found:
            to_do = f"{separator[2:]}{to_do}".removesuffix(".")
            return Finding(check, PROBLEM, what, f"{to_do[:1].lower()}{to_do[1:]}")
    return Finding(check, PROBLEM, sentence)
