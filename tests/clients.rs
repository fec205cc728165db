//! Real clients: Docker, containerd, podman and skopeo pull the image, copy it, load it from an archive and run it, and
//! umoci unpacks it. Clients also pull from the containers that they run.
//!
//! Each test is skipped if its tools are missing (see `common::has_tool`), and most need root. They pull only this
//! program's image, and use only loopback addresses and isolated networks (see `common/node.rs`).

mod common;

use std::process::Command;

use common::docker::{ImageName, docker, has_docker};
use common::node::{Daemon, Network, Node};
use common::{
    Folder, README, Server, eventually, find, goarch, has_tool, is_root, lossy, other_goarch, quinistry, readme_block,
    run, sample, save, sha256, sibling, skip, this_test, tool,
};

/// A running container. Dropping the [`ImageName`] from which it was created removes the container.
struct Container(String);

impl Container {
    fn run(image: &ImageName, options: &[&str]) -> Self {
        let arguments = [&["run", "-d", "-p", "127.0.0.1:0:8080"], options, &[&image.0]].concat();
        Self(docker(&arguments))
    }

    fn inspect(&self, format: &str) -> String {
        docker(&["inspect", "--format", format, &self.0])
    }

    fn log(&self) -> String {
        let output = tool("docker").args(["logs", &self.0]).output().expect("docker starts");
        lossy(&output.stderr).into_owned()
    }

    /// Returns the name under which the host can pull the image that the container serves.
    fn served_image(&self) -> ImageName {
        let published = docker(&["port", &self.0, "8080/tcp"]);
        let port = published.lines().next().and_then(|line| line.rsplit(':').next()?.parse().ok());
        ImageName::at(port.expect("a port"))
    }
}

#[test]
fn docker_pulls_the_same_image_from_three_generations_of_containers() {
    if !has_docker() {
        return;
    }
    let parent = Server::start();
    let digest = parent.manifest_digest();
    let mut images = vec![ImageName::at(parent.address.port())];
    let mut generations = Vec::new();
    for generation in 0..3 {
        assert_eq!(images[generation].pull(), digest, "generation {generation}");
        let locked_down = ["--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges"];
        let container = Container::run(&images[generation], &locked_down);
        images.push(container.served_image());
        eventually("the container is ready", || container.log().contains("Listening on [::]:8080").then_some(()));
        assert!(container.log().contains(&digest), "the container serves the digest of its parent");
        generations.push(container);
    }
    assert_eq!(images[3].pull(), digest, "the last container serves the same image");
    let again = docker(&["pull", &images[3].0]);
    assert!(again.contains("Image is up to date"), "{again}");

    for container in &generations {
        // The kernel confirms that the process has this user and no capabilities.
        let status = format!("/proc/{}/status", container.inspect("{{.State.Pid}}"));
        if let Ok(status) = std::fs::read_to_string(status) {
            for line in ["Uid:\t65532\t65532", "Gid:\t65532\t65532", "CapEff:\t0000000000000000", "NoNewPrivs:\t1"] {
                assert!(status.contains(line), "{line:?} in {status}");
            }
        } else {
            skip("the processes of Docker's containers are not in this /proc");
        }
        // If the server ignored the signal, Docker would kill it after one second, and the exit code would be 137.
        docker(&["stop", "-t", "1", &container.0]);
        assert_eq!(container.inspect("{{.State.ExitCode}}"), "0");
    }
}

/// Starts a server with rules of `--fault`, and with a layer that no other test has. Docker does not request a layer
/// that it already has from another image, so a shared layer would hide the faults.
fn start_with_own_layer(rules: &str) -> Server {
    let folder = Folder::new("fault");
    let file = folder.path("executable");
    let machine = if cfg!(target_arch = "aarch64") { sample::AMD64 } else { sample::ARM64 };
    let content = [&sample::executable(machine), rules.as_bytes()].concat();
    std::fs::write(&file, content).expect("the directory is writable");
    Server::start_with(&["--fault", rules, "--with", &file])
}

#[test]
fn docker_pulls_despite_harmless_faults_and_refuses_wrong_content() {
    if !has_docker() {
        return;
    }
    for (rules, faults) in [
        ("any=auth", "auth"),
        ("layer=503@first:1", "503"),
        ("layer=cut@first:1", "cut"),
        ("layer=redirect", "redirect"),
        ("layer=no-length", "no-length"),
    ] {
        let server = start_with_own_layer(rules);
        let image = ImageName::at(server.address.port());
        assert_eq!(image.pull(), server.manifest_digest(), "{rules}");
        assert!(server.log().contains(&format!("(fault: {faults})")), "{rules}: {}", server.log());
    }
    for rules in ["layer=flip", "config=flip"] {
        let server = start_with_own_layer(rules);
        let image = ImageName::at(server.address.port());
        let output = tool("docker").args(["pull", &image.0]).output().expect("docker starts");
        let said = lossy(&output.stderr).into_owned() + &lossy(&output.stdout);
        assert!(!output.status.success(), "{rules}: {said}");
        assert!(said.contains("verification failed") || said.contains("digest"), "{rules}: {said}");
    }
}

#[test]
fn docker_reports_a_container_healthy_under_any_user_id() {
    if !has_docker() {
        return;
    }
    let parent = Server::start();
    let image = ImageName::at(parent.address.port());
    image.pull();
    let options = ["--user", "12345:54321", "--health-interval", "1s"];
    let container = Container::run(&image, &options);
    eventually("docker finds the container healthy", || {
        (container.inspect("{{.State.Health.Status}}") == "healthy").then_some(())
    });
    docker(&["stop", "-t", "1", &container.0]);
    assert_eq!(container.inspect("{{.State.ExitCode}}"), "0");
}

#[test]
fn docker_push_fails_at_once_and_reports_that_the_registry_is_read_only() {
    if !has_docker() {
        return;
    }
    let server = Server::start();
    let image = ImageName::at(server.address.port());
    image.pull();
    // Docker pushes only what the registry does not have yet, so the image must be a new one.
    let other = ImageName(format!("{}:other", image.0));
    let container = docker(&["create", &image.0]);
    docker(&["commit", "--change", "LABEL other=1", &container, &other.0]);
    let push = tool("docker").args(["push", &other.0]).output().expect("docker starts");
    let said = lossy(&push.stderr).into_owned() + &lossy(&push.stdout);
    assert!(!push.status.success() && said.contains("read-only"), "{said}");
    let log = server.log();
    let writes = log.lines().filter(|line| line.contains("Refusing: P")).count();
    assert!(writes <= 2, "docker must not retry forever: {log}");
}

#[test]
fn docker_loads_a_saved_image_whose_container_saves_the_same_image() {
    if !has_docker() {
        return;
    }
    let folder = Folder::new("saved");
    let [saved, renamed, again] = ["saved.tar", "renamed.tar", "again.tar"].map(|name| folder.path(name));
    // Docker may already have an image with the name in the archive, so the test replaces that name. The new name has
    // the same length, so that the sizes in the archive stay correct.
    let name = format!("q{:08}", std::process::id());
    let with = ["--with", &sibling(&folder)];
    for with in [&[][..], &with] {
        save(&saved, with);
        let saved = std::fs::read(&saved).expect("it was saved");
        let image = ImageName(format!("{name}:latest"));
        let mut archive = saved.clone();
        let names = [("quinistry:latest", &image.0), ("library/quinistry", &format!("library/{name}"))];
        for (old, new) in names {
            while let Some(at) = find(&archive, old.as_bytes()) {
                archive[at..][..old.len()].copy_from_slice(new.as_bytes());
            }
        }
        std::fs::write(&renamed, archive).expect("the file can be written");
        assert!(docker(&["load", "--input", &renamed]).contains(&image.0));
        assert_eq!(docker(&["inspect", "--format", "{{.Architecture}}", &image.0]), goarch());
        let file = std::fs::File::create(&again).expect("the file can be written");
        run(tool("docker").args(["run", "--rm", &image.0, "save"]).stdout(file));
        assert!(std::fs::read(&again).expect("it was saved") == saved);
    }
}

#[test]
fn skipped_tests_are_counted_on_one_line_after_the_results() {
    let mut command = this_test();
    // The names of three other tests contain this word. These tests need skopeo, which is not found without PATH.
    let output = command.arg("skopeo_").env("PATH", "").env_remove("CI").output().expect("the command starts");
    assert!(output.status.success(), "{output:?}");
    let line = "*** SKIPPED 3 times in clients (a test, or a part of one): 3 x `skopeo --version` fails (package skopeo) ***\n";
    assert_eq!(lossy(&output.stderr), line);
}

/// Returns a skopeo command. If the user is not root, skopeo keeps its state in this directory.
fn skopeo_in(folder: &Folder) -> Command {
    let mut command = tool("skopeo");
    command.env("XDG_DATA_HOME", &folder.0).env("XDG_RUNTIME_DIR", &folder.0);
    command
}

#[test]
fn skopeo_reads_the_archive_as_an_oci_layout_and_as_a_docker_archive() {
    // Field note: skopeo 1.9 changes the owner of the files that it unpacks, which only root may do.
    if !has_tool("skopeo", &["--version"]) || !is_root("skopeo can read such an archive only as root") {
        return;
    }
    let folder = Folder::new("archive");
    let archive = folder.path("image.tar");
    save(&archive, &[]);
    for source in [
        format!("oci-archive:{archive}"),
        format!("oci-archive:{archive}:latest"),
        format!("docker-archive:{archive}:quinistry:latest"),
    ] {
        let inspected = run(skopeo_in(&folder).args(["inspect", "--config", &source]));
        assert!(inspected.contains("/quinistry"), "{inspected}");
    }
}

#[test]
fn skopeo_inspects_the_image_and_copies_it_to_a_layout_and_back() {
    if !has_tool("skopeo", &["--version"]) {
        return;
    }
    let server = Server::start();
    let remote = format!("docker://localhost:{}/quinistry", server.address.port());
    let folder = Folder::new("skopeo");
    let skopeo = |arguments: &[&str]| run(skopeo_in(&folder).args(arguments));

    let inspected = skopeo(&["inspect", "--tls-verify=false", &remote]);
    let inspected: serde_json::Value = serde_json::from_str(&inspected).expect("JSON");
    assert_eq!(inspected["Digest"], server.manifest_digest());
    assert_eq!(inspected["RepoTags"], serde_json::json!([env!("CARGO_PKG_VERSION"), "latest"]));
    assert_eq!(inspected["Architecture"], goarch());

    let (layout, plain) = (format!("oci:{}:latest", folder.path("layout")), format!("dir:{}", folder.path("plain")));
    skopeo(&["copy", "--insecure-policy", "--src-tls-verify=false", &remote, &layout]);
    skopeo(&["copy", "--insecure-policy", "--format", "v2s2", &layout, &plain]);
    // The layer survives the round trip unchanged. The config does not: the OCI format has no health check, so skopeo
    // drops it.
    let (digest, _) = server.layer();
    let file = folder.0.join("plain").join(digest.strip_prefix("sha256:").expect("sha256"));
    assert_eq!(sha256(&std::fs::read(file).expect("a blob")), digest);
    // With --preserve-digests, the layout has the index that was served, byte for byte.
    let kept = format!("oci:{}", folder.path("kept"));
    let keep = ["copy", "--insecure-policy", "--src-tls-verify=false", "--all", "--preserve-digests"];
    skopeo(&[&keep[..], &[&remote, &kept]].concat());
    let index = std::fs::read(folder.0.join("kept/index.json")).expect("an index");
    let index: serde_json::Value = serde_json::from_slice(&index).expect("JSON");
    assert_eq!(index["manifests"][0]["digest"], server.manifest_digest());
}

#[test]
fn podman_loads_the_archive_and_umoci_unpacks_it() {
    let folder = Folder::new("loaded");
    let archive = folder.path("image.tar");
    save(&archive, &[]);
    if has_podman() {
        let podman = |arguments: &[&str]| run(podman_in(&folder.path("podman"), tool("podman")).args(arguments));
        podman(&["load", "--input", &archive]);
        let format = "{{.Config.Entrypoint}} {{.User}} {{.RepoDigests}}";
        let entry = podman(&["inspect", "--format", format, "docker.io/library/quinistry:latest"]);
        assert!(entry.starts_with(&format!("[/{}/quinistry] 65532:65532 ", goarch())), "{entry}");
        let digest = run(quinistry().arg("digest"));
        assert!(entry.contains(&format!("docker.io/library/{}", digest.trim())), "{entry}");
    }
    if has_tool("umoci", &["--version"]) && has_tool("tar", &["--version"]) {
        let (layout, bundle) = (folder.path("layout"), folder.path("bundle"));
        std::fs::create_dir(&layout).expect("a new directory");
        run(tool("tar").args(["-xf", &archive, "-C", &layout]));
        run(tool("umoci").args(["unpack", "--rootless", "--image", &format!("{layout}:latest"), &bundle]));
        let unpacked = std::fs::read(format!("{bundle}/rootfs/{}/quinistry", goarch())).expect("the executable");
        assert!(unpacked == std::fs::read(env!("CARGO_BIN_EXE_quinistry")).expect("the executable"));
    }
}

/// Returns whether podman works and the tests run as root. If not, notes that the test is skipped.
///
/// Field note: podman 4.3 leaves a process behind if it is not run by root.
fn has_podman() -> bool {
    has_tool("podman", &["--version"]) && is_root("podman would leave a process behind")
}

/// Returns a podman command whose storage is in a directory. The path must be short, because podman accepts at most 50
/// characters for `--runroot`.
fn podman_in(folder: &str, mut command: Command) -> Command {
    command.args(["--storage-driver", "vfs", "--root", &format!("{folder}/root")]);
    command.args(["--runroot", &format!("{folder}/run"), "--tmpdir", &format!("{folder}/tmp")]);
    command
}

/// Returns the README's code block that contains `text`, with `registry` in place of the README's registry.
fn readme_file(language: &str, text: &str, registry: &str) -> String {
    readme_block(language, text).replace("node1.example:5000", registry)
}

/// Writes the `hosts.toml` of a registry into the directory that a node passes to ctr's option `--hosts-dir`.
fn hosts_file(node: &Node, host: &str, text: &str) {
    let folder = format!("{}/hosts/{host}", node.folder);
    std::fs::create_dir_all(&folder).expect("a new directory");
    std::fs::write(format!("{folder}/hosts.toml"), text).expect("the file can be written");
}

#[test]
fn containerd_imports_the_archive_under_the_names_that_a_kubelet_looks_up() {
    let Some(network) = Network::new("import") else { return };
    let node = network.node(1);
    let tagged = node.load();
    let digest = node.digest(&tagged);
    let line = run(quinistry().arg("digest"));
    assert_eq!(line, format!("quinistry@{digest}\n"));
    // A kubelet looks up a pinned image by its digest. The README has this command, which adds the name with the
    // digest.
    let tag = "images tag docker.io/library/quinistry:latest docker.io/library/$(quinistry digest)\n";
    assert!(README.contains(tag));
    let pinned = format!("docker.io/library/{}", line.trim());
    run(&mut node.ctr(&["images", "tag", &tagged, &pinned]));
    assert_eq!(node.digest(&pinned), digest);
}

#[test]
fn containerd_pulls_from_a_node_and_through_a_mirror_as_the_readme_describes() {
    let Some(network) = Network::new("hosts") else { return };
    let (holder, puller) = (network.node(1), network.node(2));
    let (digest, registry) = (holder.run(&holder.load()), holder.registry());
    let named = readme_file("toml", "/etc/containerd/certs.d/node1.example:5000/hosts.toml", &registry);
    // A client that is configured to try HTTPS first is refused at once, and then uses HTTP.
    let secure_first = format!("[host.\"https://{registry}\"]\nskip_verify = true\n{named}");
    let mirror = readme_file("toml", "/etc/containerd/certs.d/docker.io/hosts.toml", &registry);
    for (host, text, image, logged) in [
        (&*registry, named, format!("{registry}/quinistry:latest"), "GET /v2/quinistry/blobs/"),
        (
            &*registry,
            secure_first,
            format!("{registry}/quinistry:{}", env!("CARGO_PKG_VERSION")),
            "Client tried HTTPS first",
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
fn docker_pulls_from_a_node_and_through_a_mirror_as_the_readme_describes() {
    let Some(network) = Network::new("docker") else { return };
    if !has_tool("dockerd", &["--version"]) || !has_tool("docker", &["--version"]) {
        return;
    }
    let (holder, puller) = (network.node(1), network.node(2));
    let (digest, registry) = (holder.run(&holder.load()), holder.registry());
    let text = readme_file("json", "insecure-registries", &registry);
    let [file, data, state, pid_file, socket] =
        ["daemon.json", "data", "exec", "pid", "docker.sock"].map(|name| format!("{}/{name}", puller.folder));
    std::fs::write(&file, text).expect("the file can be written");
    let socket = format!("unix://{socket}");
    let mut command = puller.command(&tool("dockerd"));
    command.args(["--config-file", &file, "--data-root", &data, "--exec-root", &state, "--pidfile", &pid_file]);
    // This dockerd runs in the node's network namespace. In the machine's namespace, it would remove the bridge of the
    // machine's own dockerd.
    command.args(["--bridge", "none", "--iptables=false", "--ip6tables=false", "--storage-driver", "vfs"]);
    command.args(["--containerd", &format!("{}/socket", puller.folder), "--host", &socket]);
    let _daemon = Daemon::start(&mut command);
    let docker = |arguments: &[&str]| tool("docker").args(["--host", &socket]).args(arguments).output();
    eventually("dockerd responds", || docker(&["info"]).is_ok_and(|info| info.status.success()).then_some(()));
    for (image, logged) in [
        (format!("{registry}/quinistry"), "HEAD /v2/quinistry/manifests/latest"),
        ("quinistry".into(), "HEAD /v2/library/quinistry/manifests/latest"),
    ] {
        let output = docker(&["pull", &image]).expect("docker starts");
        let said = lossy(&output.stdout) + lossy(&output.stderr);
        assert!(said.contains(&format!("Digest: {digest}")), "{said}");
        eventually(logged, || holder.log().contains(logged).then_some(()));
    }
    // This dockerd has none of the user's images, so it can load the archive without a new name.
    let output = docker(&["load", "--input", &format!("{}/image.tar", holder.folder)]).expect("docker starts");
    assert_eq!(lossy(&output.stdout), "Loaded image: quinistry:latest\n");
}

#[test]
fn podman_pulls_from_a_node_and_through_a_mirror_as_the_readme_describes() {
    let Some(network) = Network::new("podman") else { return };
    if !has_podman() {
        return;
    }
    let (holder, puller) = (network.node(1), network.node(2));
    let (digest, registry) = (holder.run(&holder.load()), holder.registry());
    let file = format!("{}/registries.conf", puller.folder);
    let text = readme_file("toml", "/etc/containers/registries.conf.d/50-quinistry.conf", &registry);
    std::fs::write(&file, text).expect("the file can be written");
    for image in [format!("{registry}/quinistry"), "docker.io/library/quinistry".into()] {
        let podman = |arguments: &[&str]| {
            let mut command = podman_in(&puller.folder, puller.command(&tool("podman")));
            run(command.env("CONTAINERS_REGISTRIES_CONF", &file).args(arguments))
        };
        podman(&["pull", &image]);
        // Field note: in podman 5, `.Digest` may be the digest of the platform's manifest, so the test reads all
        // digests.
        let digests = podman(&["inspect", "--format", "{{.RepoDigests}}", &image]);
        assert!(digests.contains(&format!("@{digest}")), "{digests}");
    }
}

/// Starts a server whose image holds this program for two processors.
fn server_with_sibling(folder: &Folder) -> Server {
    Server::start_with(&["--with", &sibling(folder)])
}

/// Writes the image for two platforms to a file, and returns the digest of the image.
fn save_with_sibling(folder: &Folder, archive: &str) -> String {
    let with = ["--with", &sibling(folder)];
    save(archive, &with);
    let line = run(quinistry().arg("digest").args(with));
    line.trim().strip_prefix("quinistry@").expect("a digest").to_owned()
}

#[test]
fn docker_pulls_the_requested_platform_and_reports_a_missing_one() {
    if !has_docker() {
        return;
    }
    let folder = Folder::new("docker-platforms");
    let server = server_with_sibling(&folder);
    let (digest, image) = (server.manifest_digest(), ImageName::at(server.address.port()));
    let pull = |architecture: &str| {
        let platform = format!("linux/{architecture}");
        tool("docker").args(["pull", "--platform", &platform, &image.0]).output().expect("docker starts")
    };
    for architecture in [other_goarch(), goarch()] {
        let output = pull(architecture);
        assert!(lossy(&output.stdout).contains(&format!("Digest: {digest}")), "{output:?}");
        assert_eq!(docker(&["inspect", "--format", "{{.Architecture}}", &image.0]), architecture);
        // Otherwise the next pull would take over the name, and this image would remain without a name.
        docker(&["rmi", &image.0]);
    }
    let blobs = || server.log().matches("/blobs/").count();
    let before = blobs();
    let refused = pull("s390x");
    assert!(lossy(&refused.stderr).contains("no matching manifest"), "{refused:?}");
    assert_eq!(blobs(), before, "docker must fail before it requests a blob");

    // A container of the pulled image serves both platforms, and has the program in its PATH.
    assert_eq!(image.pull(), digest);
    let container = Container::run(&image, &["--read-only"]);
    let child = container.served_image();
    eventually("the container is ready", || container.log().contains("Listening").then_some(()));
    assert_eq!(child.pull(), digest);
    docker(&["exec", &container.0, "quinistry", "healthcheck"]);
    assert_eq!(docker(&["run", "--rm", &image.0, "digest"]), format!("quinistry@{digest}"));
}

#[test]
fn skopeo_inspects_and_copies_every_platform_from_the_registry_and_the_archive() {
    if !has_tool("skopeo", &["--version"]) {
        return;
    }
    let folder = Folder::new("skopeo-platforms");
    let archive = folder.path("image.tar");
    let digest = save_with_sibling(&folder, &archive);
    let server = server_with_sibling(&folder);
    assert_eq!(server.manifest_digest(), digest);
    let registry = format!("docker://localhost:{}/quinistry", server.address.port());
    let skopeo = |arguments: &[&str]| run(skopeo_in(&folder).args(arguments));
    for (number, source) in [registry, format!("oci-archive:{archive}:latest")].iter().enumerate() {
        for architecture in [goarch(), other_goarch()] {
            let choice = ["--override-arch", architecture, "inspect", "--tls-verify=false", "--config"];
            let config = skopeo(&[&choice[..], &[source]].concat());
            let config: serde_json::Value = serde_json::from_str(&config).expect("JSON");
            assert_eq!(config["architecture"], architecture);
        }
        let copy = folder.path(&number.to_string());
        let how = ["copy", "--insecure-policy", "--src-tls-verify=false", "--all", "--preserve-digests"];
        skopeo(&[&how[..], &[source, &format!("dir:{copy}")]].concat());
        // In a `dir:` directory, every blob is a file whose name is the digest. Both layers must be there.
        let layers = server.layers();
        assert_eq!(layers.len(), 2);
        for (layer, _) in layers {
            let blob = std::fs::read(format!("{copy}/{}", &layer["sha256:".len()..])).expect("a blob");
            assert_eq!(sha256(&blob), layer);
        }
    }
    let index = std::fs::read(folder.path("0/manifest.json")).expect("the index");
    assert_eq!(sha256(&index), digest);
}

#[test]
fn podman_pulls_either_platform_under_the_same_digest() {
    if !has_podman() {
        return;
    }
    let folder = Folder::new("arches");
    let server = server_with_sibling(&folder);
    let image = format!("localhost:{}/quinistry", server.address.port());
    let podman = |arguments: &[&str]| run(podman_in(&folder.path("podman"), tool("podman")).args(arguments));
    for architecture in [other_goarch(), goarch()] {
        podman(&["pull", "--quiet", "--tls-verify=false", "--arch", architecture, &image]);
        let inspected = podman(&["inspect", "--format", "{{.Architecture}} {{.RepoDigests}}", &image]);
        let has_digest = inspected.contains(&format!("@{}", server.manifest_digest()));
        assert!(has_digest && inspected.starts_with(architecture), "{inspected}");
    }
}

#[test]
fn containerd_imports_an_image_for_two_platforms_and_another_node_pulls_it() {
    let Some(network) = Network::new("platforms") else { return };
    let (holder, puller) = (network.node(1), network.node(2));
    let folder = Folder::new("containerd-platforms");
    let archive = folder.path("image.tar");
    let digest = save_with_sibling(&folder, &archive);
    run(&mut holder.ctr(&["images", "import", "--snapshotter", "native", &archive]));
    let name = "docker.io/library/quinistry:latest";
    assert_eq!(holder.digest(name), digest);
    assert_eq!(holder.run(name), digest);
    assert_eq!(puller.digest(&puller.pull(&holder)), digest);
}
