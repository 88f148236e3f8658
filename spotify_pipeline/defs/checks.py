"""Asset checks: the rules of `storage.checks` as Dagster shows them.

The aggregates over all users belong to no partition. They run in the hourly job `health`, and on
"Execute all" in the UI. The cheap ones are asked again of one user right after their sync, on that
user's partition.

No check is blocking. A sync is one step, and what it wrote is committed before a check can see it:
nothing would be held back by it. Metadata holds counts, and the command that lists the names.
"""

import warnings
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import dagster as dg
from sqlalchemy.exc import ProgrammingError

from spotify_pipeline.defs.metadata import TABLES, asset_key
from spotify_pipeline.defs.partitions import user_partitions
from spotify_pipeline.defs.resources import PipelineResource
from spotify_pipeline.domain.steps import FETCHED, REBUILT
from spotify_pipeline.storage.checks.drift import differences
from spotify_pipeline.storage.checks.rules import RULES, Finding, Rule, look
from spotify_pipeline.storage.checks.scopes import Scope, one_user

if TYPE_CHECKING:
    from spotify_pipeline.sync.pipeline import Pipeline

SCHEMA_CHECK = "schema_is_as_declared"
_SCHEMA_SAYS = "The table has the columns, constraints and indexes that this version defines."
_OF_USER = "_of_user"


def _hourly_specs() -> Iterator[dg.AssetCheckSpec]:
    for rule in RULES:
        yield dg.AssetCheckSpec(
            rule.name,
            asset=asset_key(rule.step),
            description=rule.description,
            metadata={"list the names": rule.command},
        )
    for step in (*FETCHED, *REBUILT):
        yield dg.AssetCheckSpec(SCHEMA_CHECK, asset=asset_key(step), description=_SCHEMA_SAYS)


def _user_specs() -> Iterator[dg.AssetCheckSpec]:
    # Dagster calls checks on partitions a preview; its version is pinned.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", dg.PreviewWarning)
        for rule in RULES:
            if rule.of_one:
                yield dg.AssetCheckSpec(
                    rule.name + _OF_USER,
                    asset=asset_key(rule.step),
                    description=f"After a sync of this user: {rule.description}",
                    partitions_def=user_partitions,
                )


HOURLY = tuple(_hourly_specs())
OF_USER = tuple(_user_specs())


@dg.multi_asset_check(name="checks_of_all_users", specs=HOURLY, can_subset=True)
def hourly_checks(
    context: dg.AssetCheckExecutionContext, pipeline: PipelineResource
) -> Iterator[dg.AssetCheckResult]:
    """The aggregates, when somebody asks for them in the UI."""
    with pipeline.opened() as opened:
        for found in evaluate(opened, context.selected_asset_check_keys):
            yield as_result(found)


@dg.op(out=dg.Out(dg.Nothing))
def check_tables(context: dg.OpExecutionContext, pipeline: PipelineResource) -> None:
    """The aggregates, hourly. A check that fails is seen on its asset and fails no run."""
    failed = 0
    with pipeline.opened() as opened:
        for found in evaluate(opened, [spec.key for spec in HOURLY]):
            log_evaluation(context, found)
            failed += not found.passed
    context.add_output_metadata({"checks": len(HOURLY), "failed": failed})


def evaluate(
    pipeline: "Pipeline", wanted: Iterable[dg.AssetCheckKey]
) -> Iterator[dg.AssetCheckEvaluation]:
    """What these checks over all users find now."""
    wanted = set(wanted)
    now = pipeline.now()
    with pipeline.engine.connect() as conn:
        scopes = {of: of(conn, now) for of in {rule.scope for rule in RULES}}
    # First: with a column gone, a rule may not even be asked.
    for step in (*FETCHED, *REBUILT):
        if dg.AssetCheckKey(asset_key(step), SCHEMA_CHECK) in wanted:
            yield _compare(pipeline, step)
    for rule in RULES:
        if dg.AssetCheckKey(asset_key(rule.step), rule.name) in wanted:
            yield _ask(pipeline, rule, scopes[rule.scope])


def evaluate_user(
    pipeline: "Pipeline", user_id: str, step: str, wanted: Iterable[dg.AssetCheckKey]
) -> Iterator[dg.AssetCheckEvaluation]:
    """What the checks of a step on one user's partition find after the user's sync."""
    wanted = set(wanted)
    for rule in RULES:
        name = rule.name + _OF_USER
        if rule.step == step and dg.AssetCheckKey(asset_key(step), name) in wanted:
            with pipeline.engine.connect() as conn:
                scope = one_user(conn, user_id, pipeline.now())
            yield _ask(pipeline, rule, scope, name, partition=user_id)


def log_evaluation(
    context: dg.OpExecutionContext | dg.AssetExecutionContext, found: dg.AssetCheckEvaluation
) -> None:
    """Records it outside of a check's own step, which Dagster allows and its types do not say."""
    context.log_event(found)  # type: ignore[arg-type]


def as_result(found: dg.AssetCheckEvaluation) -> dg.AssetCheckResult:
    """The same for a step to yield; Dagster adds the partition."""
    return dg.AssetCheckResult(
        asset_key=found.asset_key,
        check_name=found.check_name,
        passed=found.passed,
        severity=found.severity,
        description=found.description,
        metadata=found.metadata,
    )


def _ask(
    pipeline: "Pipeline",
    rule: Rule,
    scope: Scope,
    name: str | None = None,
    partition: str | None = None,
) -> dg.AssetCheckEvaluation:
    try:
        with pipeline.engine.connect() as conn:
            finding = look(conn, rule, scope)
    except ProgrammingError:
        finding = None
    metadata: dict[str, dg.MetadataValue] = {"looked at": dg.MetadataValue.text(scope.words)}
    if finding:
        metadata["rows"] = dg.MetadataValue.int(finding.rows)
    if finding and partition is None:
        metadata["users"] = dg.MetadataValue.int(finding.users)
        metadata["list the names"] = dg.MetadataValue.text(rule.command)
    if finding and finding.since:
        metadata["since"] = dg.MetadataValue.timestamp(finding.since)
    return dg.AssetCheckEvaluation(
        asset_key=asset_key(rule.step),
        check_name=name or rule.name,
        passed=finding is not None and not finding.rows,
        severity=_severity(rule.severe or finding is None),
        description=_in_words(finding),
        metadata=metadata,
        partition=partition,
    )


def _compare(pipeline: "Pipeline", step: str) -> dg.AssetCheckEvaluation:
    with pipeline.engine.connect() as conn:
        told = differences(conn, TABLES[step])
    return dg.AssetCheckEvaluation(
        asset_key=asset_key(step),
        check_name=SCHEMA_CHECK,
        passed=not told,
        severity=_severity(True),
        description="; ".join(told) or None,
        metadata={"differences": len(told)},
    )


def _severity(severe: bool) -> dg.AssetCheckSeverity:
    return dg.AssetCheckSeverity.ERROR if severe else dg.AssetCheckSeverity.WARN


def _in_words(finding: Finding | None) -> str | None:
    if finding is None:
        return f"The question could not be asked: see {SCHEMA_CHECK}."
    rows, users = finding.rows, finding.users
    if not rows:
        return None
    return f"{rows:,} row{'s' * (rows != 1)} of {users:,} user{'s' * (users != 1)}"
