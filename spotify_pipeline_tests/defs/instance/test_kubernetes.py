"""On Kubernetes: valid manifests, our instance from Dagster's chart, and dead pods noticed."""

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import dagster as dg
import pytest
import yaml
from dagster_k8s import K8sRunLauncher
from dagster_k8s.models import k8s_model_from_dict, k8s_snake_case_dict
from kubernetes.client import models
from sqlalchemy import URL, make_url

from spotify_pipeline.settings import load_settings, variables
from spotify_pipeline_tests.defs.definitions_fixture import materialized, staged_defs
from spotify_pipeline_tests.sync.pipeline_fixture import Scenario

ROOT = Path(__file__).parents[3]
FOLDER = ROOT / "deploy" / "kubernetes"
VALUES = yaml.safe_load((FOLDER / "values.yaml").read_text())
OURS = yaml.safe_load((ROOT / "dagster.yaml").read_text())
(CODE,) = VALUES["dagster-user-deployments"]["deployments"]
LAUNCHER = VALUES["runLauncher"]["config"]["k8sRunLauncher"]
DAEMON = VALUES["dagsterDaemon"]
MANIFESTS = [
    manifest
    for file in ("init-db.yaml", "page.yaml")
    for manifest in yaml.safe_load_all((FOLDER / file).read_text())
]
KINDS = {"Deployment": models.V1Deployment, "Job": models.V1Job, "Service": models.V1Service}


@pytest.fixture(autouse=True)
def log_level_of_urllib3() -> Iterator[None]:
    """Restored after each test: a Kubernetes client sets it for the whole process."""
    logger = logging.getLogger("urllib3")
    level = logger.level
    yield
    logger.setLevel(level)


def checked(model: type[Any], written: dict[str, Any]) -> Any:
    """The object of Kubernetes' own models. Raises for unknown and missing fields."""
    return k8s_model_from_dict(model, k8s_snake_case_dict(model, written))


@pytest.mark.parametrize("manifest", MANIFESTS, ids=lambda manifest: manifest["kind"])
def test_a_manifest_has_the_fields_of_kubernetes(manifest: dict[str, Any]) -> None:
    checked(KINDS[manifest["kind"]], manifest)
    with pytest.raises(Exception, match="Unexpected keys"):
        checked(KINDS[manifest["kind"]], manifest | {"specs": {}})


def test_the_pod_settings_of_the_values_are_valid_kubernetes_fields() -> None:
    for name, model in {
        "securityContext": models.V1SecurityContext,
        "podSecurityContext": models.V1PodSecurityContext,
        "resources": models.V1ResourceRequirements,
    }.items():
        checked(model, CODE[name])
    for volume in CODE["volumes"]:
        checked(models.V1Volume, volume)
    mounted = {checked(models.V1VolumeMount, mount).mount_path for mount in CODE["volumeMounts"]}
    assert mounted == {"/tmp", "/var/lib/spotify_pipeline"}


def test_every_container_is_unprivileged_and_of_one_image() -> None:
    pods = [m["spec"]["template"]["spec"] for m in MANIFESTS if m["kind"] != "Service"]
    assert len(pods) == 2
    images = {container["image"] for pod in pods for container in pod["containers"]}
    assert images == {f"{CODE['image']['repository']}:{CODE['image']['tag']}"}
    for pod in pods:
        assert pod["securityContext"]["runAsNonRoot"]
        for container in pod["containers"]:
            assert container["securityContext"] == CODE["securityContext"]
            assert {v["name"] for v in container.get("env", ())} <= set(variables())


def test_the_service_finds_the_page() -> None:
    deployment, service = (m for m in MANIFESTS if m["kind"] in ("Deployment", "Service"))
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert service["spec"]["selector"].items() <= labels.items()
    assert deployment["spec"]["selector"]["matchLabels"].items() <= labels.items()
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    assert service["spec"]["ports"][0]["targetPort"] in {p["name"] for p in container["ports"]}


def launcher_config(kubeconfig: Path | None = None) -> dict[str, Any]:
    """What the chart writes for the launcher, with a file in place of the cluster's account."""
    return {
        "load_incluster_config": kubeconfig is None,
        **({"kubeconfig_file": str(kubeconfig)} if kubeconfig else {}),
        "job_namespace": "music",
        "image_pull_policy": LAUNCHER["imagePullPolicy"],
        "service_account_name": "dagster",
        "dagster_home": "/opt/dagster/dagster_home",
        "instance_config_map": "dagster-instance",
        "postgres_password_secret": VALUES["global"]["postgresqlSecretName"],
        "env_config_maps": ["dagster-pipeline-env"],
        "run_k8s_config": {
            "container_config": LAUNCHER["runK8sConfig"]["containerConfig"],
            "pod_spec_config": LAUNCHER["runK8sConfig"]["podSpecConfig"],
            "job_spec_config": LAUNCHER["runK8sConfig"]["jobSpecConfig"],
        },
    }


def chart_instance(database: URL, kubeconfig: Path) -> dict[str, Any]:
    """The dagster.yaml that the chart writes from our values."""
    login = {
        "username": database.username,
        "password": {"env": "DAGSTER_PG_PASSWORD"},
        "hostname": database.host,
        "db_name": database.database,
        "port": database.port,
        "scheme": VALUES["postgresql"]["postgresqlScheme"],
    }
    coordinator = DAEMON["runCoordinator"]["config"]["queuedRunCoordinator"]
    monitoring, retries = DAEMON["runMonitoring"], DAEMON["runRetries"]

    def threads(name: str) -> dict[str, Any]:
        return {
            "use_threads": DAEMON[name]["useThreads"],
            "num_workers": DAEMON[name]["numWorkers"],
        }

    def storage_of(module: str, name: str) -> dict[str, Any]:
        config = {"postgres_db": login}
        return {"module": f"dagster_postgres.{module}", "class": name, "config": config}

    return {
        "run_storage": storage_of("run_storage", "PostgresRunStorage"),
        "event_log_storage": storage_of("event_log", "PostgresEventLogStorage"),
        "schedule_storage": storage_of("schedule_storage", "PostgresScheduleStorage"),
        "run_launcher": {
            "module": "dagster_k8s",
            "class": VALUES["runLauncher"]["type"],
            "config": launcher_config(kubeconfig),
        },
        "run_coordinator": {
            "module": "dagster.core.run_coordinator",
            "class": DAEMON["runCoordinator"]["type"],
            "config": {
                "max_concurrent_runs": coordinator["maxConcurrentRuns"],
                "tag_concurrency_limits": coordinator["tagConcurrencyLimits"],
                "dequeue_interval_seconds": coordinator["dequeueIntervalSeconds"],
            },
        },
        "compute_logs": {
            "module": "dagster.core.storage.noop_compute_log_manager",
            "class": VALUES["computeLogManager"]["type"],
        },
        "run_monitoring": {
            "enabled": monitoring["enabled"],
            "start_timeout_seconds": monitoring["startTimeoutSeconds"],
            "cancel_timeout_seconds": monitoring["cancelTimeoutSeconds"],
            "max_runtime_seconds": monitoring["maxRuntimeSeconds"],
            "max_resume_run_attempts": monitoring["maxResumeRunAttempts"],
            "poll_interval_seconds": monitoring["pollIntervalSeconds"],
        },
        "run_retries": {
            "enabled": retries["enabled"],
            "max_retries": retries["maxRetries"],
            "retry_on_asset_or_op_failure": retries["retryOnAssetOrOpFailure"],
        },
        "sensors": threads("sensors"),
        "schedules": threads("schedules"),
        "retention": {
            name: {"purge_after_days": VALUES["retention"][name]["purgeAfterDays"]}
            for name in ("schedule", "sensor")
        },
        "python_logs": {
            "managed_python_loggers": VALUES["pythonLogs"]["managedPythonLoggers"],
            "python_log_level": VALUES["pythonLogs"]["pythonLogLevel"],
        },
        "telemetry": VALUES["telemetry"],
        **VALUES["additionalInstanceConfig"],
    }


def test_the_charts_instance_is_dagster_yaml_but_for_storage_and_launcher() -> None:
    theirs, ours = chart_instance(make_url("postgresql://"), Path()), dict(OURS)
    for name in ("storage", "run_launcher"):
        del ours[name]
    # Two ways of writing one thing.
    coordinator = ours.pop("run_coordinator")["config"] | ours.pop("concurrency")["runs"]
    assert theirs["run_coordinator"]["config"] == coordinator
    ours["run_monitoring"] |= {"start_timeout_seconds": 300, "max_resume_run_attempts": 0}
    assert {name: theirs[name] for name in ours} == ours


class Cluster:
    """Kubernetes' API on loopback: the status of every job, and what was asked of it."""

    def __init__(self) -> None:
        self.status: dict[str, Any] = {"active": 1}
        self.asked: list[str] = []


@contextmanager
def running_cluster(kubeconfig: Path) -> Iterator[Cluster]:
    cluster = Cluster()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            cluster.asked.append(self.path)
            body = {"apiVersion": "batch/v1", "kind": "Job", "status": cluster.status}
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(json.dumps(body).encode())

        def log_message(self, format: str, *args: object) -> None:
            """Silent."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "here",
        "contexts": [{"name": "here", "context": {"cluster": "here", "user": "here"}}],
        "clusters": [
            {"name": "here", "cluster": {"server": f"http://127.0.0.1:{server.server_port}"}}
        ],
        "users": [{"name": "here", "user": {}}],
    }
    kubeconfig.write_text(json.dumps(config))
    try:
        yield cluster
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_runs_work_on_the_charts_instance_and_kubernetes_says_when_a_pod_died(
    scenario: Scenario, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = load_settings().dagster_pg_url
    assert url is not None
    database = make_url(url.get_secret_value())
    monkeypatch.setenv("DAGSTER_PG_PASSWORD", str(database.password))
    home = tmp_path / "dagster-home"
    home.mkdir()
    monkeypatch.setenv("DAGSTER_HOME", str(home))
    kubeconfig = tmp_path / "kubeconfig"
    config = chart_instance(database, kubeconfig)
    (home / "dagster.yaml").write_text(yaml.safe_dump(config))
    scenario.connect("anna")
    with running_cluster(kubeconfig) as cluster, dg.DagsterInstance.get() as instance:
        result = staged_defs().resolve_job_def("sync_users").execute_in_process(instance=instance)
        assert result.success
        assert {user_id for _, user_id in materialized(instance)} == {"anna"}
        launcher = instance.run_launcher
        assert isinstance(launcher, K8sRunLauncher)
        assert instance.run_monitoring_enabled
        assert launcher.supports_check_run_worker_health
        run = dg.DagsterRun("sync_users", status=dg.DagsterRunStatus.STARTED)

        def health() -> str:
            return launcher.check_run_worker_health(run).status.value

        assert health() == "RUNNING"
        cluster.status = {"failed": 1}
        assert health() == "FAILED"
        assert cluster.asked[-1] == (
            f"/apis/batch/v1/namespaces/music/jobs/dagster-run-{run.run_id}/status"
        )
