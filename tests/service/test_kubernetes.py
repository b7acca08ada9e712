"""deploy/kubernetes is of the schemas it claims, and runs what docker-compose.yml runs."""

import json
import re
import shlex
import shutil
import subprocess
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml

from autocompress.cli.commands import COMMANDS
from autocompress.cli.flags import make_parser, spec_of
from tests.service.manifests import (
    FOLDER,
    KUBERAY,
    NEWEST,
    OLDEST,
    misspelt,
    mistakes,
    mistakes_in,
    pods_of,
    read_documents,
    read_patch,
)
from tests.service.own_network import needs_own_network, needs_postgres, told_by
from tests.tiny_models import make_config, write_model

ROOT = Path(__file__).parents[2]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text("utf-8"))
SERVICES: dict[str, Any] = COMPOSE["services"]
DOCUMENTS = read_documents()
CLUSTER = DOCUMENTS["RayCluster/autocompress"]["spec"]
PODS = {name: pod for document in DOCUMENTS.values() for name, pod in pods_of(document).items()}
SERVED_AS = {"ray-worker-cpu": "ray-worker"}
"""Pods of docker-compose.yml's services under another name there."""
OWN = [name for name in PODS if SERVED_AS.get(name, name) in SERVICES]
OF_SITES_CHOICE = re.compile(
    r"(matchLabels|labels|selector|clusterSelector|rayStartParams|limits|requests)\.[^ ]+"
)
"""Keys that no schema knows: what they select, start and ask for, other tests compare."""
ENTRANCES = ["cpu", "gpu", "search", "files"]
SECRETS = {"db-password": "PGPASSWORD", "ray-token": "RAY_AUTH_TOKEN"}
"""Where a pod finds what docker-compose.yml mounts as files."""
KEYS = {"db-password": "db-password", "ray-token": "auth_token", "api-token": "api-token"}
"""Of the one secret; KubeRay asks for the token by that name."""
PATIENCE_SECONDS = 360
"""A search waits five minutes for its database: who lives is not ended before that."""


def has_kustomize() -> bool:
    """Whether kubectl is here, and new enough to know components, and to say its version."""
    asked = ["kubectl", "version", "--client", "--output=json"]
    return shutil.which("kubectl") is not None and "kustomizeVersion" in (
        subprocess.run(asked, capture_output=True, text=True, check=False).stdout
    )


def container(name: str) -> Any:
    (only,) = PODS[name]["spec"]["containers"]
    return only


def service(name: str) -> Any:
    return SERVICES[SERVED_AS.get(name, name)]


def default(text: str) -> str:
    """Return a text of docker-compose.yml where no variable is set."""
    return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text)


def params(command: list[str]) -> dict[str, str]:
    """Return the flags of a `ray start` as KubeRay takes them; two of them it adds itself."""
    flags = [default(part).removeprefix("--").partition("=") for part in command[2:]]
    own = {name: value or "true" for name, _, value in flags}
    return {name: value for name, value in own.items() if name not in ("head", "block")}


@pytest.mark.parametrize("version", [OLDEST, NEWEST])
@pytest.mark.parametrize("name", DOCUMENTS)
def test_a_document_is_of_its_schema(name: str, version: str) -> None:
    assert mistakes(DOCUMENTS[name], version) == []


@pytest.mark.parametrize("name", DOCUMENTS)
def test_no_field_can_be_misspelt(name: str) -> None:
    unnoticed = [where for where, wrong in misspelt(DOCUMENTS[name]) if not mistakes(wrong)]

    assert [where for where in unnoticed if not OF_SITES_CHOICE.search(where)] == []


@pytest.mark.parametrize(
    ("name", "path", "value", "told"),
    [
        ("RayCluster/autocompress", "apiVersion", "ray.io/v2", "no type ray.io/v2/RayCluster"),
        ("RayCluster/autocompress", "spec.workerGroupSpecs.0.replicas", "2", "integer"),
        ("RayCluster/autocompress", "spec.workerGroupSpecs.0.maxReplicas", None, "required"),
        ("RayCluster/autocompress", "spec.workerGroupSpecs.0.maxReplicas", 2**31, "maximum"),
        ("RayCluster/autocompress", "spec.headGroupSpec.rayStartParams.num-cpus", 0, "string"),
        ("RayCluster/autocompress", "spec.headGroupSpec.serviceType", "None", "one of"),
        ("RayCluster/autocompress", "spec.headGroupSpec.template", None, "required"),
        ("RayCluster/autocompress", "spec.authOptions.mode", "basic", "one of"),
        ("RayCluster/autocompress", "spec.upgradeStrategy.type", "Rolling", "one of"),
        ("RayJob/first", "spec.submissionMode", "K8sJob", "one of"),
        ("RayJob/first", "spec.entrypoint", ["autocompress", "search"], "string"),
        ("RayJob/first", "spec.submitterPodTemplate.spec.containers", None, "required"),
        ("Deployment/api", "spec.replicas", "1", "integer"),
        ("Deployment/api", "spec.selector", None, "required"),
        ("Deployment/api", "spec.template.spec.containers.0.args", "autocompress", "array"),
        ("Deployment/api", "spec.template.spec.containers.0.name", None, "required"),
        ("StatefulSet/postgres", "spec.volumeClaimTemplates.0.spec.accessModes", "RWO", "array"),
        ("Service/api", "spec.ports.0.port", "8090", "integer"),
        ("PersistentVolumeClaim/data", "spec.resources", [], "object"),
    ],
)
def test_a_wrong_value_is_told(name: str, path: str, value: object, told: str) -> None:
    document = json.loads(json.dumps(DOCUMENTS[name]))
    *way, last = path.split(".")
    holder = document
    for key in way:
        holder = holder[int(key) if key.isdecimal() else key]
    holder[last] = value

    # None stands for a field that is not there.
    (mistake,) = mistakes(json.loads(json.dumps(document), object_hook=_without_none))

    assert told in mistake


def _without_none(read: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in read.items() if value is not None}


def test_every_service_of_the_compose_file_has_its_pod() -> None:
    assert {SERVED_AS.get(name, name) for name in OWN} == set(SERVICES)
    assert set(PODS) - set(OWN) == {"files", "submitter-first"}


@pytest.mark.parametrize("name", ["api", "scheduler", "dashboard"])
def test_a_pod_runs_the_command_of_the_compose_file(name: str) -> None:
    assert container(name)["args"] == service(name)["command"]
    assert "command" not in container(name)  # which would take the place of the entry point


def test_ray_starts_with_the_flags_of_the_compose_file() -> None:
    head, (group,) = CLUSTER["headGroupSpec"], CLUSTER["workerGroupSpecs"]

    wanted = params(SERVICES["ray-head"]["command"])
    # RayJobs are submitted through the dashboard; nothing else is meant to differ.
    assert wanted.pop("include-dashboard") == "false"
    assert head["rayStartParams"] == wanted | {"include-dashboard": "true"}
    assert group["rayStartParams"] == params(SERVICES["ray-worker"]["command"])
    assert group["replicas"] == int(default(SERVICES["ray-worker"]["deploy"]["replicas"]))
    assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
    assert (
        group["rayStartParams"]["num-cpus"]
        == container("ray-worker-cpu")["resources"]["limits"]["cpu"]
    )


@pytest.mark.parametrize("name", OWN)
def test_a_pod_is_well_when_the_compose_file_says_so(name: str) -> None:
    check, own = service(name)["healthcheck"], container(name)

    assert own["readinessProbe"] == {
        "exec": {"command": check["test"][1:]},
        "periodSeconds": int(check["interval"].removesuffix("s")),
        "failureThreshold": check.get("retries", 3),
        "timeoutSeconds": int(check.get("timeout", "30s").removesuffix("s")),
    }
    lives = own["livenessProbe"]
    assert lives["exec"] == own["readinessProbe"]["exec"]
    assert lives["periodSeconds"] * lives["failureThreshold"] >= PATIENCE_SECONDS


def test_the_head_can_be_asked_before_it_is_ready() -> None:
    asked = DOCUMENTS["Service/ray-head"]["spec"]

    assert "ray-head:6379" in container("ray-head")["readinessProbe"]["exec"]["command"]
    assert asked["publishNotReadyAddresses"] is True
    assert asked["selector"] == {"ray.io/cluster": "autocompress", "ray.io/node-type": "head"}


@pytest.mark.parametrize("name", OWN)
def test_a_pod_has_the_volumes_of_the_compose_file(name: str) -> None:
    wanted = {}
    for volume in service(name)["volumes"]:
        long = volume if isinstance(volume, dict) else {"target": volume.partition(":")[2]}
        wanted[long["target"]] = long.get("read_only", False)
    if "shm_size" in service(name):
        wanted["/dev/shm"] = False
    if "api-token" in service(name)["secrets"]:
        wanted["/run/secrets"] = True

    mounts = container(name)["volumeMounts"]
    assert {own["mountPath"]: own.get("readOnly", False) for own in mounts} == wanted


def test_what_nodes_share_can_be_written_by_all_of_them() -> None:
    claims = {name: own for name, own in DOCUMENTS.items() if own["kind"].endswith("Claim")}
    volumes = {
        volume["persistentVolumeClaim"]["claimName"]
        for pod in PODS.values()
        for volume in pod["spec"].get("volumes", [])
        if "persistentVolumeClaim" in volume
    }

    assert {own["metadata"]["name"] for own in claims.values()} == volumes
    assert all(own["spec"]["accessModes"] == ["ReadWriteMany"] for own in claims.values())


@pytest.mark.parametrize("name", OWN)
def test_a_pod_has_the_environment_of_the_compose_file(name: str) -> None:
    secrets = SECRETS | ({"db-password": "POSTGRES_PASSWORD"} if name == "postgres" else {})
    files = ("RAY_AUTH_TOKEN_PATH", "POSTGRES_PASSWORD_FILE")
    told = service(name)["environment"].items()
    wanted = {key: value for key, value in told if key not in files}

    entries = {entry["name"]: entry for entry in container(name)["env"]}
    entries.pop("PGDATA", None)
    plain = {key: entry["value"] for key, entry in entries.items() if "value" in entry}
    referred = {
        key: entry["valueFrom"]["secretKeyRef"]
        for key, entry in entries.items()
        if "valueFrom" in entry
    }
    assert plain == wanted
    assert referred == {
        secrets[secret]: {"name": "autocompress", "key": KEYS[secret]}
        for secret in service(name)["secrets"]
        if secret in secrets
    }


def test_the_token_of_the_api_lies_where_its_command_looks() -> None:
    (volume,) = (own for own in PODS["api"]["spec"]["volumes"] if own["name"] == "api-token")

    (item,) = volume["secret"]["items"]
    assert volume["secret"]["secretName"] == "autocompress"
    assert item["key"] == KEYS["api-token"]
    assert f"--token-file=/run/secrets/{item['path']}" in container("api")["args"]


def test_kuberay_finds_the_token_of_the_cluster() -> None:
    assert CLUSTER["authOptions"] == {"mode": "token", "secretName": "autocompress"}
    assert KEYS["ray-token"] == "auth_token"


def test_no_secret_is_in_the_folder() -> None:
    text = "".join(file.read_text("utf-8") for file in FOLDER.rglob("*.yaml"))

    assert not re.search(r"kind:\s*Secret\b|stringData", text)
    assert not re.search(r"(?i)(password|token|secret)\s*[:=]\s*(?!token\b)[\w.]{6,}$", text, re.M)
    assert "://autocompress:" not in text


@pytest.mark.parametrize("name", PODS)
def test_a_pod_is_nobody_special(name: str) -> None:
    (uid,) = re.findall(r"--uid (\d+)", (ROOT / "Dockerfile").read_text("utf-8"))
    spec, own = PODS[name]["spec"], container(name)

    security = spec["securityContext"]
    assert security["runAsNonRoot"] is True
    assert security["runAsUser"] == (999 if name == "postgres" else int(uid))
    assert security["seccompProfile"] == {"type": "RuntimeDefault"}
    assert own["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
    }
    assert spec["automountServiceAccountToken"] is False
    assert spec["enableServiceLinks"] is False
    assert service("api")["user"] == uid
    assert all({"cpu", "memory"} <= {*own["resources"][kind]} for kind in ("requests", "limits"))


@pytest.mark.parametrize("name", [own for own in DOCUMENTS if own.startswith("Service/")])
def test_a_service_is_reached_from_within_the_cluster_alone(name: str) -> None:
    spec = DOCUMENTS[name]["spec"]

    assert spec["type"] == "ClusterIP"
    assert not {"nodePort"} & {key for port in spec["ports"] for key in port}
    pod = PODS[name.partition("/")[2]]
    (port,) = spec["ports"]
    (named,) = (own for own in container(pod_name(pod))["ports"] if own["name"] == port["name"])
    assert named["containerPort"] == port["port"]
    assert port["targetPort"] in (named["name"], named["containerPort"])
    if name != "Service/ray-head":  # whose labels are KubeRay's
        assert spec["selector"].items() <= pod["metadata"]["labels"].items()


def pod_name(pod: object) -> str:
    return next(name for name, own in PODS.items() if own is pod)


@pytest.mark.parametrize(
    "name", ["Deployment/api", "Deployment/scheduler", "Deployment/dashboard"]
)
def test_a_deployment_selects_its_own_pods(name: str) -> None:
    spec = DOCUMENTS[name]["spec"]

    assert spec["selector"]["matchLabels"] == spec["template"]["metadata"]["labels"]
    assert spec["strategy"] == {"type": "Recreate"}  # Two would drive the same searches.


def test_images_and_versions_are_those_of_the_repository() -> None:
    pins = (ROOT / "constraints.txt").read_text("utf-8").splitlines()

    assert f"ray=={CLUSTER['rayVersion']}" in pins
    assert {container(name)["image"] for name in PODS} == {
        SERVICES["api"]["image"],
        SERVICES["postgres"]["image"],
    }


def test_the_job_is_a_search_on_the_cluster() -> None:
    job = DOCUMENTS["RayJob/first"]
    command, *flags = shlex.split(job["spec"]["entrypoint"])

    parsed = make_parser(COMMANDS).parse_args(flags)
    spec = spec_of(parsed, {})
    assert command == "autocompress"
    assert (spec.pool, spec.address) == ("ray", "auto")
    assert f"--storage={parsed.storage}" in SERVICES["api"]["command"]
    assert parsed.study == job["metadata"]["name"]
    assert parsed.output == Path("/data") / parsed.study
    assert job["spec"]["clusterSelector"] == {"ray.io/cluster": "autocompress"}
    # KubeRay hands it to a shell as it is.
    assert not re.search(r"""[;&|<>$`"'*?(){}\\]""", job["spec"]["entrypoint"])


def test_workers_with_a_gpu_are_as_the_others_but_for_that() -> None:
    (*_, added) = read_patch("workers")
    (cpu,) = CLUSTER["workerGroupSpecs"]

    gpu = added["value"]
    (own,), spec = gpu["template"]["spec"]["containers"], gpu["template"]["spec"]
    assert mistakes_in(gpu, KUBERAY + "WorkerGroupSpec") == []
    assert own["resources"]["limits"].pop("nvidia.com/gpu") == gpu["rayStartParams"]["num-gpus"]
    assert spec.pop("tolerations")[0]["key"] == "nvidia.com/gpu"
    own["resources"] = container("ray-worker-cpu")["resources"]
    assert gpu["template"] == cpu["template"]
    # One CPU a GPU: a driver's GPU has none, and is taken for no worker.
    assert gpu["rayStartParams"].pop("num-cpus") == gpu["rayStartParams"].pop("num-gpus")
    assert gpu["rayStartParams"].items() <= cpu["rayStartParams"].items()


def test_every_file_is_applied() -> None:
    for folder in ("base", "search", "files"):
        text = (FOLDER / folder / "kustomization.yaml").read_text("utf-8")
        others = {file.name for file in (FOLDER / folder).iterdir()} - {"kustomization.yaml"}

        assert {*yaml.safe_load(text)["resources"]} == others


def test_the_page_names_what_there_is() -> None:
    page = (ROOT / "docs" / "kubernetes.md").read_text("utf-8")

    named = {name.rstrip("/.") for name in re.findall(r"deploy/kubernetes[\w/.-]*", page)}
    assert [name for name in named if not (ROOT / name).exists()] == []
    assert {f"deploy/kubernetes/{folder}" for folder in ENTRANCES} <= named
    assert all(f"--from-file={key}=" in page for key in KEYS.values())


@pytest.mark.parametrize("folder", ENTRANCES)
@pytest.mark.skipif(not has_kustomize(), reason="kubectl 1.24 or newer is not installed here")
def test_what_kustomize_makes_is_of_its_schema_and_the_sites(folder: str) -> None:
    text = (FOLDER / "site" / "kustomization.yaml").read_text("utf-8")
    site = yaml.safe_load(text)
    (image,) = site["images"]

    made = subprocess.run(
        ["kubectl", "kustomize", str(FOLDER / folder)], capture_output=True, text=True, check=True
    )

    assert made.stderr == ""
    documents = list(yaml.safe_load_all(made.stdout))
    pods = [pod for own in documents for pod in pods_of(own).values()]
    images = {own["image"] for pod in pods for own in pod["spec"]["containers"]}
    assert [wrong for own in documents for wrong in mistakes(own)] == []
    assert {own["metadata"]["namespace"] for own in documents} == {site["namespace"]}
    assert images - {SERVICES["postgres"]["image"]} == {f"{image['newName']}:{image['newTag']}"}
    for own in documents:
        if own["kind"] == "PersistentVolumeClaim":
            assert own["spec"]["storageClassName"] in text


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(find_spec("aiohttp_cors") is None, reason="Ray's job server is not installed")
@needs_postgres
@needs_own_network
def test_the_job_finds_and_publishes_a_model(tmp_path: Path, calibration: Path) -> None:
    write_model(tmp_path / "models" / "reference-model", make_config())

    told = told_by("ray_job_machine.py", tmp_path / "models", calibration)

    assert told["met"] is True
    assert {"report.html", "model"} <= {*told["files"]}
