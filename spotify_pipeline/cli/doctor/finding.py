"""The finding of a check of `doctor`, and how an error becomes one."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from spotify_pipeline.cli.errors import explain

OK = "ok"
# Information, not a problem.
NOTE = "note"
PROBLEM = "problem"

# The remedy begins after a full stop, with a verb.
_TO_DO = re.compile(
    r"(?:[;:.,]|, so) (?=(?:ask|check|close|correct|create|free|give|grant|install|it has to|let"
    r"|make|put|raise|restore|run|set|start|stop|try|upgrade|write)\b)",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of a check; `to_do` says how to fix a problem."""

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
    """A problem from an error's sentence, which ends in what to do."""
    if match := _TO_DO.search(sentence):
        detail, to_do = sentence[: match.start()], sentence[match.end() :].removesuffix(".")
        if to_do[1:2].islower():  # not GRANT
            to_do = f"{to_do[0].lower()}{to_do[1:]}"
        return Finding(check, PROBLEM, detail, to_do)
    return Finding(check, PROBLEM, sentence)
