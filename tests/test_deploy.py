"""The manifests and scripts in `deploy/`: what they run is run here against stand-ins, and read by the real parsers."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from phalanx.cli import chaos, join, ranks, scale, serve
from phalanx.cli.options import Given
from phalanx.cli.secret import SHORTEST
from phalanx.supervisor import activation
from phalanx.supervisor.events import ExitCode

DEPLOY = Path(__file__).parent.parent / "deploy"
KUBERAY, STATEFULSET, SLURM, DOCKERFILE = (
    DEPLOY / "kuberay" / "phalanx.yaml",
    DEPLOY / "statefulset" / "phalanx.yaml",
    DEPLOY / "slurm" / "phalanx.sbatch",
    DEPLOY / "Dockerfile",
)
MANIFESTS = (KUBERAY, STATEFULSET)
Object = dict[str, Any]

STAND_IN = f"""#!{sys.executable}
import json, os, sys
name = os.path.basename(sys.argv[0])
if name == "scontrol":
    print(*os.environ["NODES"].split(","), sep="\\n")
elif name == "srun":
    options = [word for word in sys.argv[1:] if word.startswith("--n")][:3]
    os.environ["ON"] = options[-1].removeprefix("--nodelist=")
    os.execvp(sys.argv[len(options) + 1], sys.argv[len(options) + 1:])
else:
    call = {{"line": [name, *sys.argv[1:]]}}
    call |= {{"on": os.environ.get("ON", ""), "secret": os.environ.get("PHALANX_SECRET", "")}}
    with open(os.environ["CALLS"], "a") as calls:
        print(json.dumps(call), file=calls)
    sys.exit(int(os.environ.get("STATUS", 0)) if sys.argv[1] == "serve" else 0)
"""


def objects(manifest: Path) -> list[Object]:
    return [found for found in yaml.safe_load_all(manifest.read_text()) if found]


def templates(manifest: Path) -> Iterator[tuple[str, Object]]:
    """Every pod template, with who makes its pods."""
    for each in objects(manifest):
        spec = each.get("spec", {})
        if each["kind"] == "RayCluster":
            yield "head", spec["headGroupSpec"]["template"]
            for group in spec["workerGroupSpecs"]:
                yield group["groupName"], group["template"]
        elif "template" in spec:
            yield each["kind"], spec["template"]


def containers(manifest: Path) -> Iterator[tuple[str, Object]]:
    for maker, template in templates(manifest):
        for container in template["spec"]["containers"]:
            yield maker, container


class Calls:
    """Runs a container's or a script's commands with stand-ins for the programs they start."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._calls = folder / "calls"
        for name in ("phalanx", "ray", "srun", "scontrol"):
            program = folder / name
            program.write_text(STAND_IN)
            program.chmod(0o755)

    def of(self, command: list[str], environment: dict[str, str], *, status: int = 0) -> list[Object]:
        """What was started by it, in order."""
        self._calls.write_text("")
        paths = f"{self._folder}:{os.environ['PATH']}"
        run = subprocess.run(
            command,
            env={"PATH": paths, "CALLS": str(self._calls), **environment},
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert run.returncode == status, run.stderr
        return [json.loads(line) for line in self._calls.read_text().splitlines()]


def disturbed(call: Object) -> Any:
    own, behind = chaos._split(call["line"][2:])
    return chaos.plan(chaos._parser().parse(own), behind)


@pytest.fixture
def calls(tmp_path: Path) -> Calls:
    return Calls(tmp_path)


def environment_of(container: Object, **further: str) -> dict[str, str]:
    """Secrets and fields of the pod get a value of their own name."""
    return {each["name"]: each.get("value", "x" * SHORTEST) for each in container.get("env", ())} | further


def served(call: Object) -> Given:
    program, command, *flags = call["line"]
    assert (program, command) == ("phalanx", "serve")
    return serve.parse(flags)


def moved(call: Object) -> dict[str, Any]:
    _, command, *flags = call["line"]
    return ranks.parse(flags)[1] if command == "ranks" else scale.request(scale.scale_parser().parse(flags))


def joined(call: Object) -> dict[str, Any]:
    program, command, *flags = call["line"]
    assert (program, command) == ("phalanx", "join")
    given = join._parser().parse(flags)
    given["control"] = join.control_address(given["control"])
    return given


# --- what is run ----------------------------------------------------------------------------------


def test_the_service_on_ray_puts_a_rank_on_every_gpu_of_the_cluster(calls: Calls) -> None:
    pytest.importorskip("ray")
    cluster = next(each for each in objects(KUBERAY) if each["kind"] == "RayCluster")
    (group,) = cluster["spec"]["workerGroupSpecs"]
    (container,) = [container for maker, container in containers(KUBERAY) if maker == "Deployment"]
    started, service = calls.of([*container["command"], *container["args"]], environment_of(container))
    assert started["line"][:2] == ["ray", "start"]
    head = f"{cluster['metadata']['name']}-head-svc:6379"
    assert f"--address={head}" in started["line"]
    given = served(service)
    parallel = given.options.parallel
    assert parallel.ray_address == head
    assert parallel.data_parallel_address == "x" * SHORTEST  # the pod's own
    gpus = int(group["rayStartParams"]["num-gpus"])
    (worker,) = group["template"]["spec"]["containers"]
    assert worker["resources"]["limits"]["nvidia.com/gpu"] == gpus == parallel.data_parallel_size_local
    assert group["replicas"] == group["minReplicas"] == group["maxReplicas"]
    assert parallel.data_parallel_size == group["replicas"] * gpus
    check_http(given, container)


def test_every_pod_of_the_ray_cluster_has_the_token_and_the_same_image_and_release() -> None:
    ray = pytest.importorskip("ray")
    cluster = next(each for each in objects(KUBERAY) if each["kind"] == "RayCluster")
    assert cluster["spec"]["rayVersion"] == ray.__version__
    found = list(containers(KUBERAY))
    assert {maker for maker, _ in found} == {"head", "gpu", "Deployment"}
    for _, container in found:
        token = {each["name"]: each for each in container["env"] if each["name"].startswith("RAY_AUTH")}
        assert token["RAY_AUTH_MODE"]["value"] == "token"
        assert token["RAY_AUTH_TOKEN"]["valueFrom"]["secretKeyRef"] == {"name": "phalanx-ray", "key": "auth_token"}
        assert {"name": "shm", "mountPath": "/dev/shm"} in container["volumeMounts"]


def test_the_pods_of_the_stateful_set_bring_every_rank_once(calls: Calls) -> None:
    (container,) = [container for _, container in containers(STATEFULSET)]
    by_kind = {(each["kind"], each["metadata"]["name"]): each for each in objects(STATEFULSET)}
    pods = by_kind["StatefulSet", "phalanx"]["spec"]
    command = [*container["command"], *container["args"]]
    assert environment_of(container)["PODS"] == str(pods["replicas"])
    (first,) = calls.of(command, environment_of(container, HOSTNAME="phalanx-0"))
    given = served(first)
    parallel = given.options.parallel
    check_http(given, container)
    ranks = list(range(parallel.local_ranks))
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert parallel.data_parallel_rpc_port == ports["control"]
    for number in range(1, pods["replicas"]):
        (other,) = calls.of(command, environment_of(container, HOSTNAME=f"phalanx-{number}"))
        node = joined(other)
        name = f"{by_kind['StatefulSet', 'phalanx']['metadata']['name']}-0.{pods['serviceName']}"
        assert node["control"] == f"tcp:{name}:{ports['control']}"
        start, count = int(node["data_parallel_start_rank"]), int(node["data_parallel_size_local"])
        ranks += range(start, start + count)
    assert ranks == list(range(parallel.data_parallel_size))
    assert parallel.api_servers_per_node, "every pod's probes ask for its own API servers"


def test_the_stateful_set_does_not_wait_for_itself() -> None:
    """Pod 0 is not ready before the others have joined, and those find it by a name of the headless service."""
    by_kind = {(each["kind"], each["metadata"]["name"]): each for each in objects(STATEFULSET)}
    pods = by_kind["StatefulSet", "phalanx"]["spec"]
    assert pods["podManagementPolicy"] == "Parallel"
    names = by_kind["Service", pods["serviceName"]]["spec"]
    assert names["clusterIP"] == "None"
    assert names["publishNotReadyAddresses"] is True


@pytest.mark.parametrize("nodes", [["a1"], ["a1", "a2", "b7"]])
def test_the_slurm_job_brings_every_rank_once_and_ends_with_the_service(nodes: list[str], calls: Calls) -> None:
    environment = {"NODES": ",".join(nodes), "SLURM_JOB_NODELIST": "a[1-2],b7", "RANKS_PER_NODE": "4"}
    found = calls.of([str(SLURM), "org/name", "--max-num-seqs", "7"], environment)
    (first,) = [call for call in found if call["line"][1] == "serve"]
    given = served(first)
    assert first["on"] == nodes[0]
    assert given.options.model.model == "org/name"
    assert given.options.engine.max_num_seqs == 7
    parallel = given.options.parallel
    ranks = list(range(parallel.local_ranks))
    others = sorted((call for call in found if call is not first), key=lambda call: call["on"])
    assert [call["on"] for call in others] == nodes[1:]
    for call in others:
        node = joined(call)
        assert node["control"] == f"tcp:{nodes[0]}:{parallel.data_parallel_rpc_port}"
        start = int(node["data_parallel_start_rank"])
        ranks += range(start, start + int(node["data_parallel_size_local"]))
    assert ranks == list(range(parallel.data_parallel_size))
    secrets = {call["secret"] for call in found}
    assert len(secrets) == 1
    assert len(secrets.pop()) >= SHORTEST
    assert not any("SECRET" in word for call in found for word in call["line"])


def test_the_slurm_jobs_status_is_the_services(calls: Calls) -> None:
    environment = {"NODES": "a1,a2", "SLURM_JOB_NODELIST": "a[1-2]", "STATUS": "3"}
    assert len(calls.of([str(SLURM), "org/name"], environment, status=3)) == 2


def test_the_slurm_job_says_how_it_is_to_be_started(calls: Calls) -> None:
    assert calls.of([str(SLURM)], {"NODES": "a", "SLURM_JOB_NODELIST": "a"}, status=1) == []


def test_scripts_are_shell() -> None:
    subprocess.run(["bash", "-n", SLURM], check=True)
    for manifest in MANIFESTS:
        for _, container in containers(manifest):
            if "args" in container:
                assert container["command"] == ["/bin/sh", "-c"]
                subprocess.run(["/bin/sh", "-n", "-c", *container["args"]], check=True)
    if shellcheck := shutil.which("shellcheck"):
        subprocess.run([shellcheck, SLURM], check=True)


# --- what belongs together ------------------------------------------------------------------------


def check_http(given: Given, container: Object) -> None:
    """It listens where probes and services ask."""
    http = given.options.http
    assert http.host == "0.0.0.0", "a pod's address is not its loopback"
    assert {"name": "http", "containerPort": http.port} in container["ports"]
    asked = {kind: container[kind]["httpGet"] for kind in ("startupProbe", "readinessProbe", "livenessProbe")}
    assert {get["port"] for get in asked.values()} == {"http"}
    assert asked["readinessProbe"]["path"] == "/ready"
    assert asked["livenessProbe"]["path"] == "/health"


@pytest.mark.parametrize("manifest", MANIFESTS, ids=lambda path: path.parent.name)
def test_a_service_finds_its_pods_and_their_ports(manifest: Path) -> None:
    services = [each for each in objects(manifest) if each["kind"] == "Service"]
    assert services
    for service in services:
        wanted = service["spec"]["selector"]
        (chosen,) = [
            template
            for _, template in templates(manifest)
            if wanted.items() <= template["metadata"].get("labels", {}).items()
        ]
        names = {port["name"] for container in chosen["spec"]["containers"] for port in container["ports"]}
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= names
    for each in objects(manifest):
        if each["kind"] in ("Deployment", "StatefulSet"):
            spec = each["spec"]
            assert spec["selector"]["matchLabels"].items() <= spec["template"]["metadata"]["labels"].items()


@pytest.mark.parametrize("manifest", MANIFESTS, ids=lambda path: path.parent.name)
def test_every_secret_is_made_by_the_commands_in_the_head_of_the_file(manifest: Path) -> None:
    text = manifest.read_text()
    made = " ".join(line.strip("#\\ ") for line in text.splitlines() if line.startswith("#"))
    asked = [
        each["valueFrom"]["secretKeyRef"]
        for _, container in containers(manifest)
        for each in container["env"]
        if "secretKeyRef" in each.get("valueFrom", {})
    ]
    assert asked
    for reference in asked:
        command = made.partition(f"create secret generic {reference['name']} ")[2].partition("kubectl")[0]
        assert f"--from-literal={reference['key']}=" in command
    assert "kind: Secret" not in text, "a secret in a file that is committed is none"


@pytest.mark.parametrize("manifest", MANIFESTS, ids=lambda path: path.parent.name)
def test_volumes_exist_and_there_is_time_to_end(manifest: Path) -> None:
    for _, template in templates(manifest):
        volumes = {volume["name"] for volume in template["spec"].get("volumes", ())}
        for container in template["spec"]["containers"]:
            assert {mount["name"] for mount in container.get("volumeMounts", ())} <= volumes
            if "lifecycle" in container:
                (_, pause) = container["lifecycle"]["preStop"]["exec"]["command"]
                # Our own --shutdown-timeout, and what the Ray driver gets beside.
                assert template["spec"]["terminationGracePeriodSeconds"] >= int(pause) + 10 + 10


def unit(name: str) -> dict[str, list[str]]:
    """A unit file's settings, each with all its values."""
    found: dict[str, list[str]] = {}
    for line in (DEPLOY / "systemd" / name).read_text().splitlines():
        if "=" in line and not line.startswith("#"):
            setting, _, value = line.partition("=")
            found.setdefault(setting, []).append(value)
    return found


def test_systemd_passes_each_api_server_a_socket_and_gives_it_time() -> None:
    sockets, service = unit("phalanx.socket"), unit("phalanx.service")
    (command,) = service["ExecStart"]
    program, *words = shlex.split(command)
    given = served({"line": [Path(program).name, *words]})
    assert not {"host", "port"} & given.origins.keys(), "the sockets say where"
    assert len(sockets["ListenStream"]) == given.options.parallel.own_api_servers
    assert len(set(sockets["ListenStream"])) == 1
    assert (sockets["ReusePort"], sockets["FileDescriptorName"]) == (["yes"], [activation.NAME])
    assert service["Requires"] == ["phalanx.socket"]
    assert service["Type"] == ["notify"]
    assert service["KillMode"] == ["mixed"], "ranks must not get the supervisor's SIGTERM"
    assert service["OOMPolicy"] == ["continue"], "a rank's death is not the service's"
    assert set(service["RestartPreventExitStatus"][0].split()) == {str(int(ExitCode.USAGE)), str(int(ExitCode.ADDRESS))}
    timeouts = given.options.service
    assert int(service["TimeoutStopSec"][0]) > timeouts.drain_timeout + timeouts.shutdown_timeout
    page = (ROOT / "docs" / "systemd.md").read_text()
    for setting in ("TimeoutStartSec", "TimeoutStopSec", "WatchdogSec", "RestartPreventExitStatus"):
        assert f"`{setting}={service[setting][0]}`" in page


def test_all_name_the_image_that_the_dockerfile_is_for() -> None:
    images = {container["image"] for manifest in MANIFESTS for _, container in containers(manifest)}
    (image,) = images
    assert f"-t {image} ." in DOCKERFILE.read_text()
    copied = [line.split()[1:-1] for line in DOCKERFILE.read_text().splitlines() if line.startswith("COPY ")]
    ours = [name for names in copied for name in names if not name.startswith("-") and not name.startswith("/")]
    assert ours
    assert all((DEPLOY.parent / name).exists() for name in ours)


# --- what pages say -------------------------------------------------------------------------------

ROOT = DEPLOY.parent
FOLDERS = ("benchmarks", "deploy", "examples", "frontends/tokens-rs", "tools/demo_model")
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *(ROOT / folder / "README.md" for folder in FOLDERS)])


def commands_on(page: Path) -> Iterator[list[str]]:
    """The words of each `phalanx ...` line in its code blocks, comments left out."""
    for block in re.findall(r"^```\w*\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            found = re.match(r"(?:\.venv/bin/)?phalanx (serve|join|chaos|ranks|scale)( .*)?$", line.strip())
            if found and "--help" not in line:
                yield shlex.split(found[0], comments=True)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_command_on_a_page_is_one_that_the_program_takes(page: Path, tmp_path: Path) -> None:
    for words in commands_on(page):
        if "--frontend-command" in words:
            # The program is the reader's own, or not built yet.
            place = words.index("--frontend-command") + 1
            words[place] = sys.executable
        for place, word in enumerate(words):
            if word.endswith("-key-file"):
                words[place + 1] = str(tmp_path / f"keys-{place}")
                Path(words[place + 1]).write_text(f"key-{place}\n")
        if "ray" in words:
            pytest.importorskip("ray")
        call = {"line": ["phalanx", *words[1:]]}
        _ = {"serve": served, "join": joined, "chaos": disturbed, "ranks": moved, "scale": moved}[words[1]](call)


def test_there_are_commands_on_the_pages() -> None:
    found = [words[1] for page in PAGES for words in commands_on(page)]
    assert found.count("serve") >= 8
    assert found.count("join") >= 2
    assert found.count("chaos") >= 2
    assert found.count("ranks") >= 4
    assert found.count("scale") >= 2


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", page.read_text()):
        path, _, anchor = target.partition("#")
        there = page.parent / path if path else page
        assert there.exists(), target
        assert not anchor or anchor in anchors_of(there), target


def anchors_of(page: Path) -> set[str]:
    """What can stand behind the `#` of a link: the headings of a page, as forges write them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_test_that_is_named_exists(page: Path) -> None:
    for file, _, name in re.findall(r"`(tests/[\w/]+\.py)(::(\w+))?`", page.read_text()):
        assert (ROOT / file).is_file(), file
        assert not name or f"def {name}(" in (ROOT / file).read_text(), name
