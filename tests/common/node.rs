//! Nodes of a cluster: network namespaces with a containerd each.
//!
//! Nothing of it can be reached from outside, or reach anything there.

use std::process::{Child, Command, Stdio};

use super::{Folder, eventually, has_tool, run, skip};

/// Some nodes on a network of their own, which leads nowhere else.
pub struct Network {
    switch: String,
    folder: Folder,
}

impl Network {
    /// `None`, said loudly, where there can be none.
    pub fn new(name: &str) -> Option<Self> {
        let tools =
            [("containerd", "--version"), ("ctr", "--version"), ("nsenter", "--version"), ("ip", "-V")];
        if !tools.into_iter().all(|(tool, argument)| has_tool(tool, &[argument])) {
            return None;
        }
        let switch = format!("quinistry-{name}-{}", std::process::id());
        if !Command::new("ip").args(["netns", "add", &switch]).status().is_ok_and(|status| status.success()) {
            skip("network namespaces cannot be made here");
            return None;
        }
        let network = Self { switch, folder: Folder::new(name) };
        ip(&["-n", &network.switch, "link", "add", "bridge", "type", "bridge"]);
        ip(&["-n", &network.switch, "link", "set", "bridge", "up"]);
        Some(network)
    }

    /// A new node with nothing but a containerd.
    pub fn node(&self, number: usize) -> Node {
        let namespace = format!("{}-{number}", self.switch);
        let (address, port) = (format!("10.0.0.{number}"), format!("port{number}"));
        ip(&["netns", "add", &namespace]);
        for line in [
            format!("-n {namespace} link add eth0 type veth peer name {port} netns {}", self.switch),
            format!("-n {namespace} address add {address}/24 dev eth0"),
            format!("-n {namespace} link set lo up"),
            format!("-n {namespace} link set eth0 up"),
            format!("-n {} link set {port} master bridge up", self.switch),
        ] {
            ip(&line.split(' ').collect::<Vec<_>>());
        }
        let folder = self.folder.path(&number.to_string());
        std::fs::create_dir(&folder).expect("a new folder");
        let configuration = format!(
            "version = 2\ndisabled_plugins = ['io.containerd.grpc.v1.cri']\n\
             root = '{folder}/root'\nstate = '{folder}/state'\n\
             [grpc]\naddress = '{folder}/socket'\n[ttrpc]\naddress = '{folder}/ttrpc'\n"
        );
        std::fs::write(format!("{folder}/config.toml"), configuration).expect("room for it");
        let containerd = inside(&namespace, "containerd")
            .args(["--config", &format!("{folder}/config.toml")])
            .stderr(Stdio::null())
            .spawn()
            .expect("containerd starts");
        let node = Node { namespace, address, folder, containerd };
        eventually("containerd answers", || {
            node.ctr(&["version"]).output().is_ok_and(|output| output.status.success()).then_some(())
        });
        node
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "delete", &self.switch]).status();
    }
}

fn ip(arguments: &[&str]) {
    run(Command::new("ip").args(arguments));
}

/// A command on a node's network. Not by `ip netns exec`, which hides the control groups.
fn inside(namespace: &str, program: &str) -> Command {
    let mut command = Command::new("nsenter");
    command.arg(format!("--net=/run/netns/{namespace}")).arg(program);
    command
}

/// A node: a network, a folder, a containerd.
pub struct Node {
    namespace: String,
    pub address: String,
    pub folder: String,
    containerd: Child,
}

impl Node {
    pub fn ctr(&self, arguments: &[&str]) -> Command {
        let mut command = self.command("ctr");
        command.args(["--address", &format!("{}/socket", self.folder)]).args(arguments);
        command
    }

    /// Brings the first copy by hand.
    pub fn load(&self) -> String {
        let archive = format!("{}/image.tar", self.folder);
        let file = std::fs::File::create(&archive).expect("room for it");
        run(Command::new(env!("CARGO_BIN_EXE_quinistry")).arg("save").stdout(file));
        run(&mut self.ctr(&["images", "import", "--snapshotter", "native", &archive]));
        "docker.io/library/quinistry:latest".to_owned()
    }

    /// Pulls from another node, as one does who knows that it speaks plain HTTP.
    pub fn pull(&self, holder: &Node) -> String {
        let image = format!("{}/quinistry:latest", holder.registry());
        run(&mut self.ctr(&["images", "pull", "--plain-http", "--snapshotter", "native", &image]));
        image
    }

    /// Where a container of this node can be reached.
    pub fn registry(&self) -> String {
        format!("{}:8080", self.address)
    }

    /// The digest of an image that this node has.
    pub fn digest(&self, image: &str) -> String {
        let list = run(&mut self.ctr(&["images", "list", &format!("name=={image}")]));
        let digest = list.split_whitespace().find(|word| word.starts_with("sha256:"));
        digest.unwrap_or_else(|| panic!("no {image} in {list}")).to_owned()
    }

    /// A command on this node's network.
    pub fn command(&self, program: &str) -> Command {
        inside(&self.namespace, program)
    }

    /// Runs an image until it serves, and gives its digest.
    pub fn run(&self, image: &str) -> String {
        let log = format!("file://{}/log", self.folder);
        // runc keeps what runs on one machine in one place, so it must have no other node's name.
        let name = &self.namespace;
        let how =
            ["run", "--detach", "--net-host", "--snapshotter", "native", "--log-uri", &log, image, name];
        run(&mut self.ctr(&how));
        eventually("it serves", || {
            let mut check = self.command(env!("CARGO_BIN_EXE_quinistry"));
            let output = check.arg("healthcheck").output().expect("it starts");
            output.status.success().then_some(())
        });
        let digest = self.digest(image);
        assert!(self.log().contains(&digest), "what runs serves what it was run from");
        digest
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(format!("{}/log", self.folder)).expect("a log")
    }

    /// How often it has sent the layer.
    pub fn sent(&self) -> usize {
        self.log().matches("Serving layer: GET").count()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.ctr(&["task", "delete", "--force", &self.namespace]).output();
        let _ = self.containerd.kill();
        let _ = self.containerd.wait();
        let _ = Command::new("ip").args(["netns", "delete", &self.namespace]).status();
    }
}
