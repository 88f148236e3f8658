"""Real SIGKILLs and concurrency: nothing is half-written or doubled, no user stays stuck."""

import signal
from collections import Counter
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest

from spotify_pipeline.domain.outcome import RECENTLY_PLAYED
from spotify_pipeline.storage import tables as t
from spotify_pipeline_tests.sync.forked_workers import ForkedWorkers
from spotify_pipeline_tests.sync.pipeline_fixture import NOON, Scenario

RESULTS = (
    "plays",
    "daily_listening",
    "top_lists",
    "top_list_artists",
    "top_list_tracks",
    "music_personality",
    "coverage",
)


@pytest.fixture(scope="module")
def forked_workers() -> Iterator[ForkedWorkers]:
    with ForkedWorkers() as forked_workers:
        yield forked_workers


def results(scenario: Scenario, user_id: str | None = None) -> dict[str, list[tuple[object, ...]]]:
    """Everything that a sync computes and stores for its users (or for one)."""
    dump = scenario.dump("computed_at")
    return {name: [row for row in dump[name] if user_id in (None, row[0])] for name in RESULTS}


def let_leases_end(scenario: Scenario) -> None:
    """Advances 30 seconds: no lease is longer."""
    scenario.execute(
        "UPDATE spotify_pipeline.sync_state SET lease_until = lease_until - interval '30 s'"
    )


def compute_again(scenario: Scenario, *user_ids: str) -> None:
    """The results that one undisturbed sync of an empty database computes."""
    scenario.execute(
        "TRUNCATE "
        + ", ".join(f"spotify_pipeline.{name}" for name in (*RESULTS, "restamped_plays"))
    )
    scenario.sync_well(*user_ids)


def test_a_sync_killed_anywhere_leaves_all_or_nothing_and_is_done_again_when_its_lease_ends(
    forked_workers: ForkedWorkers, scenario: Scenario, environ: dict[str, str]
) -> None:
    scenario.connect("unhurt")
    (end,) = forked_workers.run(environ, [{"users": ["unhurt"], "now": NOON}])
    assert end["results"] == [["unhurt", "synced"]]
    # A kill in every eighth of the statements; the last one after everything is stored.
    deaths = {f"died {n}": n * end["statements"] // 8 for n in range(1, 9)}
    left: dict[str, int] = {}
    for user_id, number in deaths.items():
        scenario.connect(user_id)
        job = {"users": [user_id], "die_at": number, "now": NOON}
        assert forked_workers.run(environ, [job]) == [{"signal": signal.SIGKILL}]
        found = results(scenario, user_id)
        left[user_id] = sum(len(rows) for rows in found.values())
        assert left[user_id] == 0 or min(len(rows) for rows in found.values()) > 0, number
        let_leases_end(scenario)
        scenario.sync_well(user_id)
        assert not left[user_id] or results(scenario, user_id) == found
    assert 0 < list(left.values()).count(0) < len(deaths)
    before = results(scenario)
    compute_again(scenario, "unhurt", *deaths)
    assert results(scenario) == before


def test_a_sync_killed_while_it_writes_leaves_what_was_stored_before_as_it_was(
    forked_workers: ForkedWorkers, scenario: Scenario, environ: dict[str, str]
) -> None:
    for user_id in ("anna", "ben"):
        scenario.connect(user_id)
    (end,) = forked_workers.run(environ, [{"users": ["anna"], "now": NOON}])
    scenario.sync_well("ben")
    before = results(scenario)
    scenario.at(NOON + timedelta(hours=10))
    for share in (0.4, 0.55, 0.7):
        die_at = int(end["statements"] * share)
        job = {"users": ["anna", "ben"], "die_at": die_at, "now": scenario.clock()}
        assert forked_workers.run(environ, [job]) == [{"signal": signal.SIGKILL}]
        assert results(scenario) == before
        let_leases_end(scenario)
    scenario.sync_well("anna", "ben")
    assert results(scenario) != before


def test_overlapping_syncs_in_many_processes_neither_deadlock_nor_double(
    forked_workers: ForkedWorkers, scenario: Scenario, environ: dict[str, str]
) -> None:
    names = [f"listener {number}" for number in range(6)]
    for name in names:
        scenario.connect(name)
    jobs: list[dict[str, Any]] = [
        {"users": names[:4], "rounds": 2, "now": NOON},
        {"users": names[3:1:-1] + names[4:], "rounds": 2, "now": NOON},
        {"users": names[::-1], "rounds": 2, "now": NOON},
    ]
    ends = forked_workers.run(environ, jobs)
    tally: dict[str, Counter[str]] = {name: Counter() for name in names}
    for end in ends:
        for user_id, result in end["results"]:
            tally[user_id][result] += 1
    for name, counted in tally.items():
        assert counted["synced"] >= 1, name
        assert set(counted) <= {"synced", "skipped"}, name
    # Each result is what one sync alone computes from the same responses.
    done = results(scenario)
    assert Counter(row[0] for row in done["plays"]) == dict.fromkeys(names, 50)
    compute_again(scenario, *names)
    assert results(scenario) == done
    assert {row["lease_id"] for row in scenario.rows(t.sync_state)} == {None}


def test_a_user_is_refreshed_once_however_many_processes_start_together(
    forked_workers: ForkedWorkers, scenario: Scenario, environ: dict[str, str]
) -> None:
    scenario.connect("anna", kind="light")
    job = {"users": ["anna"], "steps": [RECENTLY_PLAYED], "wait": 60, "now": NOON}
    ends = forked_workers.run(environ, [job] * 4)
    assert [end["results"] for end in ends] == [[["anna", "synced"]]] * 4
    assert len(scenario.calls("token")) == 1
