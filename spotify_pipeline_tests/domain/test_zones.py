import os
import subprocess
import sys
from datetime import UTC, datetime
from importlib import resources
from zoneinfo import ZoneInfo

import pytest

from spotify_pipeline.domain.zones import (
    UnknownZone,
    all_zones,
    check_zone,
    is_valid_zone,
    suggest_zone,
)


def _elsewhere(code: str, tzpath: str) -> str:
    """The output of a fresh interpreter that looks for zone files in `tzpath`."""
    env = os.environ | {"PYTHONTZPATH": tzpath}
    done = subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def test_the_valid_zones_are_those_of_the_package():
    available = "import zoneinfo; print(*sorted(zoneinfo.available_timezones()))"
    assert _elsewhere(available, tzpath="").split() == list(all_zones())
    assert {"UTC", "Europe/Berlin", "America/Argentina/Ushuaia", "Etc/GMT+12"} <= set(all_zones())


def test_every_zone_loads_under_its_own_name():
    assert [check_zone(name).key for name in all_zones()] == list(all_zones())


def test_the_machines_own_rules_are_not_used(tmp_path):
    """A zoneinfo folder where Berlin has Tokyo's rules must change nothing."""
    (tmp_path / "Europe").mkdir()
    tokyo = resources.files("tzdata.zoneinfo").joinpath("Asia", "Tokyo").read_bytes()
    (tmp_path / "Europe" / "Berlin").write_bytes(tokyo)
    offset = "print(datetime.fromtimestamp(0, {}).utcoffset())"
    system = "from datetime import datetime; from zoneinfo import ZoneInfo; " + offset.format(
        "ZoneInfo('Europe/Berlin')"
    )
    ours = (
        "from datetime import datetime; from spotify_pipeline.domain.zones import check_zone; "
        + offset.format("check_zone('Europe/Berlin')")
    )
    assert _elsewhere(system, str(tmp_path)) == "9:00:00"
    assert _elsewhere(ours, str(tmp_path)) == "1:00:00"


def test_the_rules_are_those_zoneinfo_reads_from_the_same_files():
    for name in ("Europe/Berlin", "Asia/Kolkata", "Australia/Lord_Howe", "America/St_Johns"):
        for month in range(1, 13):
            moment = datetime(2031, month, 7, 12, tzinfo=UTC)
            assert moment.astimezone(check_zone(name)).utcoffset() == (
                moment.astimezone(ZoneInfo(name)).utcoffset()
            )


@pytest.mark.parametrize(
    "name",
    [
        "",
        "berlin",
        "europe/berlin",
        "Europe/Berlin ",
        "../tzdata/zones",
        "/etc/passwd",
        "UTC\0",
        "Z",
    ],
)
def test_anything_but_an_exact_name_is_refused(name):
    assert not is_valid_zone(name)
    with pytest.raises(UnknownZone):
        check_zone(name)


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("Berlin", "Europe/Berlin"),
        ("europe/paris", "Europe/Paris"),
        (" new york ", "America/New_York"),
        ("America/Chcago", "America/Chicago"),
        ("Kolkata", "Asia/Kolkata"),
        ("EST5", "EST"),
        ("est5edt", "EST5EDT"),
        ("utc", "UTC"),
        # The sign of these names is reversed: Etc/GMT-2 is two hours east of Greenwich.
        ("UTC+2", "Etc/GMT-2"),
        ("GMT-05:00", "Etc/GMT+5"),
        ("+5:30", None),
        ("Nowhere/City", None),
        ("", None),
        ("\0", None),
        ("x" * 100_000, None),
    ],
)
def test_the_zone_that_was_meant_is_suggested(written, meant):
    assert suggest_zone(written) == meant


def test_the_suggested_offset_is_the_one_that_was_asked_for():
    zone = check_zone(suggest_zone("UTC+2") or "")
    assert datetime(2026, 1, 1, tzinfo=zone).strftime("%z") == "+0200"


def test_a_refusal_is_one_sentence_with_a_remedy():
    with pytest.raises(UnknownZone) as caught:
        check_zone("Berlin")
    assert str(caught.value) == "'Berlin' is not a time zone: did you mean Europe/Berlin?"
    with pytest.raises(UnknownZone, match="a name looks like Europe/Berlin"):
        check_zone("Mars/Phobos")
    with pytest.raises(UnknownZone) as caught:
        check_zone("x\n" * 5_000)
    assert len(str(caught.value)) < 200
    assert "\n" not in str(caught.value)
