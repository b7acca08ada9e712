"""Reads the documents of deploy/kubernetes, and tells what is wrong with one by its schema."""

import functools
import importlib.resources
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from jsonschema import Draft202012Validator
from referencing import Registry, Resource

FOLDER = Path(__file__).parents[2] / "deploy" / "kubernetes"
KUBERAY = "urn:kuberay:1.7.0#/$defs/"
KUBERNETES = "https://kubernetes.io/api/_definitions.json#/$defs/io.k8s.api."
TYPES: Mapping[tuple[str, str], str] = {
    ("apps/v1", "Deployment"): KUBERNETES + "apps.v1.Deployment",
    ("apps/v1", "StatefulSet"): KUBERNETES + "apps.v1.StatefulSet",
    ("ray.io/v1", "RayCluster"): KUBERAY + "RayCluster",
    ("ray.io/v1", "RayJob"): KUBERAY + "RayJob",
    ("v1", "PersistentVolumeClaim"): KUBERNETES + "core.v1.PersistentVolumeClaim",
    ("v1", "Pod"): KUBERNETES + "core.v1.Pod",
    ("v1", "Service"): KUBERNETES + "core.v1.Service",
}
"""Of what type a document is that says an API version and a kind."""
OLDEST, NEWEST = "1.30", "1.37"


def read_documents() -> dict[str, Any]:
    """Return all documents that are applied, each under `Kind/name`."""
    files = [file for file in FOLDER.rglob("*.yaml") if file.name != "kustomization.yaml"]
    read = [
        document
        for file in files
        if file.parent.name != "patches"
        for document in yaml.safe_load_all(file.read_text(encoding="utf-8"))
    ]
    named = {f"{document['kind']}/{document['metadata']['name']}": document for document in read}
    assert len(named) == len(read)
    return dict(sorted(named.items()))


def read_patch(name: str) -> list[Any]:
    """Return the operations of a patch for GPUs."""
    text = (FOLDER / "gpu" / "patches" / f"{name}.yaml").read_text(encoding="utf-8")
    operations: list[Any] = yaml.safe_load(text)
    return operations


def pods_of(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return the pod templates of a document, each under the name of what they are."""
    name, spec = document["metadata"]["name"], document["spec"]
    match document["kind"]:
        case "Deployment" | "StatefulSet":
            return {name: spec["template"]}
        case "Pod":
            return {name: document}
        case "RayCluster":
            workers = spec["workerGroupSpecs"]
            own = {f"ray-worker-{group['groupName']}": group["template"] for group in workers}
            return {"ray-head": spec["headGroupSpec"]["template"], **own}
        case "RayJob":
            return {f"submitter-{name}": spec["submitterPodTemplate"]}
        case _:
            return {}


def mistakes(document: Mapping[str, Any], version: str = NEWEST) -> list[str]:
    """Return what is wrong with a document: where, and what.

    Args:
        version: Of Kubernetes, whose strict definitions know no other fields than its own.
    """
    of_type = TYPES.get((str(document.get("apiVersion")), str(document.get("kind"))))
    if of_type is None:
        return [f"$: no type {document.get('apiVersion')}/{document.get('kind')}"]
    return mistakes_in(document, of_type, version)


def mistakes_in(value: object, of_type: str, version: str = NEWEST) -> list[str]:
    """Return what is wrong with a part of a document that should be of a type."""
    validator = Draft202012Validator({"$ref": of_type}, registry=_registry(version))
    return [f"{error.json_path}: {error.message}" for error in validator.iter_errors(value)]


def misspelt(document: Any) -> Iterator[tuple[str, Any]]:
    """Yield the document with one key misspelt, for each key at any depth, and where that is."""
    for path in _paths(document, ()):
        copy = json.loads(json.dumps(document))
        holder = functools.reduce(lambda part, key: part[key], path[:-1], copy)
        holder[f"{path[-1]}x"] = holder.pop(path[-1])
        yield ".".join(map(str, path)), copy


def _paths(value: object, at: tuple[str | int, ...]) -> Iterator[tuple[str | int, ...]]:
    if isinstance(value, dict):
        for key, part in value.items():
            yield (*at, key)
            yield from _paths(part, (*at, key))
    elif isinstance(value, Sequence) and not isinstance(value, str):
        for place, part in enumerate(value):
            yield from _paths(part, (*at, place))


@functools.cache
def _registry(version: str) -> "Registry[Any]":
    strict = f"kubernetes-json-schema/v{version}.0-local-strict/_definitions.json"
    package = importlib.resources.files("kubernetes_validate")
    kubernetes = json.loads(package.joinpath(strict).read_text(encoding="utf-8"))
    own = Path(__file__).with_name("kuberay.schema.json")
    kuberay = json.loads(own.read_text(encoding="utf-8"))
    resources = [Resource.from_contents(schema) for schema in (kubernetes, kuberay)]
    registry: Registry[Any] = Registry().with_resources(
        [(str(resource.id()), resource) for resource in resources]
    )
    return registry
