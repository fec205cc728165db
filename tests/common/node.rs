//! Cluster nodes: network namespaces, each with its own containerd.
//!
//! The nodes are isolated: nothing outside can reach them, and they can reach nothing outside. They need root and the
//! commands that [`Network::new`] lists. Without these, the tests that use nodes are skipped.

use std::process::{Child, Command, Stdio};

use super::{Folder, eventually, has_tool, quinistry, run, save, skip, system, tool};

/// An isolated network for nodes.
pub struct Network {
    /// The namespace with the bridge that connects the nodes.
    switch: Namespace,
    folder: Folder,
}

/// A network namespace.
struct Namespace(String);

impl Namespace {
    fn new(name: String) -> Option<Self> {
        let made = tool("ip").args(["netns", "add", &name]).status();
        made.is_ok_and(|status| status.success()).then_some(Self(name))
    }

    /// Runs `ip` in the namespace.
    fn ip(&self, line: &str) {
        run(tool("ip").args(["-n", &self.0]).args(line.split(' ')));
    }

    /// Returns a command that runs in the namespace. This uses `nsenter` because `ip netns exec` would hide the control
    /// groups from the command.
    fn command(&self, program: &Command) -> Command {
        let mut command = tool("nsenter");
        command.arg(format!("--net=/run/netns/{}", self.0)).arg(program.get_program());
        command
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = tool("ip").args(["netns", "delete", &self.0]).status();
    }
}

impl Network {
    /// Creates a network. If that is not possible, notes that the test is skipped, and returns `None`.
    pub fn new(name: &str) -> Option<Self> {
        let tools = [
            ("containerd", "--version"),
            ("ctr", "--version"),
            ("runc", "--version"),
            ("nsenter", "--version"),
            ("ip", "-V"),
        ];
        if !tools.into_iter().all(|(tool, argument)| has_tool(tool, &[argument])) {
            return None;
        }
        let Some(switch) = Namespace::new(format!("quinistry-{name}-{}", std::process::id())) else {
            skip("network namespaces cannot be created here");
            return None;
        };
        switch.ip("link add bridge type bridge");
        switch.ip("link set bridge up");
        Some(Self { switch, folder: Folder::new(name) })
    }

    /// Creates a node, which runs nothing but containerd.
    pub fn node(&self, number: usize) -> Node {
        let Network { switch, .. } = self;
        let namespace = Namespace::new(format!("{}-{number}", switch.0)).expect("another namespace can be created");
        let (address, port) = (format!("10.0.0.{number}"), format!("port{number}"));
        namespace.ip(&format!("link add eth0 type veth peer name {port} netns {}", switch.0));
        namespace.ip(&format!("address add {address}/24 dev eth0"));
        namespace.ip("link set lo up");
        namespace.ip("link set eth0 up");
        switch.ip(&format!("link set {port} master bridge up"));
        let folder = self.folder.path(&number.to_string());
        std::fs::create_dir(&folder).expect("a new directory");
        let configuration = format!(
            "version = 2\ndisabled_plugins = ['io.containerd.grpc.v1.cri']\n\
             root = '{folder}/root'\nstate = '{folder}/state'\n\
             [grpc]\naddress = '{folder}/socket'\n[ttrpc]\naddress = '{folder}/ttrpc'\n"
        );
        let file = format!("{folder}/config.toml");
        std::fs::write(&file, configuration).expect("the file can be written");
        let containerd = Daemon::start(namespace.command(&tool("containerd")).args(["--config", &file]));
        let node = Node { _containerd: containerd, namespace, address, folder };
        eventually("containerd responds", || {
            node.ctr(&["version"]).output().is_ok_and(|output| output.status.success()).then_some(())
        });
        node
    }
}

/// A background process. Dropping the value sends SIGTERM, and waits until the process has ended.
pub struct Daemon(Child);

impl Daemon {
    pub fn start(command: &mut Command) -> Self {
        Self(command.stderr(Stdio::null()).spawn().unwrap_or_else(|error| panic!("{command:?}: {error}")))
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Ok(None) = self.0.try_wait() {
            system::signal(&self.0, libc::SIGTERM);
        }
        let _ = self.0.wait();
    }
}

/// A node: containerd, a network namespace and a directory.
pub struct Node {
    _containerd: Daemon,
    namespace: Namespace,
    address: String,
    pub folder: String,
}

impl Node {
    /// Returns a `ctr` command for the containerd of this node.
    pub fn ctr(&self, arguments: &[&str]) -> Command {
        let mut command = self.command(&tool("ctr"));
        command.args(["--address", &format!("{}/socket", self.folder)]).args(arguments);
        command
    }

    /// Saves the image to an archive, imports the archive, and returns the name of the imported image.
    pub fn load(&self) -> String {
        let archive = format!("{}/image.tar", self.folder);
        save(&archive, &[]);
        run(&mut self.ctr(&["images", "import", "--snapshotter", "native", &archive]));
        "docker.io/library/quinistry:latest".to_owned()
    }

    /// Pulls the image from another node over plain HTTP, and returns the name of the pulled image.
    pub fn pull(&self, holder: &Node) -> String {
        let image = format!("{}/quinistry:latest", holder.registry());
        run(&mut self.ctr(&["images", "pull", "--plain-http", "--snapshotter", "native", &image]));
        image
    }

    /// Returns the address of the registry on this node.
    pub fn registry(&self) -> String {
        format!("{}:8080", self.address)
    }

    /// Returns the digest of an image on this node.
    pub fn digest(&self, image: &str) -> String {
        let list = run(&mut self.ctr(&["images", "list", &format!("name=={image}")]));
        let digest = list.split_whitespace().find(|word| word.starts_with("sha256:"));
        digest.unwrap_or_else(|| panic!("no {image} in {list}")).to_owned()
    }

    /// Returns a command that runs in this node's network.
    pub fn command(&self, program: &Command) -> Command {
        self.namespace.command(program)
    }

    /// Runs a container of an image, waits until the container serves that image, and returns the image's digest.
    pub fn run(&self, image: &str) -> String {
        let log = format!("file://{}/log", self.folder);
        // runc lists all containers on a machine in one place, so each needs a name of its own.
        let name = &self.namespace.0;
        let how = ["run", "--detach", "--net-host", "--snapshotter", "native", "--log-uri", &log, image, name];
        run(&mut self.ctr(&how));
        eventually("the container serves", || {
            let mut check = self.command(&quinistry());
            let output = check.arg("healthcheck").output().expect("the command starts");
            output.status.success().then_some(())
        });
        let digest = self.digest(image);
        eventually("the container serves its own image", || self.log().contains(&digest).then_some(()));
        digest
    }

    /// Returns the log of the container on this node.
    pub fn log(&self) -> String {
        std::fs::read_to_string(format!("{}/log", self.folder)).expect("a log")
    }

    /// Returns how many times this node has sent the layer.
    pub fn sent(&self) -> usize {
        self.log().matches("Serving layer: GET").count()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.ctr(&["task", "delete", "--force", &self.namespace.0]).output();
    }
}
