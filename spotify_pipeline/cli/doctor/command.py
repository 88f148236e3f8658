"""`spotify-pipeline doctor`: looks at everything, changes nothing, says what to fix.

`--probe` and `--mend` fix two things: a block that Spotify has lifted, instants of the future.
"""

import os
from collections.abc import Iterator
from dataclasses import asdict, replace

import click

from spotify_pipeline.cli.doctor import database, local
from spotify_pipeline.cli.doctor.finding import PROBLEM, Finding, guarded, problem
from spotify_pipeline.errors import WorkFailed
from spotify_pipeline.redaction import redact
from spotify_pipeline.settings import ConfigurationError, load_settings
from spotify_pipeline.terminal import count, example, print_json, printable


@click.command(
    epilog=example(
        "spotify-pipeline doctor",
        "spotify-pipeline doctor --json",
        "spotify-pipeline doctor --probe",
        "spotify-pipeline doctor --deep",
    )
)
@click.option(
    "--json", "as_json", is_flag=True, help="A list of objects: check, status, detail, to_do."
)
@click.option(
    "--probe",
    is_flag=True,
    help="Make one call to Spotify; when it is answered, end every block at once.",
)
@click.option(
    "--mend", is_flag=True, help="Take back instants of the future that a wrong clock left."
)
@click.option(
    "--deep",
    is_flag=True,
    help="Read every stored row too: what constraints and triggers keep true, and a restore can "
    "break.",
)
def doctor(as_json: bool, probe: bool, mend: bool, deep: bool) -> None:
    """Check configuration, database, keys, Spotify and users.

    A line per check: ok, note (worth knowing), or problem and what to do. Secrets are shown as set,
    never as they are. Changes nothing without --probe and --mend, but lets a refused app be tried
    again when Spotify takes its id and secret. Exits 1 if there is a problem.

    --probe ends a block whose wait Spotify has lifted early, or that was never right. Spotify was
    seen to ban longer who asks before a wait is over: so once, and not every hour.
    """
    findings = []
    for found in all_checks(probe=probe, mend=mend, deep=deep):
        finding = replace(found, detail=redact(found.detail))
        findings.append(finding)
        if not as_json:
            _print(finding)
    if as_json:
        print_json([asdict(finding) for finding in findings])
    problems = sum(finding.status == PROBLEM for finding in findings)
    if problems:
        raise WorkFailed(f"{count(problems, 'problem')} to fix.")
    if not as_json:
        click.echo("Nothing is wrong.")


def _print(finding: Finding) -> None:
    to_do = f" → {finding.to_do}" if finding.to_do else ""
    click.echo(printable(f"{finding.status:<8} {finding.check}: {finding.detail}{to_do}"))


def all_checks(*, probe: bool = False, mend: bool = False, deep: bool = False) -> Iterator[Finding]:
    """Every check, in the order in which one thing needs the other."""
    yield from local.versions()
    try:
        settings = load_settings()
    except ConfigurationError as error:
        for sentence in str(error).splitlines():
            yield problem("configuration", sentence)
        return
    yield from local.configuration(settings, os.environ)
    yield from guarded("home", local.home(settings.home))
    yield from local.shared_ui(settings)
    yield from database.all_checks(settings, probe=probe, mend=mend, deep=deep)
    yield from local.network(settings)
