import json
import re
import subprocess
import tomllib

import jsonschema
import kubernetes_validate
import pytest
import yaml

from edge.home import SiteFile
from edge.runner.pod_config import PodConfig
from fl.config import load
from server.home import ServerConfig
from tests.helm import charts, rules
from tests.helm.charts import ANCIENT, CASES, HELM, NEWEST, OLDEST, VERSIONS, manifests, of_kind, only, refusal

NEEDS_134 = {("fl-site", "dra"), ("fl-site", "dra-own-claims")}
# Kinds that a cluster gets from elsewhere have no schema in Kubernetes.
FOREIGN = ("gateway.networking.k8s.io/", "autoscaling.k8s.io/", "monitoring.coreos.com/")
OLD_CASES = [case for case in CASES if case not in NEEDS_134]


def settings(chart, case="minimal", version=NEWEST, *options):
    documents = of_kind(manifests(chart, case, version, *options), "ConfigMap")
    files = [item for document in documents for item in document["data"].items()]
    return {name: tomllib.loads(text) for name, text in files if name.endswith(".toml")}


@pytest.mark.parametrize(("chart", "case"), CASES)
@pytest.mark.parametrize("rule", rules.RULES, ids=lambda rule: rule.__name__)
def test_every_case_keeps_every_promise(rule, chart, case):
    assert list(rule(manifests(chart, case))) == []


@pytest.mark.parametrize(("chart", "case"), OLD_CASES)
def test_every_case_keeps_every_promise_in_an_ancient_cluster(chart, case):
    documents = manifests(chart, case, ANCIENT)
    assert {rule.__name__: found for rule in rules.RULES if (found := list(rule(documents)))} == {}


def assert_valid(documents, version):
    for document in documents:
        if not document["apiVersion"].startswith(FOREIGN):
            kubernetes_validate.validate(document, version, strict=True)


@pytest.mark.parametrize(("chart", "case"), CASES)
def test_every_case_is_valid_in_the_newest_kubernetes(chart, case):
    assert_valid(manifests(chart, case), VERSIONS[-1])


@pytest.mark.parametrize(("chart", "case"), OLD_CASES)
def test_every_case_is_valid_in_the_oldest_kubernetes(chart, case):
    assert_valid(manifests(chart, case, OLDEST), VERSIONS[0])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("chart", "case", "version"),
    [(*case, version) for case in CASES for version in VERSIONS if case not in NEEDS_134 or version >= "1.34"],
)
def test_every_case_is_valid_in_every_kubernetes(chart, case, version):
    assert_valid(manifests(chart, case, f"{version}.0"), version)


@pytest.mark.parametrize("chart", charts.make.CHARTS)
def test_helm_lint_finds_nothing(chart):
    argv = [str(charts.tools.program()), "lint", "--strict", "--values", str(HELM / chart / "ci" / "minimal.yaml")]
    done = subprocess.run([*argv, str(HELM / chart)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_what_1_20_lacks_is_asked_for_in_its_older_form():
    assert only(manifests("fl-server", "minimal", ANCIENT), "PodDisruptionBudget")["apiVersion"] == "policy/v1beta1"
    assert only(manifests("fl-server"), "PodDisruptionBudget")["apiVersion"] == "policy/v1"
    # Before 1.21 namespaces have no label with their name.
    for version, selector in ((ANCIENT, {}), (NEWEST, {"matchLabels": {"kubernetes.io/metadata.name": "fl-system"}})):
        policy = only(manifests("fl-site", "minimal", version), "NetworkPolicy", "-tasks")
        assert policy["spec"]["egress"][0]["to"][0]["namespaceSelector"] == selector


@pytest.mark.parametrize("name", charts.golden.presets())
def test_a_preset_makes_what_is_kept(name):
    kept = (charts.golden.GOLDEN / f"{name}.yaml").read_text()
    assert charts.golden.render(*charts.golden.presets()[name]) == kept, "python helm/golden.py writes it anew"


# Schema, values, documentation: one source.


@pytest.mark.parametrize("chart", charts.make.CHARTS)
def test_values_schema_and_reference_are_what_the_source_says(chart):
    stale = [path.name for path, content in charts.make.made(chart).items() if path.read_text() != content]
    assert stale == [], "python helm/make.py writes them anew"


def keys(node, prefix=""):
    """Every key of a schema that has no further keys of its own."""
    for name, child in node["properties"].items():
        inner = child if "properties" in child else child.get("items", {})
        if "properties" in inner and name not in ("tolerations",):
            yield from keys(inner, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", child


def values_of(values, path):
    """All values at a path, through lists."""
    found = [values]
    for name in path.split("."):
        found = [item for one in found for item in (one if isinstance(one, list) else [one])]
        found = [one[name] for one in found if isinstance(one, dict) and name in one]
    return found


@pytest.mark.parametrize("chart", charts.make.CHARTS)
def test_every_key_is_described_and_tried_away_from_its_default(chart):
    tree = charts.make.schema(chart)
    tried = [yaml.safe_load((HELM / chart / "ci" / f"{case}.yaml").read_text()) for one, case in CASES if one == chart]
    untried = []
    for path, node in keys(tree):
        assert len(node["description"]) > 5, path
        found = [value for values in tried for value in values_of(values, path)]
        if not any("default" not in node or value != node["default"] for value in found):
            untried.append(path)
    assert untried == []


@pytest.mark.parametrize("chart", charts.make.CHARTS)
def test_the_defaults_fit_the_schema(chart):
    jsonschema.validate(yaml.safe_load((HELM / chart / "values.yaml").read_text()), charts.make.schema(chart))


@pytest.mark.parametrize("chart", charts.make.CHARTS)
def test_every_key_of_the_templates_is_one_of_the_schema(chart):
    tree = charts.make.schema(chart)
    used = set()
    for path in (HELM / chart / "templates").glob("*"):
        used |= set(re.findall(r"\.Values\.([A-Za-z][\w.]*)", path.read_text()))
    for path in used:
        node = tree
        for name in path.split("."):
            if "properties" not in node:
                break
            assert name in node["properties"], path
            node = node["properties"][name]


# What the processes are told is what they can read.


@pytest.mark.parametrize("case", [case for chart, case in CASES if chart == "fl-site"])
def test_a_site_and_its_runner_take_their_settings(case):
    found = settings("fl-site", case)
    site = load(SiteFile, found["site.toml"])
    assert site.identity_secret
    if "pods.toml" in found:
        pods = load(PodConfig, found["pods.toml"])
        assert str(site.pods) == "/etc/fedfleet/site/pods.toml"
        assert pods.owner == pods.service_account
        if site.data_dir:
            assert any(str(site.data_dir).startswith(path) for path in pods.mounts.values())


@pytest.mark.parametrize("case", [case for chart, case in CASES if chart == "fl-server"])
def test_the_centre_takes_its_settings(case):
    found = settings("fl-server", case)["server.toml"]
    config = load(ServerConfig, found)
    assert config.gateway.health


def test_the_control_room_is_known_by_the_name_of_its_route():
    found = settings("fl-server", "control")["server.toml"]["control"]
    assert found == {"listen": "0.0.0.0:8444", "public_url": "https://control.example.org"}
    assert "public_url" not in settings("fl-server")["server.toml"]["control"]
    for document in manifests("fl-server", "postgres"):
        assert "8444" not in str(document), document["kind"]


def test_secrets_that_the_centre_reads_as_files_are_copied_for_it_alone():
    for case, file in (("control", "metrics.token"), ("postgres", "store.url")):
        pod = only(manifests("fl-server", case), "Deployment")["spec"]["template"]["spec"]
        first, server = pod["initContainers"][0], pod["containers"][0]
        assert "umask 077" in first["command"][-1]
        assert f"/run/fedfleet/{file}" in str(settings("fl-server", case)["server.toml"])
        mounted = {mount["mountPath"]: mount for mount in server["volumeMounts"]}
        assert mounted["/run/fedfleet"]["readOnly"] is True
        assert "/etc/fedfleet/secrets" not in mounted


def test_an_api_of_its_own_scales_and_is_where_routes_lead():
    made = manifests("fl-server", "api")
    scaler = only(made, "HorizontalPodAutoscaler")["spec"]
    assert scaler["scaleTargetRef"] == {"apiVersion": "apps/v1", "kind": "Deployment", "name": "fl-fl-server-api"}
    assert (scaler["minReplicas"], scaler["maxReplicas"]) == (3, 12)
    assert scaler["metrics"][0]["resource"]["target"]["averageUtilization"] == 60
    api, centre = only(made, "Deployment", "-api")["spec"], only(made, "Deployment", "fl-server")["spec"]
    # The scaler decides how many; never a moment without one. The centre itself stays one.
    assert "replicas" not in api
    assert api["strategy"]["rollingUpdate"]["maxUnavailable"] == 0
    assert (centre["replicas"], centre["strategy"]["type"]) == (1, "Recreate")
    (container,) = api["template"]["spec"]["containers"]
    assert "--beside=https://fl-fl-server:8444" in container["command"]
    assert any(one["name"] == "FEDFLEET_OIDC_SECRET" for one in container["env"])
    (path,) = only(made, "Ingress")["spec"]["rules"][0]["http"]["paths"]
    (backend,) = only(made, "HTTPRoute")["spec"]["rules"][0]["backendRefs"]
    assert path["backend"]["service"]["name"] == backend["name"] == "fl-fl-server-api"
    assert only(made, "PersistentVolumeClaim")["spec"]["accessModes"] == ["ReadWriteMany"]
    # Sites still reach the gateway in the centre's pod, and nothing else.
    assert only(made, "Service", "-gateway")["spec"]["selector"]["app.kubernetes.io/component"] == "server"
    policy = only(made, "NetworkPolicy", "fl-server")["spec"]["ingress"]
    (rule,) = [rule for rule in policy if rule["ports"][0]["port"] == 8444]
    labels = [peer["podSelector"]["matchLabels"] for peer in rule["from"] if "podSelector" in peer]
    assert [one["app.kubernetes.io/component"] for one in labels] == ["api"]
    old = only(manifests("fl-server", "api", ANCIENT), "HorizontalPodAutoscaler")
    assert old["apiVersion"] == "autoscaling/v2beta2"
    assert only(manifests("fl-server", "api-fixed"), "Deployment", "-api")["spec"]["replicas"] == 3
    assert not of_kind(manifests("fl-server", "api-fixed"), "HorizontalPodAutoscaler")


def test_monitoring_carries_the_files_of_the_server():
    documents = manifests("fl-server", "control")
    monitoring = charts.ROOT / "server" / "monitoring"
    assert only(documents, "PrometheusRule")["spec"] == yaml.safe_load((monitoring / "alerts.yaml").read_text())
    dashboard = only(documents, "ConfigMap", "-grafana")["data"]["fedfleet.json"]
    assert json.loads(dashboard) == json.loads((monitoring / "grafana.json").read_text())
    monitor = only(documents, "ServiceMonitor")["spec"]
    services = [one for one in of_kind(documents, "Service")
                if monitor["selector"]["matchLabels"].items() <= one["metadata"]["labels"].items()]  # fmt: skip
    (service,) = services
    assert monitor["endpoints"][0]["port"] in [port["name"] for port in service["spec"]["ports"]]
    # The alerts ask for this job.
    assert service["metadata"]["labels"][monitor["jobLabel"]] == "fedfleet"


def test_a_backup_runs_beside_the_centre_and_keeps_some():
    documents = manifests("fl-server", "control")
    spec = only(documents, "CronJob")["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    labels = only(documents, "Deployment")["spec"]["template"]["metadata"]["labels"]
    (term,) = spec["affinity"]["podAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    assert term["labelSelector"]["matchLabels"].items() <= labels.items()
    assert "tail -n +4" in spec["containers"][0]["command"][-1]
    assert only(manifests("fl-server", "control", ANCIENT), "CronJob")["apiVersion"] == "batch/v1beta1"


def test_every_option_of_the_site_arrives():
    found = settings("fl-site", "every-option")
    site, pods = load(SiteFile, found["site.toml"]), load(PodConfig, found["pods.toml"])
    assert (site.id, site.threads, site.time_s, site.outbox_mib) == ("clinic-7", 4, 3600, 1024)
    assert site.gateways == ("fl.example.org:8443", "[2001:db8::7]", "backup.example.org")
    assert pods.limits == {"cpu": "4", "memory": "16Gi", "nvidia.com/mig-1g.10gb": "2"}
    assert pods.node_selector == {"pool": "training", "nvidia.com/gpu.present": "true"}
    assert [one.get("tolerationSeconds") for one in pods.tolerations] == [120, None]
    assert (pods.runtime_class, pods.priority_class, pods.queue, pods.idle_s) == (
        "nvidia",
        "clinic-tasks",
        "clinic",
        30,
    )
    assert pods.mounts["data-scans"] == "/data/scans"
    assert pods.image == "registry.example.org/fl-site-cuda:0.1.0"


def test_a_gpu_is_a_limit_of_the_task_and_of_the_quota():
    for name in ("nvidia.com/gpu", "amd.com/gpu", "gpu.intel.com/i915", "nvidia.com/mig-1g.10gb"):
        options = ("--set", "gpu.count=1", "--set", f"gpu.resourceName={name}")
        pods = load(PodConfig, settings("fl-site", "minimal", NEWEST, *options)["pods.toml"])
        assert pods.limits[name] == "1"
        assert pods.has_gpu
        assert pods.keeps_s == 0
        quota = only(manifests("fl-site", "minimal", NEWEST, *options), "ResourceQuota")
        assert quota["spec"]["hard"][f"requests.{name}"] == "1"


def test_a_claim_takes_the_place_of_a_limit():
    documents = manifests("fl-site", "dra")
    template = only(documents, "ResourceClaimTemplate")
    pods = load(PodConfig, settings("fl-site", "dra")["pods.toml"])
    assert pods.claims == {"gpu": template["metadata"]["name"]}
    assert "nvidia.com/gpu" not in pods.limits
    assert load(PodConfig, settings("fl-site", "dra-own-claims")["pods.toml"]).claims == {"card": "clinic-card"}


# Who may what, and who reaches whom.


def test_a_site_may_write_one_secret_and_make_task_pods():
    documents = manifests("fl-site")
    own, tasks = only(documents, "Role", "fl-site"), only(documents, "Role", "-runner")
    assert own["metadata"]["namespace"] == "fl-system"
    assert own["rules"] == [
        {"apiGroups": [""], "resources": ["secrets"], "resourceNames": ["fl-site-identity"], "verbs": ["get", "patch"]}
    ]
    assert tasks["metadata"]["namespace"] == "fl-tasks"
    assert {(verb, rule["resources"][0]) for rule in tasks["rules"] for verb in rule["verbs"]} == {
        *((verb, "pods") for verb in ("create", "get", "list", "delete")),
        ("create", "secrets"), ("list", "events"), ("get", "serviceaccounts"),
    }  # fmt: skip
    account = only(documents, "ServiceAccount", "fl-site")["metadata"]["name"]
    for binding in of_kind(documents, "RoleBinding"):
        assert [(one["name"], one["namespace"]) for one in binding["subjects"]] == [(account, "fl-system")]
    # With mode warm nothing is made elsewhere.
    warm = manifests("fl-site", "warm")
    assert {one["metadata"].get("namespace", "fl-system") for one in warm} == {"fl-system"}
    assert not of_kind(warm, "Namespace")


def test_only_what_joins_sees_the_token():
    spec = only(manifests("fl-site"), "Deployment")["spec"]["template"]["spec"]
    seen = [
        one["name"]
        for one in [*spec["initContainers"], *spec["containers"]]
        for mount in one["volumeMounts"]
        if mount["name"] == "join"
    ]
    assert seen == ["enrol"]
    volume = next(one for one in spec["volumes"] if one["name"] == "join")
    assert volume["secret"]["optional"] is True
    assert volume["secret"]["secretName"] == "fl-site-join"


def test_a_site_goes_out_to_dns_its_gateway_and_its_api_server_only():
    policies = of_kind(manifests("fl-site", "every-option"), "NetworkPolicy")
    for namespace in ("fl-system", "clinic-tasks"):
        deny = next(one for one in policies if one["metadata"]["name"].endswith("-deny")
                    and one["metadata"]["namespace"] == namespace)  # fmt: skip
        assert set(deny["spec"]) == {"podSelector", "policyTypes"}
    site = next(one for one in policies if one["metadata"]["name"] == "clinic")["spec"]["egress"]
    to = [
        ([peer["ipBlock"]["cidr"] for peer in rule.get("to", ())], sorted({port["port"] for port in rule["ports"]}))
        for rule in site
    ]
    expected = [([], [53, 5353]), (["203.0.113.7/32"], [3128]), (["10.152.183.1/32"], [443])]
    assert to == [*expected, (["198.51.100.0/24"], [123])]
    # Without a proxy the ports are the gateways'.
    options = ("--set", "gateway.addresses={a.example:8443,[::1]:9000,b.example,[::2]}")
    direct = only(manifests("fl-site", "minimal", NEWEST, *options), "NetworkPolicy", "fl-site")["spec"]["egress"][1]
    assert [port["port"] for port in direct["ports"]] == [8443, 9000, 443]


def test_task_pods_reach_the_runner_and_nothing_else():
    documents = manifests("fl-site")
    tasks = only(documents, "NetworkPolicy", "-tasks")["spec"]
    (rule,) = tasks["egress"]
    assert "ingress" not in tasks
    assert rule["ports"] == [{"port": 9443, "protocol": "TCP"}]
    site = only(documents, "NetworkPolicy", "fl-site")["spec"]
    let_in = next(one for one in site["ingress"] if one["ports"][0]["port"] == 9443)
    # What the policy lets in is what the runner calls its pods.
    assert let_in["from"][0]["podSelector"]["matchLabels"] == tasks["podSelector"]["matchLabels"]
    labels = only(documents, "Deployment")["spec"]["template"]["metadata"]["labels"]
    assert rule["to"][0]["podSelector"]["matchLabels"].items() <= labels.items()


def test_the_runner_labels_its_pods_as_the_policies_expect():
    from edge.runner import pod_spec

    config = load(PodConfig, settings("fl-site")["pods.toml"])
    wanted = pod_spec.Wanted(name="x", site="clinic-1", digest="d" * 64, address="h:1", home="/home", life_s=1)
    pod = pod_spec.pod(config, wanted, pod_spec.Owner("ServiceAccount", config.owner, "uid"))
    policy = only(manifests("fl-site"), "NetworkPolicy", "-tasks")["spec"]
    assert policy["podSelector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()
    assert pod["metadata"]["namespace"] == policy.get("namespace", "fl-tasks")


def test_the_centre_calls_nobody_and_has_no_rights():
    documents = manifests("fl-server")
    assert not of_kind(documents, "Role")
    policy = only(documents, "NetworkPolicy", "fl-server")["spec"]
    assert [sorted({port["port"] for port in rule["ports"]}) for rule in policy["egress"]] == [[53]]
    gateway = only(documents, "Service", "-gateway")["spec"]
    assert [port["targetPort"] for port in gateway["ports"]] == ["gateway"]


def test_a_setting_that_changes_restarts_the_pod():
    def checksum(*options):
        found = only(manifests("fl-site", "minimal", NEWEST, *options), "Deployment")
        return found["spec"]["template"]["metadata"]["annotations"]["checksum/config"]

    assert checksum() != checksum("--set", "site.threads=3")
    assert checksum() == checksum("--set", "storage.size=9Gi")


def test_another_source_of_data_is_another_volume():
    def names(path):
        documents = manifests("fl-site", "minimal", NEWEST, "--set", f"data[0].name=scans,data[0].hostPath={path}")
        return {one["metadata"]["name"] for one in of_kind(documents, "PersistentVolume")}

    assert len(names("/srv/a") | names("/srv/b")) == 2
    assert names("/srv/a") == names("/srv/a")


# What is refused says what, where, and what to write.


@pytest.mark.parametrize(
    ("chart", "options", "words"),
    [
        ("fl-site", ["image.tag=latest"], "image.tag is latest, which may be another image tomorrow"),
        ("fl-site", ["tasks.image.tag=latest"], "tasks.image.tag is latest"),
        ("fl-server", ["image.tag=latest"], "image.tag is latest"),
        ("fl-site", ["image.repository="], "image/repository"),
        ("fl-site", ["image.digest=sha256:12"], "image/digest"),
        ("fl-site", ["site.idd=x"], "idd"),
        ("fl-site", ["gpus.count=1"], "gpus"),
        ("fl-server", ["superlink.replicas=2"], "superlink"),
        ("fl-site", ["site.id="], "site.id is empty: the site's id, as in fl site add ID"),
        ("fl-site", ["site.id=a b"], "site.id is \"a b\""),
        ("fl-site", ["gateway.addresses=null"], "missing property 'addresses'"),
        ("fl-site", ["identity.privateKey=x"], "privateKey"),
        ("fl-site", ["tasks.namespace.name=fl-system"], "the namespace of the site's keys"),
        ("fl-site", ["data[0].name=a,data[0].hostPath=/a,data[0].readOnly=false"], "readOnly"),
        ("fl-site", ["data[0].name=a"], "data/0"),
        ("fl-site", ["data[0].name=a,data[0].hostPath=/a,data[1].name=a,data[1].hostPath=/b"], "two entries"),
        ("fl-site", ["gpu.resourceName=gpu"], "resourceName"),
        ("fl-server", ["rosterAuthority.keyHere=false"], "rosterAuthority.publicKey is empty: fl roster init"),
        ("fl-server", ["control.enabled=false,control.ingress.enabled=true"], "control.enabled is false"),
        ("fl-server", ["control.ingress.enabled=true"], "control.ingress.host is empty"),
        ("fl-server", ["control.api.enabled=true"], "control.api needs PostgreSQL"),
        ("fl-server", ["control.api.enabled=true,store.existingSecret=x"], "control.api needs a volume that all nodes"),
        ("fl-server", ["control.enabled=false,control.api.enabled=true"], "control.api stands beside the control room"),
        ("fl-server", ["control.api.enabled=true,store.existingSecret=x,storage.accessMode=ReadWriteMany,"
                       "control.api.autoscaling.minReplicas=9"], "minReplicas is more than maxReplicas"),
        ("fl-server", ["backup.kep=1"], "kep"),
        ("fl-server", ["ingress.enabled=true"], "ingress.host is empty"),
        ("fl-server", ["gatewayApi.enabled=true"], "gatewayApi.host is empty"),
        ("fl-server", ["settings.addresses={a:1}"], "it has a value of its own, addresses"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else None,
)  # fmt: skip
def test_bad_values_are_refused(chart, options, words):
    assert words in refusal(chart, *(word for option in options for word in ("--set", option)))


def test_claims_are_refused_where_the_api_has_none():
    said = refusal("fl-site", "--set", "gpu.mode=dra,gpu.count=1", version="1.33.0")
    assert "gpu.mode is dra, which needs Kubernetes 1.34; this is v1.33.0" in said


def test_the_chart_takes_what_the_fleet_writes(tmp_path):
    from types import SimpleNamespace

    from edge.fleet.manifest import Image
    from edge.fleet.site_config import MountConfig
    from edge.fleet.wanted import chart_values

    fleet = SimpleNamespace(
        gateway=SimpleNamespace(addresses=("fl.example.org:443",), proxy="http://proxy.example:3128")
    )
    data = (MountConfig(name="scans", path="/srv/scans"),)
    site = SimpleNamespace(id="clinic-9", gpu=SimpleNamespace(count=1), data=data, values={})
    digest = f"sha256:{'d' * 64}"
    images = [
        Image(reference=f"localhost/{name}:0.1.0", digest=digest, media_type="x", size_bytes=1, value=value, blobs=())
        for name, value in (("fl-site", "image"), ("fl-site-torch", "tasks.image"))
    ]
    values = tmp_path / "values.yaml"
    values.write_text(yaml.safe_dump(chart_values(fleet, site, tuple(images))))
    documents = manifests("fl-site", "minimal", NEWEST, "--values", str(values))
    found = settings("fl-site", "minimal", NEWEST, "--values", str(values))
    assert found["site.toml"]["id"] == "clinic-9"
    assert found["pods.toml"]["image"] == f"localhost/fl-site-torch@{digest}"
    assert found["pods.toml"]["runtime_class"] == "nvidia"
    assert only(documents, "PersistentVolume")["spec"]["hostPath"]["path"] == "/srv/scans"
