"""The program `spotify-pipeline`: its commands, loaded when they are called.

The list below is all that `--help` needs, so it answers before Dagster or pandas are imported.
"""

import importlib
import sys
from typing import Any, NoReturn

import click

from spotify_pipeline.cli.errors import report

# Name: (where the command is, what --help says about it), in the order in which one meets them.
COMMANDS = {
    "demo": (
        "demo.command:demo",
        "Let synthetic listeners live ten days, and show them in Dagster.",
    ),
    "dev": ("local.dev:dev", "Run the database, the Dagster UI and its daemon."),
    "web": (
        "operate.serve:web",
        "Serve the web page, where users sign in with Spotify and see what is kept.",
    ),
    "init-db": (
        "database:init_db",
        "Create the schema in the database, or upgrade it, and the app's role.",
    ),
    "connect": ("connect:connect", "Connect a user's Spotify account, in a browser here."),
    "users": ("users.edit:users", "Add, change, list and show users."),
    "sync": ("sync:sync", "Bring users up to date, in this process."),
    "rebuild": ("sync:rebuild", "Compute days and personality again from stored plays."),
    "import-history": (
        "import_history:import_history",
        "Import the listening history that Spotify hands out to a user.",
    ),
    "keys": ("keys:keys", "Make, list, rotate and drop the keys that open refresh tokens."),
    "simulator": ("simulator:simulator", "Serve a local Spotify with synthetic listeners."),
    "serve": (
        "operate.serve:serve",
        "Run one process of a production set, in the foreground.",
    ),
    "healthy": (
        "operate.health:healthy",
        "Say whether the pipeline lives, and exit 1 if it does not.",
    ),
    "export": ("operate.export:export", "Write all plays as Parquet files, for analysts."),
    "schema": (
        "operate.schema:schema",
        "Describe the tables and views that the role spotify_analyst may read.",
    ),
    "metrics": ("operate.health:metrics", "Serve /metrics for Prometheus, until Ctrl-C."),
    "backup": (
        "operate.backup:backup",
        "Write a backup of both databases; `restore` reads it.",
    ),
    "restore": (
        "operate.backup:restore",
        "Restore a backup of `backup`, upgraded to this version.",
    ),
    "doctor": ("doctor.command:doctor", "Check configuration, database, keys, Spotify and users."),
}


class Program(click.Group):
    """The group of all commands; the one place where errors become sentences and exit codes."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All names, not sorted."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the command's module and return the command."""
        if cmd_name not in COMMANDS:
            return None
        module, _, name = COMMANDS[cmd_name][0].partition(":")
        command = getattr(importlib.import_module(f"spotify_pipeline.cli.{module}"), name)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list in --help, without importing anything."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, about) for name, (_, about) in COMMANDS.items()])

    def main(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Run a command and exit: 0 done, 1 failed, 2 wrong usage or configuration."""
        kwargs["standalone_mode"] = False
        try:
            code = super().main(*args, **kwargs)
            sys.stdout.flush()
        except (Exception, KeyboardInterrupt) as error:
            code = report(error)
        sys.exit(code if isinstance(code, int) else 0)


@click.group(
    cls=Program,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="\b\nExamples:\n"
    "  spotify-pipeline demo --once     try it, without a Spotify account\n"
    "  spotify-pipeline doctor          what is configured, and what is wrong\n"
    "  spotify-pipeline sync --help     how to use a command",
)
@click.version_option(package_name="spotify_pipeline", prog_name="spotify-pipeline")
def program() -> None:
    """A faithful record of what users listen to on Spotify, in Postgres.

    Configuration comes from the environment; `spotify-pipeline doctor` lists it.
    Exit codes: 0 done, 1 failed, 2 wrong usage or configuration, 130 stopped with Ctrl-C.
    """
