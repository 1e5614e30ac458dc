"""What the charts promise, a function a promise: each returns what breaks it, and nothing when it holds."""

import re

from tests.helm.charts import containers, of_kind, pods

PINNED = re.compile(r".+(@sha256:[0-9a-f]{64}|:(?!latest$)[A-Za-z0-9_][A-Za-z0-9._-]*)")
ALLOWED_VOLUMES = {"configMap", "emptyDir", "persistentVolumeClaim", "projected", "secret", "downwardAPI", "csi"}


def pod_security_is_restricted(documents):
    for name, spec in pods(documents):
        security = spec.get("securityContext", {})
        if security.get("runAsNonRoot") is not True or not security.get("runAsUser"):
            yield f"{name} may run as root"
        if security.get("seccompProfile") != {"type": "RuntimeDefault"}:
            yield f"{name} has no seccomp profile"
        for key in ("hostNetwork", "hostPID", "hostIPC"):
            if spec.get(key):
                yield f"{name} has {key}"
        for volume in spec.get("volumes", ()):
            if not set(volume) - {"name"} <= ALLOWED_VOLUMES:
                yield f"{name} has the volume {volume}"
    for name, container in containers(documents):
        security = container.get("securityContext", {})
        if security.get("allowPrivilegeEscalation") is not False or security.get("privileged"):
            yield f"{name} may gain privileges"
        if security.get("capabilities") != {"drop": ["ALL"]}:
            yield f"{name} has capabilities"
        if any(port.get("hostPort") for port in container.get("ports", ())):
            yield f"{name} takes a port of the node"


def root_is_read_only(documents):
    for name, container in containers(documents):
        if container["securityContext"].get("readOnlyRootFilesystem") is not True:
            yield name


def every_empty_directory_has_a_limit(documents):
    for name, spec in pods(documents):
        for volume in spec.get("volumes", ()):
            if "emptyDir" in volume and not volume["emptyDir"].get("sizeLimit"):
                yield f"{name}: {volume['name']}"


def every_mount_has_its_volume(documents):
    for name, spec in pods(documents):
        volumes = [volume["name"] for volume in spec.get("volumes", ())]
        everything = [*spec.get("initContainers", ()), *spec["containers"]]
        mounted = {mount["name"] for one in everything for mount in one.get("volumeMounts", ())}
        if mounted != set(volumes) or len(volumes) != len(set(volumes)):
            yield f"{name}: {sorted(mounted ^ set(volumes))}"


def every_container_says_what_it_needs(documents):
    for name, container in containers(documents):
        resources = container.get("resources", {})
        if not resources.get("requests") or "memory" not in resources.get("limits", {}):
            yield name


def images_stay_what_they_are(documents):
    for name, container in containers(documents):
        if not PINNED.fullmatch(container["image"]):
            yield f"{name}: {container['image']}"


def service_account_tokens_are_only_where_needed(documents):
    for account in of_kind(documents, "ServiceAccount"):
        if account.get("automountServiceAccountToken") is not False:
            yield f"ServiceAccount/{account['metadata']['name']}"
    for name, spec in pods(documents):
        talks = any("check-cluster" in one["command"] for one in [*spec.get("initContainers", ()), *spec["containers"]])
        enrols = any(one["name"] == "enrol" for one in spec.get("initContainers", ()))
        if spec.get("automountServiceAccountToken") is not (talks or enrols):
            yield name


def no_right_is_for_everything(documents):
    if of_kind(documents, "ClusterRole") or of_kind(documents, "ClusterRoleBinding"):
        yield "a right in all namespaces"
    for role in of_kind(documents, "Role"):
        for rule in role["rules"]:
            name = role["metadata"]["name"]
            if "*" in [*rule["apiGroups"], *rule["resources"], *rule["verbs"]]:
                yield f"{name}: {rule}"
            if "secrets" in rule["resources"] and rule["verbs"] != ["create"] and not rule.get("resourceNames"):
                yield f"{name} may use every Secret"
            if any(resource.startswith("pods/") for resource in rule["resources"]):
                yield f"{name} may go into pods"


def no_secret_is_rendered(documents):
    for secret in of_kind(documents, "Secret"):
        if secret.get("data") or secret.get("stringData"):
            yield secret["metadata"]["name"]
    if "PRIVATE KEY" in str(documents):
        yield "a private key"


def deployments_are_recreated(documents):
    for deployment in of_kind(documents, "Deployment"):
        if deployment["spec"]["selector"]["matchLabels"]["app.kubernetes.io/component"] == "api":
            continue  # stateless: rolled
        if deployment["spec"].get("strategy") != {"type": "Recreate"} or deployment["spec"].get("replicas") != 1:
            yield deployment["metadata"]["name"]


def protocols_are_written(documents):
    for name, container in containers(documents):
        yield from (name for port in container.get("ports", ()) if "protocol" not in port)
    for kind in ("Service", "NetworkPolicy"):
        for document in of_kind(documents, kind):
            spec = document["spec"]
            rules = [*spec.get("ingress", ()), *spec.get("egress", ())] if kind == "NetworkPolicy" else [spec]
            yield from (
                f"{kind}/{document['metadata']['name']}"
                for rule in rules
                for port in rule.get("ports", ())
                if "protocol" not in port
            )


def a_changed_setting_restarts_pods(documents):
    for deployment in of_kind(documents, "Deployment"):
        if not deployment["spec"]["template"]["metadata"]["annotations"].get("checksum/config"):
            yield deployment["metadata"]["name"]


def deployments_are_probed(documents):
    for deployment in of_kind(documents, "Deployment"):
        for container in deployment["spec"]["template"]["spec"]["containers"]:
            missing = {"startupProbe", "livenessProbe", "readinessProbe"} - set(container)
            if missing:
                yield f"{container['name']}: {sorted(missing)}"


def selectors_find_their_pods(documents):
    for kind in ("Deployment", "DaemonSet"):
        for document in of_kind(documents, kind):
            labels = document["spec"]["template"]["metadata"]["labels"]
            if not document["spec"]["selector"]["matchLabels"].items() <= labels.items():
                yield document["metadata"]["name"]
    labels = [one["spec"]["template"]["metadata"]["labels"] for one in of_kind(documents, "Deployment")]
    for service in of_kind(documents, "Service"):
        if not any(service["spec"]["selector"].items() <= one.items() for one in labels):
            yield f"Service/{service['metadata']['name']}"


def what_is_precious_is_kept(documents):
    for kind in ("PersistentVolumeClaim", "Secret"):
        for document in of_kind(documents, kind):
            is_data = document["metadata"]["labels"]["app.kubernetes.io/component"] == "data"
            kept = document["metadata"].get("annotations", {}).get("helm.sh/resource-policy") == "keep"
            if not is_data and not kept:
                yield f"{kind}/{document['metadata']['name']}"


def data_is_read_only(documents):
    for volume in of_kind(documents, "PersistentVolume"):
        if volume["spec"]["accessModes"] != ["ReadOnlyMany"]:
            yield volume["metadata"]["name"]
        if volume["spec"]["persistentVolumeReclaimPolicy"] != "Retain":
            yield f"{volume['metadata']['name']} may be erased"
    for name, container in containers(documents):
        for mount in container.get("volumeMounts", ()):
            if mount["name"].startswith("data-") and mount.get("readOnly") is not True:
                yield f"{name}: {mount['name']}"


def there_is_a_test_hook(documents):
    if not any(
        one["metadata"].get("annotations", {}).get("helm.sh/hook") == "test" for one in of_kind(documents, "Pod")
    ):
        yield "none"


def names_fit(documents):
    seen = set()
    for document in documents:
        metadata = document["metadata"]
        key = (document["kind"], metadata.get("namespace"), metadata["name"])
        if key in seen or len(metadata["name"]) > 63:
            yield key
        seen.add(key)


RULES = [value for name, value in list(globals().items()) if callable(value) and value.__module__ == __name__]
