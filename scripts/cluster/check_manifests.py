#!/usr/bin/env python3
"""Holds the Kubernetes manifests beside it against Kubeflow's published models, and its shell script against exit codes.

    python3 -m venv VENV && VENV/bin/pip install --requirement scripts/cluster/requirements.lock
    VENV/bin/python scripts/cluster/check_manifests.py

A manifest passes when it can be read into the model of its kind and comes out of it as it went in (a key that the model does not know
would be lost), and when what the models cannot say holds: containers have the names that the operators look for, and what is
mounted is there. Then each of them is broken in every way listed below, which must be noticed. Exit status 1 otherwise.
"""

import copy
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml
from kubeflow.training import ApiClient
from kubeflow.training import models as training_models
from kubeflow.training.utils.utils import FakeResponse
from kubeflow_trainer_api import models as trainer_models
from kubernetes.client import models as kubernetes_models

HERE = Path(__file__).resolve().parent


class Refused(Exception):
    """Why a manifest is not what its operator takes."""


def read_pytorchjob(document):
    # The models name those of Kubernetes itself, which lie in another package.
    for name in dir(kubernetes_models):
        if name.startswith("V1") and not hasattr(training_models, name):
            setattr(training_models, name, getattr(kubernetes_models, name))
    client = ApiClient()
    job = client.deserialize(FakeResponse(document), "KubeflowOrgV1PyTorchJob")
    return client.sanitize_for_serialization(job)


# Kind and version of a manifest → what reads it and writes it out again.
READERS = {
    ("kubeflow.org/v1", "PyTorchJob"): read_pytorchjob,
    ("trainer.kubeflow.org/v1alpha1", "TrainJob"): lambda document: (
        trainer_models.TrainerV1alpha1TrainJob.from_dict(document).to_dict()
    ),
    ("trainer.kubeflow.org/v1alpha1", "TrainingRuntime"): lambda document: (
        trainer_models.TrainerV1alpha1TrainingRuntime.from_dict(document).to_dict()
    ),
}


def differences(before, after, place=""):
    """Places of two trees of YAML that are not the same in both; `{}` and an absent key are."""
    if isinstance(before, dict) and isinstance(after, dict):
        return [
            found
            for key in {**before, **after}
            for found in differences(before.get(key) or None, after.get(key) or None, f"{place}.{key}")
        ]
    if isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        return [
            found
            for number, pair in enumerate(zip(before, after))
            for found in differences(*pair, f"{place}[{number}]")
        ]
    return [] if before == after else [place.lstrip(".")]


def pods(document):
    """(container's name that the operator looks for, pod) of a manifest."""
    if document["kind"] == "PyTorchJob":
        replicas = document["spec"]["pytorchReplicaSpecs"].values()
        return [("pytorch", replica["template"]["spec"]) for replica in replicas]
    if document["kind"] == "TrainJob":
        patches = document["spec"].get("runtimePatches", [])
        templates = [patch["trainingRuntimeSpec"]["template"] for patch in patches]
    else:
        templates = [document["spec"]["template"]]
    return [
        ("node", job["template"]["spec"]["template"]["spec"])
        for template in templates
        for job in template["spec"]["replicatedJobs"]
    ]


def check(document):
    kind = (document.get("apiVersion"), document.get("kind"))
    if kind not in READERS:
        raise Refused(f"no operator knows {kind}")
    try:
        after = READERS[kind](document)
    except Exception as problem:  # the models raise what they like: ValueError, TypeError, pydantic's own …
        raise Refused(str(problem)) from None
    lost = differences(document, after)
    if lost:
        raise Refused(f"the model does not know {', '.join(lost)}")
    for name, pod in pods(document):
        names = [container["name"] for container in pod["containers"]]
        if name not in names:
            raise Refused(f"no container is called {name}: {names}")
        volumes = {volume["name"] for volume in pod.get("volumes", [])}
        for container in pod["containers"]:
            for mount in container.get("volumeMounts", []):
                if mount["name"] not in volumes:
                    raise Refused(f"the volume {mount['name']} is not there")


def at(document, path):
    """The last but one place of a dotted path, and its last key; numbers are places of a list."""
    *way, last = [int(key) if key.isdigit() else key for key in path.split(".")]
    for key in way:
        document = document[key]
    return document, last


POD = "spec.pytorchReplicaSpecs.Worker.template.spec"
PATCH = "spec.runtimePatches.0.trainingRuntimeSpec.template.spec.replicatedJobs.0.template.spec.template.spec"
JOB = "spec.template.spec.replicatedJobs.0.template.spec"
# File → (place, what is put there; None takes the key away).
BROKEN = {
    "pytorchjob.yaml": [
        ("kind", "PytorchJob"),
        ("spec.pytorchReplicaSpecs", None),
        ("spec.nprocPerNodes", "8"),
        ("spec.pytorchReplicaSpecs.Worker.replicas", "two"),
        ("spec.pytorchReplicaSpecs.Worker.restartPolicies", "ExitCode"),
        (f"{POD}.terminationGracePeriodSecond", 150),
        (f"{POD}.containers.0.name", "sdtrain"),
        (f"{POD}.volumes.0.name", "other"),
        (f"{POD}.containers.0.volumeMounts.0.mountPath", None),
    ],
    "trainjob.yaml": [
        ("apiVersion", "kubeflow.org/v1"),
        ("spec.runtimeRef", None),
        ("spec.runtimeRef.name", None),
        ("spec.trainer.numNodes", "two"),
        ("spec.trainer.numProcPerNode", "8"),
        ("spec.trainer.nodes", 2),
        ("spec.trainer.args", "train"),
        ("spec.runtimePatches.0.manager", None),
        (f"{PATCH}.terminationGracePeriodSecond", 150),
        (f"{PATCH}.containers.0.name", "pytorch"),
        (f"{PATCH}.volumes.1.emptyDir.medium", 1),
    ],
    "trainingruntime.yaml": [
        ("spec.mlPolicy.torch.numProcPerNodes", 8),
        (f"{JOB}.podFailurePolicy.rules.1.onExitCodes.values", "75"),
        (f"{JOB}.podFailurePolicy.rules.1.action", None),
        (f"{JOB}.backoffLimits", 3),
        (f"{JOB}.template.spec.containers.0.name", "pytorch"),
    ],
}


def broken(documents):
    """Breaks each manifest in every way, and says which passed all the same."""
    passed = []
    for file, changes in BROKEN.items():
        for path, value in changes:
            document = copy.deepcopy(documents[file])
            place, key = at(document, path)
            if value is None:
                del place[key]
            else:
                place[key] = value
            try:
                check(document)
                passed.append(f"{file} with {path} = {value!r}")
            except Refused:
                pass
    return passed


def exit_codes(document):
    """Runs the pod's own shell script with commands in sdtrain's place: what it makes of their exit codes, and of SIGTERM."""
    command = document["spec"]["pytorchReplicaSpecs"]["Master"]["template"]["spec"]["containers"][0]["command"]
    wrong = []
    for code, wanted in {0: 0, 2: 2, 3: 3, 4: 4, 7: 7, 8: 143, 9: 9, 70: 70, 75: 143, 137: 137}.items():
        got = subprocess.run([*command, "sh", "-c", f"exit {code}"], check=False).returncode
        if got != wanted:
            wrong.append(f"a command that ends with {code} makes {got}, not {wanted}")
    # One that saves for a moment after SIGTERM, and says so; and one that ends with a code of its own then.
    for code, wanted in {75: 143, 3: 3}.items():
        with tempfile.TemporaryDirectory() as folder:
            ready, saved = Path(folder, "ready"), Path(folder, "saved")
            saving = f"trap 'sleep 0.3; : >{saved}; exit {code}' TERM; : >{ready}; while :; do sleep 0.05; done"
            process = subprocess.Popen([*command, "sh", "-c", saving])
            until = time.monotonic() + 20
            while not ready.exists() and time.monotonic() < until:
                time.sleep(0.01)
            os.kill(process.pid, signal.SIGTERM)
            got = process.wait(20)
            if got != wanted or not saved.exists():
                wrong.append(f"after SIGTERM {code} makes {got}, not {wanted}; saved: {saved.exists()}")
    return wrong


def main():
    documents = {file: yaml.safe_load((HERE / file).read_text()) for file in BROKEN}
    problems = []
    for file, document in documents.items():
        try:
            check(document)
            print(f"{file}: {document['apiVersion']} {document['kind']} ... ok")
        except Refused as problem:
            problems.append(f"{file}: {problem}")
    problems += [f"not noticed: {what}" for what in broken(documents)]
    problems += exit_codes(documents["pytorchjob.yaml"])
    for problem in problems:
        print(f"FAILED: {problem}")
    if not problems:
        print(f"{sum(map(len, BROKEN.values()))} broken manifests ... all refused")
        print("exit codes of the pod's script ... ok")
    sys.exit(1 if problems else 0)


if __name__ == "__main__":
    main()
