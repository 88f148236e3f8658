"""Extensions of Dagster itself: storage, run launcher, executors, retention and purge.

Here is what the commands that start Dagster's processes need to know. It imports no Dagster.
"""

from pathlib import Path

from spotify_pipeline.home import private_folder, write_private
from spotify_pipeline.settings import ConfigurationError, Settings

# The name of our code location.
LOCATION = "spotify_pipeline"
# Dagster's code server, webserver and daemon as we start them.
PROCESSES = "spotify_pipeline.defs.instance.processes"


def dagster_home(settings: Settings) -> Path:
    """The home's directory for Dagster, with the instance configuration of this checkout.

    Raises ConfigurationError outside a checkout.
    """
    beside_package = Path(__file__).resolve().parents[3] / "dagster.yaml"
    config = next((p for p in (Path("dagster.yaml"), beside_package) if p.is_file()), None)
    if config is None:
        raise ConfigurationError(
            "There is no dagster.yaml here: run this command in a checkout of spotify_pipeline."
        )
    home = private_folder(settings.home, "dagster")
    write_private(home / "dagster.yaml", config.read_text())
    return home
