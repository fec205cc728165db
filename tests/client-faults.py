#!/usr/bin/env python3
"""Measures how clients of a registry handle wrong responses, and writes the tables of client-faults.md.

    tests/client-faults.py [--client TEXT] [--rule TEXT] [DIRECTORY [STEP...]]

It needs a Debian machine, root, debootstrap, the program (cargo build --release), and the packages docker.io,
containerd, podman, skopeo and buildah. DIRECTORY (by default /var/tmp/quinistry-client-faults) keeps what is slow to
make. Delete it to start over. The steps are as follows. By default, all are run.

    chroot   make a Debian sid in DIRECTORY with the current version of each client; done once
    measure  pull with each client under each rule of --fault, and write DIRECTORY/runs.json; 10 minutes
    table    write the tables into client-faults.md, between its two marks

A fourth step, `show`, prints each run: the requests, the last message, and the files that are left. --client and --rule
limit `measure` and `show` to the clients and rules whose names contain TEXT.

A run starts a server with the rules, and the client with an empty store. The run records the lines of the server's log
with the time at which each one arrives, the client's output, and the files that the client leaves. If the first pull
fails and only a first response was wrong, the client pulls again. All runs share one namespace for networks, mounts and
processes, whose only network is the loopback interface. When this namespace ends, so does everything that was started
or mounted in it. Many runs are in progress at once, because most clients only wait.

Deliberately absent: TLS, passwords, pushes, and Kubernetes' interface to containerd (CRI).
"""

import argparse
import collections
import concurrent.futures
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

TESTS = Path(__file__).resolve().parent
QUINISTRY = TESTS.parent / "target/release/quinistry"
DOCUMENT = TESTS / "client-faults.md"
MARKS = "<!-- The tables: tests/client-faults.py writes them. -->\n", "<!-- The end of the tables. -->\n"
STEPS = ["chroot", "measure", "table"]

# The maximum time of a pull, in seconds. podman's retries after 429 take 124.
LIMIT = 150
# How many runs are in progress at once.
CROWD = 24
# The shortest pause between two requests that a table shows, in seconds. The machine may cause shorter ones.
PAUSE = 0.15
# The number of bytes that are appended to the program, to make its layer larger. Field note: containers/image resumes a
# download for the second time only if it has received 1 MiB since the first (bodyReaderMinimumProgress). A small
# layer would hide this.
PADDING = 3 << 20
# The size in bytes above which a file that a client leaves can only be a part of the layer.
LARGE = 10_000

# --- The clients


@dataclass
class Client:
    """A client, its Debian package, whether the package is sid's or this machine's, and the client's commands."""

    name: str
    package: str
    sid: bool
    pull: str
    daemon: str = ""
    ready: str = ""

    def key(self):
        return f"{self.name} ({'sid' if self.sid else 'here'})"


def docker(name, sid, more):
    command = "docker --host unix://{dir}/socket "
    daemon = (
        "dockerd --config-file {dir}/config --data-root {dir}/data --exec-root {dir}/exec --pidfile {dir}/pid"
        " --host unix://{dir}/socket --bridge=none --iptables=false --ip6tables=false " + more
    )
    pull = command + "pull 127.0.0.1:{port}/quinistry"
    return Client(name, "docker.io", sid, pull, daemon, command + "version")


def containerd(sid):
    command = "ctr --address {dir}/socket "
    daemon = "containerd --config {dir}/config --root {dir}/data --state {dir}/exec --address {dir}/socket"
    pull = command + "images pull --plain-http 127.0.0.1:{port}/quinistry:latest"
    return Client("containerd", "containerd", sid, pull, daemon, command + "version")


def containers(name, sid):
    store = "--root {dir}/data --runroot {dir}/exec --storage-driver vfs"
    return Client(name, name, sid, f"{name} {store} pull --tls-verify=false 127.0.0.1:{{port}}/quinistry")


def skopeo(sid):
    pull = "skopeo copy --src-tls-verify=false docker://127.0.0.1:{port}/quinistry:latest dir:{dir}/data"
    return Client("skopeo", "skopeo", sid, pull)


def oras():
    pull = "oras copy --no-tty --from-plain-http 127.0.0.1:{port}/quinistry:latest --to-oci-layout {dir}/data:latest"
    return Client("oras", "oras", True, pull)


ENGINES = [
    docker("docker", False, "--storage-driver vfs"),
    docker("docker", True, "--storage-driver vfs"),
    docker("docker with containerd's store", True, "--storage-driver native --feature containerd-snapshotter=true"),
    containerd(False),
    containerd(True),
]
TOOLS = [
    *[containers("podman", sid) for sid in (False, True)],
    *[containers("buildah", sid) for sid in (False, True)],
    *[skopeo(sid) for sid in (False, True)],
    Client("crane", "crane", True, "crane pull 127.0.0.1:{port}/quinistry {dir}/data.tar"),
    oras(),
]
CLIENTS = ENGINES + TOOLS

# --- The rules

RIGHT = ""
RULES = [
    RIGHT,
    *"base=401 base=403 base=404 base=429 base=500 base=503".split(),
    *"index=401 index=403 index=404 index=429 index=429:7@first:1 index=500 index=502 index=503".split(),
    *"index=503@first:1 index=cut index=stall index=reset index=flip@first:1 index=flip".split(),
    *"index=wrong-digest index=wrong-type index=no-length index=redirect".split(),
    *"manifest=404 manifest=429 manifest=500 manifest=503 manifest=cut manifest=flip@first:1 manifest=flip".split(),
    *"manifest=wrong-digest manifest=wrong-type".split(),
    *"config=503 config=cut config=flip@first:1 config=flip".split(),
    *"layer=401 layer=403 layer=404 layer=429 layer=429:7@first:1 layer=500 layer=502 layer=503".split(),
    *"layer=503:7@first:1 layer=504 layer=cut@first:1".split(),
    "layer=cut@first:1 layer=no-range",
    *"layer=cut layer=reset@first:1 layer=reset layer=stall layer=flip@first:1 layer=flip".split(),
    *"layer=wrong-digest layer=wrong-type layer=no-length layer=redirect any=auth any=slow:256k".split(),
]
# The rules in the table of messages, and those in the table of files.
TELLING = ["layer=cut", "layer=flip", "layer=429", "layer=503"]
LEAVING = ["layer=cut", "layer=flip", "config=503"]

# --- The chroot


def run(*command, **more):
    return subprocess.run([str(word) for word in command], check=True, **more)


def output_of(*command):
    return run(*command, capture_output=True, text=True).stdout


def give_settings(sid):
    """Copies into the chroot what this machine needs to reach its mirror."""
    shutil.copy("/etc/resolv.conf", sid / "etc/resolv.conf")
    lines = output_of("apt-config", "dump").splitlines(keepends=True)
    wanted = [line for line in lines if re.match(r"Acquire::(https?::|Retries|ForceIPv)", line)]
    # A mirror whose index has expired is accepted, because it still has a package of each client.
    wanted.append('Acquire::Check-Valid-Until "false";\n')
    (sid / "etc/apt/apt.conf.d/90machine").write_text("".join(wanted))
    bundle = os.environ.get("SSL_CERT_FILE", "/etc/ssl/certs/ca-certificates.crt")
    (sid / "etc/ssl/certs").mkdir(exist_ok=True, parents=True)
    if Path(bundle).exists():
        shutil.copy(bundle, sid / "etc/ssl/certs/ca-certificates.crt")


def make_chroot(folder):
    sid = folder / "sid"
    if (sid / "ready").exists():
        return
    targets = output_of("apt-get", "indextargets", "--format", "$(REPO_URI) $(ORIGIN) $(LABEL)", "Created-By: Packages")
    mirror = re.search(r"^(\S+) Debian Debian$", targets, re.MULTILINE)
    if not mirror:
        sys.exit("client-faults.py: apt knows no Debian mirror; try apt-get update")
    run("rm", "-rf", "--one-file-system", sid)
    run("debootstrap", "--variant=minbase", "sid", sid, mirror[1])
    give_settings(sid)
    # This script keeps the packages from starting their daemons.
    (sid / "usr/sbin/policy-rc.d").write_text("#!/bin/sh\nexit 101\n")
    (sid / "usr/sbin/policy-rc.d").chmod(0o755)
    packages = " ".join(sorted({client.package for client in CLIENTS if client.sid} | {"docker-cli"}))
    install = f"mount -t proc proc /proc && apt-get update && apt-get install -y --no-install-recommends {packages}"
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    run("unshare", "--mount", "chroot", sid, "sh", "-c", install, env=environment)
    (sid / "ready").touch()


# --- A run


class Server:
    """A server under test, and the lines of its log, each with its time."""

    def __init__(self, program, rules, port):
        faults = [word for rule in rules.split() for word in ("--fault", rule)]
        command = [program, "--listen", f"127.0.0.1:{port}", *faults]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        self.lines = []
        self.listens = threading.Event()
        self.reader = threading.Thread(target=self.read)
        self.reader.start()
        if not self.listens.wait(20):
            raise RuntimeError(f"the server does not start with {rules}: {self.lines}")

    def read(self):
        for line in self.process.stdout:
            self.lines.append((time.monotonic(), line.rstrip()))
            if line.startswith("Listening"):
                self.listens.set()

    def stop(self):
        """Ends the server, and returns its log."""
        self.process.terminate()
        self.process.wait()
        self.reader.join()
        return self.lines


class Run:
    """One client and one sequence of rules, with their own directory and port."""

    def __init__(self, folder, client, rules, number):
        self.sid, self.client, self.rules = folder / "sid", client, rules
        self.dir, self.port = folder / "runs" / str(number), 20000 + number
        self.program = folder / "runs/quinistry"
        (self.dir / "tmp").mkdir(parents=True)
        (self.dir / "config").write_text("{}" if client.package == "docker.io" else "")
        tmp = str(self.dir / "tmp")
        path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        self.environment = {"PATH": path, "HOME": tmp, "TMPDIR": tmp, "XDG_RUNTIME_DIR": tmp, "LC_ALL": "C"}

    def start(self, text, output):
        root = ["chroot", str(self.sid)] if self.client.sid else []
        command = root + text.format(dir=self.dir, port=self.port).split()
        options = {"text": True, "env": self.environment, "start_new_session": True}
        return subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, **options)

    def start_daemon(self):
        """Starts the client's daemon, if it has one, and waits until it serves."""
        if not self.client.daemon:
            return None
        with open(self.dir / "log", "w") as log:
            daemon = self.start(self.client.daemon, log)
        for _ in range(100):
            if self.start(self.client.ready, subprocess.DEVNULL).wait() == 0:
                return daemon
            if daemon.poll() is not None:
                break
            time.sleep(0.2)
        raise RuntimeError(f"{self.client.key()} does not start: {(self.dir / 'log').read_text()[-2000:]}")

    def files(self):
        """Returns the sizes of the client's files, without its log."""
        paths = (path for path in self.dir.rglob("*") if path.is_file() and path.name not in ("log", "pid"))
        return {str(path.relative_to(self.dir)): path.stat().st_size for path in paths}

    def pull(self):
        """Pulls the image. Returns the exit code (None if the client had to be killed) and the output."""
        client = self.start(self.client.pull, subprocess.PIPE)
        try:
            output, _ = client.communicate(timeout=LIMIT)
            return client.returncode, output[-4000:]
        except subprocess.TimeoutExpired:
            os.killpg(client.pid, signal.SIGKILL)
            return None, client.communicate()[0][-4000:]

    def measure(self):
        server = Server(self.program, self.rules, self.port)
        daemon = self.start_daemon()
        before, begin = self.files(), time.monotonic()
        code, output = self.pull()
        took = time.monotonic() - begin
        # The end of the log may arrive late, and a daemon may tidy up in the background.
        time.sleep(1)
        left = {path: size for path, size in self.files().items() if before.get(path) != size}
        result = {"code": code, "took": took, "output": output, "left": left}
        if code and "@first" in self.rules:
            result["until"] = time.monotonic() - begin
            result["again"], result["output again"] = self.pull()
        if daemon:
            daemon.terminate()
            try:
                daemon.wait(20)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()
        result["log"] = [(round(time - begin, 2), line) for time, line in server.stop()]
        shutil.rmtree(self.dir)
        return result


def version(folder, client):
    """Returns the version of the client's package, without Debian's part."""
    root = folder / "sid" if client.sid else "/"
    shown = output_of("dpkg-query", "--root", root, "--show", "--showformat", "${Version}", client.package)
    return re.match(r"[0-9.]+", shown.split(":")[-1])[0]


def prepare_namespace(folder):
    """Mounts what the chroot needs, and hides what belongs to the machine's own daemons."""
    runs, sid = folder / "runs", folder / "sid"
    inner = Path(f"{sid}{runs}")
    runs.mkdir(exist_ok=True)
    inner.mkdir(parents=True, exist_ok=True)
    run("ip", "link", "set", "lo", "up")
    run("mount", "-t", "tmpfs", "tmpfs", runs)
    # Field note: Docker's driver vfs unpacks in its own chroot, for which the root must be a mount point.
    run("mount", "--bind", sid, sid)
    for name in ("proc", "sys", "dev"):
        run("mount", "--rbind", f"/{name}", sid / name)
    run("mount", "--bind", runs, inner)
    for path in (Path("/run"), sid / "run"):
        run("mount", "-t", "tmpfs", "tmpfs", path)
    program = runs / "quinistry"
    # The program packs its own file, so a longer file makes a longer layer.
    program.write_bytes(QUINISTRY.read_bytes() + random.Random(1).randbytes(PADDING))
    program.chmod(0o755)


def measure(folder, is_wanted):
    prepare_namespace(folder)
    path = folder / "runs.json"
    results = json.loads(path.read_text()) if path.exists() else {}
    results["versions"] = {client.key(): version(folder, client) for client in CLIENTS}
    tasks = [(client, rules) for rules in RULES for client in CLIENTS if is_wanted(client, rules)]
    # In the original order, the clients that wait under the same rule would run at once, and delay all others.
    random.Random(1).shuffle(tasks)
    with concurrent.futures.ThreadPoolExecutor(CROWD) as pool:
        futures = {}
        for number, (client, rules) in enumerate(tasks):
            work = lambda client=client, rules=rules, number=number: Run(folder, client, rules, number).measure()
            futures[pool.submit(work)] = client.key(), rules
        for count, future in enumerate(concurrent.futures.as_completed(futures), 1):
            key, rules = futures[future]
            try:
                results.setdefault(rules, {})[key] = future.result()
                outcome = f"exit code {future.result()['code']}"
            except (RuntimeError, OSError) as error:
                outcome = f"no result: {error}"
            print(f"{count}/{len(futures)} {key} {rules or 'right'}: {outcome}", flush=True)
    path.write_text(json.dumps(results))


# --- The tables

LINE = re.compile(r'(GET|HEAD) (/\S*) (\d{3}) (\d+) \S+ ".*?"(?: \(fault: (.*)\))?$')
Request = collections.namedtuple("Request", "time method path status length fault")


def requests(result):
    """Returns the requests in the log of a run."""
    found = []
    for time, line in result["log"]:
        if match := LINE.search(line):
            method, path, status, length, fault = match.groups()
            found.append(Request(time, method, path, int(status), int(length), fault))
    return found


def requests_for(result, place):
    """Returns the requests of the first pull for the place that a rule names."""
    text = "\n".join(line for _, line in result["log"])
    digests = dict(re.findall(r"^  (index|manifest|config|layer) +(sha256:[0-9a-f]{64})", text, re.MULTILINE))
    paths = {
        "any": "/",
        "base": "/v2/$",
        "index": f"manifests/(latest|{digests['index']})$",
        "manifest": f"manifests/{digests['manifest']}$",
        "config": f"blobs/{digests['config']}$",
        "layer": f"blobs/{digests['layer']}$",
    }
    until = result.get("until", float("inf"))
    found = [request for request in requests(result) if request.time < until]
    return [request for request in found if re.search(paths[place], request.path.split("?")[0])]


def seconds(number):
    return f"{number:.1f}" if number < 0.95 else f"{number:.0f}"


def verdict(result, asked, rules):
    """Returns the outcome in a word or two."""
    if result["code"] is None:
        return "**waits**"
    if result["code"] == 0:
        is_wrong = "=flip" in rules and all(request.fault for request in asked)
        return "**takes it**" if is_wrong else "pulls"
    waited = result["took"] - asked[-1].time if asked else 0
    return f"**waits {waited:.0f} s**, fails" if waited > 5 else "fails"


def cell(results, client, rules):
    """Returns what a client does under these rules, in a few words."""
    result, right = results.get(rules, {}).get(client.key()), results[RIGHT][client.key()]
    if not result:
        return "?"
    place = rules.split("=")[0]
    asked, usual = requests_for(result, place), len(requests_for(right, place))
    words = [verdict(result, asked, rules)]
    pauses = [later.time - earlier.time for earlier, later in zip(asked, asked[1:])]
    pauses = [seconds(pause) for pause in pauses if pause >= PAUSE]
    counts = place != "any" and "redirect" not in rules
    if counts and (len(asked) > usual or pauses):
        shown = " ".join(pauses[:8]) + (" ..." if len(pauses) > 8 else "")
        words.append(f"{len(asked)}× ({shown} s)" if pauses else f"{len(asked)}×")
    if not asked:
        words.append("never asks")
    if any(request.status == 206 or request.fault == "no-range" for request in asked):
        words.append("Range")
    if "again" in result:
        words.append("again: pulls" if result["again"] == 0 else "again: **fails**")
    return ", ".join(words)


def head(results, client):
    return f"{client.name} {results['versions'][client.key()]}"


def markdown(rows):
    rows = [rows[0], ["---"] * len(rows[0]), *rows[1:]]
    return "".join("| " + " | ".join(row) + " |\n" for row in rows)


def behavior(results):
    """Returns the tables of what each client does, after lists of the rules under which all clients do the same."""
    alike, rows = collections.defaultdict(list), []
    for rules in RULES[1:]:
        cells = {client.key(): cell(results, client, rules) for client in CLIENTS}
        name = f"`{rules}`".replace(" ", "` `")
        if len(set(cells.values())) == 1:
            alike[cells[CLIENTS[0].key()]].append(name)
        else:
            rows.append((name, cells))
    text = "Under these rules, every client does the same:\n\n"
    text += "".join(f"* {same}: {', '.join(names)}\n" for same, names in sorted(alike.items()))
    for clients in (ENGINES, TOOLS):
        lines = [["rule", *[head(results, client) for client in clients]]]
        lines += [[name, *[cells[client.key()] for client in clients]] for name, cells in rows]
        text += "\n" + markdown(lines)
    return text


def message(output):
    """Returns the part of the output that explains the failure, without what varies between runs."""
    lines = [line.strip() for line in re.split(r"\x1b\[[0-9;]*[A-Za-z]|[\r\n]", output) if line.strip()]
    telling = [line for line in lines if re.search("(?i)error|fail|fatal|^ctr:|denied|unexpected|too many", line)]
    text = (telling or lines or [""])[-1].replace("sha256:", "")
    for pattern, word in (
        (r'^time=\S+ level=fatal msg="(.*)"$', r"\1"),
        (r"127\.0\.0\.1:\d+", "HOST"),
        (r"/\S*/runs/\d+/", ""),
        (r"[0-9a-f]{64}", "DIGEST"),
        (r"\(heuristic tuning data: .*?\): ", ""),
    ):
        text = re.sub(pattern, word, text)
    parts = text.split(": ")
    while len(": ".join(parts)) > 80 and len(parts) > 1:
        parts.pop(0)
    return ": ".join(parts)


def messages(results):
    """Returns the table of the clients' last messages, with one row for clients with the same messages."""
    groups = collections.defaultdict(list)
    for client in CLIENTS:
        shown = [results[rules][client.key()]["output"] for rules in TELLING]
        groups[tuple(f"`{message(output)}`" for output in shown)].append(head(results, client))
    rows = [[", ".join(heads), *shown] for shown, heads in groups.items()]
    return markdown([["client", *[f"`{rules}`" for rules in TELLING]], *rows])


def leftovers(results):
    """Returns the table of the clients that keep some of the layer after a failed pull."""
    rows = [["client", *[f"`{rules}`" for rules in LEAVING]]]
    for client in CLIENTS:
        row = [head(results, client)]
        for rules in LEAVING:
            left = results[rules][client.key()]["left"].items()
            large = [(path, size) for path, size in left if size > LARGE and not path.endswith((".db", ".sql"))]
            large = [(re.sub("[0-9a-f]{64}(_[0-9]+)?", "…", path), size) for path, size in large]
            row.append("; ".join(f"{size:,} bytes: `{'/'.join(path.split('/')[-3:])}`" for path, size in large))
        if any(row[1:]):
            rows.append(row)
    return markdown(rows)


def write_tables(folder):
    results = json.loads((folder / "runs.json").read_text())
    text = DOCUMENT.read_text()
    before, after = text[: text.index(MARKS[0])], text[text.index(MARKS[1]) :]
    parts = [
        "\n## What clients do\n\n" + behavior(results),
        "\n## What clients report\n\nThe table shows how the error message of each client ends:\n\n" + messages(results),
        "\n## What clients leave behind\n\n"
        "These clients still have some of the layer a second after the failure:\n\n" + leftovers(results),
    ]
    DOCUMENT.write_text(before + MARKS[0] + "".join(parts) + "\n" + after)


def show(folder, is_wanted):
    results = json.loads((folder / "runs.json").read_text())
    for rules in RULES:
        for client in CLIENTS:
            result = results.get(rules, {}).get(client.key())
            if not result or not is_wanted(client, rules):
                continue
            print(f"\n{client.key()} {rules or 'right'}: {cell(results, client, rules)}, {result['took']:.0f} s")
            for request in requests(result):
                print(f"    {request.time:7.2f} {request.method} {request.path[:60]} {request.status} {request.length}")
            for output in ("output", "output again"):
                print(f"    {output}: {message(result.get(output, ''))}")
            for path, size in sorted(result["left"].items()):
                print(f"    {size:9} {path}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, default=Path("/var/tmp/quinistry-client-faults"))
    parser.add_argument("steps", nargs="*", default=STEPS)
    parser.add_argument("--client", default="")
    parser.add_argument("--rule", default="")
    options = parser.parse_args()
    if unknown := set(options.steps) - {*STEPS, "show"}:
        parser.error(f"no such step: {' '.join(unknown)}")
    if os.geteuid() != 0:
        parser.error("only root can run this")
    if not QUINISTRY.exists():
        parser.error(f"{QUINISTRY} does not exist: run cargo build --release")
    folder = options.folder.resolve()
    is_wanted = lambda client, rules: options.client in client.key() and options.rule in (rules or "right")
    if "INSIDE" in os.environ:
        measure(folder, is_wanted)
        return
    folder.mkdir(exist_ok=True)
    for step in options.steps:
        if step == "chroot":
            make_chroot(folder)
        elif step == "measure":
            namespace = ["unshare", "--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"]
            run(*namespace, sys.executable, *sys.argv, env=os.environ | {"INSIDE": "1"})
        elif step == "show":
            show(folder, is_wanted)
        else:
            write_tables(folder)


if __name__ == "__main__":
    main()
