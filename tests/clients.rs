//! Real clients pull, run, and pull from what they run.
//!
//! Everything here needs tools that may not be there: see `common::has_tool`. All that is pulled is
//! ours, and everything goes through loopback addresses.

mod common;

use std::process::Command;

use common::node::{Daemon, Network, Node};
use common::{Folder, Server, eventually, has_tool, lossy, readme_block, run, save, sha256};

fn docker(arguments: &[&str]) -> String {
    run(Command::new("docker").args(arguments)).trim().to_owned()
}

fn has_docker() -> bool {
    has_tool("docker", &["info"])
}

/// Pulls and gives the digest that docker prints.
fn docker_pull(image: &str) -> String {
    let output = docker(&["pull", image]);
    let line = output.lines().find_map(|line| line.strip_prefix("Digest: "));
    line.unwrap_or_else(|| panic!("no digest: {output}")).to_owned()
}

/// A running container, removed at the end together with its image.
struct Container {
    id: String,
    image: String,
}

impl Container {
    fn run(image: &str, options: &[&str]) -> Self {
        let arguments = [&["run", "-d", "-p", "127.0.0.1:0:8080"], options, &[image]].concat();
        Self { id: docker(&arguments), image: image.to_owned() }
    }

    fn inspect(&self, format: &str) -> String {
        docker(&["inspect", "--format", format, &self.id])
    }

    /// The image that the container serves, under the name that its host has for it.
    fn served_image(&self) -> String {
        let published = docker(&["port", &self.id, "8080/tcp"]);
        let port = published.lines().next().and_then(|line| line.rsplit(':').next()).expect("a port");
        format!("localhost:{port}/quinistry")
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        for arguments in [["rm", "-f", &*self.id], ["rmi", "-f", &*self.image]] {
            let _ = Command::new("docker").args(arguments).output();
        }
    }
}

#[test]
fn docker_pulls_runs_and_pulls_again_for_three_generations() {
    if !has_docker() {
        return;
    }
    let parent = Server::start();
    let digest = parent.manifest_digest();
    let mut image = format!("localhost:{}/quinistry", parent.address.port());
    let mut generations = Vec::new();
    for generation in 1..=3 {
        assert_eq!(docker_pull(&image), digest, "generation {generation}");
        let locked_down = ["--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges"];
        let container = Container::run(&image, &locked_down);
        image = container.served_image();
        eventually("the container is ready", || {
            docker_logs(&container).contains("Listening on [::]:8080").then_some(())
        });
        assert!(docker_logs(&container).contains(&digest), "it packed itself to the same digest");
        generations.push(container);
    }
    assert_eq!(docker_pull(&image), digest, "what the last one serves");
    let again = docker(&["pull", &image]);
    assert!(again.contains("Image is up to date"), "{again}");

    for container in &generations {
        // As the kernel sees it: the numeric user, and no capabilities.
        let status = std::fs::read_to_string(format!("/proc/{}/status", container.inspect("{{.State.Pid}}")));
        if let Ok(status) = status {
            for line in
                ["Uid:\t65532\t65532", "Gid:\t65532\t65532", "CapEff:\t0000000000000000", "NoNewPrivs:\t1"]
            {
                assert!(status.contains(line), "{line:?} in {status}");
            }
        }
        // Docker kills after that second, and the code would be 137.
        docker(&["stop", "-t", "1", &container.id]);
        assert_eq!(container.inspect("{{.State.ExitCode}}"), "0");
    }
    let _ = Command::new("docker").args(["rmi", "-f", &image]).output();
}

fn docker_logs(container: &Container) -> String {
    let output = Command::new("docker").args(["logs", &container.id]).output().expect("docker starts");
    lossy(&output.stderr).into_owned()
}

#[test]
fn docker_finds_the_container_healthy_and_runs_it_as_anyone() {
    if !has_docker() {
        return;
    }
    let parent = Server::start();
    let image = format!("localhost:{}/quinistry", parent.address.port());
    docker_pull(&image);
    let options = ["--user", "12345:54321", "--health-interval", "1s"];
    let container = Container::run(&image, &options);
    eventually("docker finds it healthy", || {
        (container.inspect("{{.State.Health.Status}}") == "healthy").then_some(())
    });
    docker(&["stop", "-t", "1", &container.id]);
    assert_eq!(container.inspect("{{.State.ExitCode}}"), "0");
}

#[test]
fn docker_push_fails_at_once_and_says_why() {
    if !has_docker() {
        return;
    }
    let server = Server::start();
    let image = format!("localhost:{}/quinistry", server.address.port());
    docker_pull(&image);
    // Something that is not there yet, or docker would not even try.
    let other = format!("{image}:other");
    let container = docker(&["create", &image]);
    docker(&["commit", "--change", "LABEL other=1", &container, &other]);
    let push = Command::new("docker").args(["push", &other]).output().expect("docker starts");
    for arguments in [["rm", "-f", &*container], ["rmi", "-f", &*other], ["rmi", "-f", &*image]] {
        let _ = Command::new("docker").args(arguments).output();
    }
    let said = lossy(&push.stderr).into_owned() + &lossy(&push.stdout);
    assert!(!push.status.success() && said.contains("read-only"), "{said}");
    let log = server.log();
    let writes = log.lines().filter(|line| line.contains("Refusing: P")).count();
    assert!(writes <= 2, "docker does not try again and again: {log}");
}

#[test]
fn docker_loads_what_is_saved_and_what_it_runs_saves_the_same() {
    if !has_docker() {
        return;
    }
    let folder = Folder::new("saved");
    let (first, second) = (folder.path("first.tar"), folder.path("second.tar"));
    save(&first);
    assert!(docker(&["load", "--input", &first]).contains("quinistry:latest"));
    let file = std::fs::File::create(&second).expect("room for it");
    run(Command::new("docker").args(["run", "--rm", "quinistry:latest", "save"]).stdout(file));
    docker(&["rmi", "-f", "quinistry:latest"]);
    assert!(std::fs::read(first).expect("it was saved") == std::fs::read(second).expect("it was saved"));
}

#[test]
fn skopeo_takes_the_archive_for_one_and_for_the_other() {
    if !has_tool("skopeo", &["--version"]) {
        return;
    }
    let folder = Folder::new("archive");
    let archive = folder.path("image.tar");
    save(&archive);
    for source in
        [format!("oci-archive:{archive}:latest"), format!("docker-archive:{archive}:quinistry:latest")]
    {
        let inspected = run(Command::new("skopeo").args(["inspect", "--config", &source]));
        assert!(inspected.contains("/quinistry"), "{inspected}");
    }
}

#[test]
fn skopeo_inspects_and_copies_to_a_layout_and_back() {
    if !has_tool("skopeo", &["--version"]) {
        return;
    }
    let server = Server::start();
    let remote = format!("docker://localhost:{}/quinistry", server.address.port());
    let skopeo = |arguments: &[&str]| run(Command::new("skopeo").args(arguments));

    let inspected = skopeo(&["inspect", "--tls-verify=false", &remote]);
    let inspected: serde_json::Value = serde_json::from_str(&inspected).expect("JSON");
    assert_eq!(inspected["Digest"], server.manifest_digest());
    assert_eq!(inspected["RepoTags"], serde_json::json!([env!("CARGO_PKG_VERSION"), "latest"]));
    assert_eq!(inspected["Architecture"], goarch());

    let folder = Folder::new("skopeo");
    let (layout, plain) =
        (format!("oci:{}:latest", folder.path("layout")), format!("dir:{}", folder.path("plain")));
    skopeo(&["copy", "--insecure-policy", "--src-tls-verify=false", &remote, &layout]);
    skopeo(&["copy", "--insecure-policy", "--format", "v2s2", &layout, &plain]);
    // The way there and back keeps the layer to the byte. Not so the config: the OCI's format has no
    // health check, so that skopeo writes another one without.
    let manifest = server.ask("GET /v2/quinistry/manifests/latest", &[]).json();
    let digest = manifest["layers"][0]["digest"].as_str().expect("a digest");
    let file = folder.0.join("plain").join(digest.strip_prefix("sha256:").expect("sha256"));
    assert_eq!(sha256(&std::fs::read(file).expect("a blob")), digest);
    // With the digests to be kept, the manifest is ours, too.
    let kept = format!("dir:{}", folder.path("kept"));
    skopeo(&["copy", "--insecure-policy", "--src-tls-verify=false", "--preserve-digests", &remote, &kept]);
    let manifest = std::fs::read(folder.0.join("kept/manifest.json")).expect("a manifest");
    assert_eq!(sha256(&manifest), server.manifest_digest());
}

#[test]
fn podman_loads_the_archive_and_umoci_unpacks_it() {
    let folder = Folder::new("loaded");
    let archive = folder.path("image.tar");
    save(&archive);
    if has_tool("podman", &["--version"]) {
        let podman = |arguments: &[&str]| {
            run(podman_in(&folder.path("podman"), Command::new("podman")).args(arguments))
        };
        podman(&["load", "--input", &archive]);
        let entry = podman(&[
            "inspect",
            "--format",
            "{{.Config.Entrypoint}} {{.User}}",
            "localhost/quinistry:latest",
        ]);
        assert_eq!(entry.trim(), "[/quinistry] 65532:65532");
    }
    if has_tool("umoci", &["--version"]) {
        let (layout, bundle) = (folder.path("layout"), folder.path("bundle"));
        std::fs::create_dir(&layout).expect("a new folder");
        run(Command::new("tar").args(["-xf", &archive, "-C", &layout]));
        run(Command::new("umoci").args([
            "unpack",
            "--rootless",
            "--image",
            &format!("{layout}:latest"),
            &bundle,
        ]));
        let unpacked = std::fs::read(format!("{bundle}/rootfs/quinistry")).expect("the executable");
        assert!(unpacked == std::fs::read(env!("CARGO_BIN_EXE_quinistry")).expect("the executable"));
    }
}

/// podman, with all that it stores in one folder.
fn podman_in(folder: &str, mut command: Command) -> Command {
    command.args(["--storage-driver", "vfs", "--root", &format!("{folder}/root")]);
    command.args(["--runroot", &format!("{folder}/run"), "--tmpdir", &format!("{folder}/tmp")]);
    command
}

/// A block that the README has, made for another registry than the one it speaks of.
fn readme_file(language: &str, text: &str, registry: &str) -> String {
    readme_block(language, text).replace("node1.example:5000", registry)
}

/// Writes a file for some host into a `--hosts-dir` of a node's.
fn hosts_file(node: &Node, host: &str, text: &str) {
    let folder = format!("{}/hosts/{host}", node.folder);
    std::fs::create_dir_all(&folder).expect("a new folder");
    std::fs::write(format!("{folder}/hosts.toml"), text).expect("room for it");
}

#[test]
fn containerd_takes_the_archive_under_names_that_a_kubelet_looks_for() {
    let Some(network) = Network::new("import") else { return };
    let node = network.node(1);
    let digest = node.digest(&node.load());
    let line = run(Command::new(env!("CARGO_BIN_EXE_quinistry")).arg("digest"));
    assert_eq!(line, format!("quinistry@{digest}\n"));
    assert_eq!(node.digest(&format!("docker.io/library/quinistry@{digest}")), digest);
}

#[test]
fn containerd_pulls_from_another_machine_and_by_way_of_a_mirror_as_the_readme_has_it() {
    let Some(network) = Network::new("hosts") else { return };
    let (holder, puller) = (network.node(1), network.node(2));
    let (digest, registry) = (holder.run(&holder.load()), holder.registry());
    let named = readme_file("toml", "/etc/containerd/certs.d/node1.example:5000/hosts.toml", &registry);
    // Whoever has to try HTTPS first is refused at once, and goes on.
    let secure_first = format!("[host.\"https://{registry}\"]\nskip_verify = true\n{named}");
    let mirror = readme_file("toml", "/etc/containerd/certs.d/docker.io/hosts.toml", &registry);
    for (host, text, image, logged) in [
        (&*registry, named, format!("{registry}/quinistry:latest"), "GET /v2/quinistry/blobs/"),
        (
            &*registry,
            secure_first,
            format!("{registry}/quinistry:{}", env!("CARGO_PKG_VERSION")),
            "this port speaks plain HTTP, not TLS",
        ),
        ("docker.io", mirror, "docker.io/library/quinistry:latest".into(), "manifests/latest?ns=docker.io"),
    ] {
        hosts_file(&puller, host, &text);
        let hosts = format!("{}/hosts", puller.folder);
        run(&mut puller.ctr(&["images", "pull", "--snapshotter", "native", "--hosts-dir", &hosts, &image]));
        assert_eq!(puller.digest(&image), digest);
        eventually(logged, || holder.log().contains(logged).then_some(()));
    }
}

#[test]
fn docker_pulls_from_another_machine_and_by_way_of_a_mirror_as_the_readme_has_it() {
    let Some(network) = Network::new("docker") else { return };
    if !has_tool("dockerd", &["--version"]) || !has_tool("docker", &["--version"]) {
        return;
    }
    let (holder, puller) = (network.node(1), network.node(2));
    let (digest, registry) = (holder.run(&holder.load()), holder.registry());
    let text = readme_file("json", "insecure-registries", &registry);
    let [file, data, state, pid_file, socket] =
        ["daemon.json", "data", "exec", "pid", "docker.sock"].map(|name| format!("{}/{name}", puller.folder));
    std::fs::write(&file, text).expect("room for it");
    let socket = format!("unix://{socket}");
    let mut command = puller.command("dockerd");
    command.args([
        "--config-file",
        &file,
        "--data-root",
        &data,
        "--exec-root",
        &state,
        "--pidfile",
        &pid_file,
    ]);
    // On a network of its own: elsewhere, it would take away the bridge of another one.
    command.args(["--bridge", "none", "--iptables=false", "--ip6tables=false", "--storage-driver", "vfs"]);
    command.args(["--containerd", &format!("{}/socket", puller.folder), "--host", &socket]);
    let _daemon = Daemon::start(&mut command);
    let docker =
        |arguments: &[&str]| Command::new("docker").args(["--host", &socket]).args(arguments).output();
    eventually("dockerd answers", || docker(&["info"]).is_ok_and(|info| info.status.success()).then_some(()));
    for (image, logged) in [
        (format!("{registry}/quinistry"), "HEAD /v2/quinistry/manifests/latest"),
        ("quinistry".into(), "HEAD /v2/library/quinistry/manifests/latest"),
    ] {
        let output = docker(&["pull", &image]).expect("docker starts");
        let said = lossy(&output.stdout) + lossy(&output.stderr);
        assert!(said.contains(&format!("Digest: {digest}")), "{said}");
        eventually(logged, || holder.log().contains(logged).then_some(()));
    }
}

#[test]
fn podman_pulls_from_another_machine_and_by_way_of_a_mirror_as_the_readme_has_it() {
    let Some(network) = Network::new("podman") else { return };
    if !has_tool("podman", &["--version"]) {
        return;
    }
    let (holder, puller) = (network.node(1), network.node(2));
    let (digest, registry) = (holder.run(&holder.load()), holder.registry());
    let file = format!("{}/registries.conf", puller.folder);
    let text = readme_file("toml", "/etc/containers/registries.conf.d/50-quinistry.conf", &registry);
    std::fs::write(&file, text).expect("room for it");
    for image in [format!("{registry}/quinistry"), "docker.io/library/quinistry".into()] {
        let podman = |arguments: &[&str]| {
            let mut command = podman_in(&puller.folder, puller.command("podman"));
            run(command.env("CONTAINERS_REGISTRIES_CONF", &file).args(arguments))
        };
        podman(&["pull", &image]);
        assert_eq!(podman(&["inspect", "--format", "{{.Digest}}", &image]).trim(), digest);
    }
}

/// The architecture of this machine, in Go's terms.
fn goarch() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}
