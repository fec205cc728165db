//! Docker, for tests that leave the user's images and containers untouched.
//!
//! A test names its images after the port of its own server. It removes only images and containers with these names,
//! and publishes only free loopback ports.

use super::run;
use super::tools::{has_tool, tool};

/// Runs a docker command, which must succeed, and returns its output without surrounding whitespace.
pub fn docker(arguments: &[&str]) -> String {
    run(tool("docker").args(arguments)).trim().to_owned()
}

/// Returns whether a Docker daemon is available. If not, notes that the test is skipped.
pub fn has_docker() -> bool {
    has_tool("docker", &["info"])
}

/// The name of an image that a test pulls or loads. Dropping this value removes the image, if it exists, and the
/// containers that were created from the image under this name.
pub struct ImageName(pub String);

impl ImageName {
    /// Returns the name of the image that is served on `port`.
    pub fn at(port: u16) -> Self {
        Self(format!("localhost:{port}/quinistry"))
    }

    /// Pulls the image, and returns the digest that docker prints.
    pub fn pull(&self) -> String {
        let output = docker(&["pull", &self.0]);
        let line = output.lines().find_map(|line| line.strip_prefix("Digest: "));
        line.unwrap_or_else(|| panic!("no digest: {output}")).to_owned()
    }
}

impl Drop for ImageName {
    fn drop(&mut self) {
        // docker's filter `ancestor` compares image IDs, so it would also find containers of the same image under other
        // names.
        let list = tool("docker").args(["ps", "--all", "--format", "{{.ID}} {{.Image}}"]).output();
        let list = list.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
        for line in list.unwrap_or_default().lines() {
            if let Some((id, image)) = line.split_once(' ')
                && image == self.0
            {
                let _ = tool("docker").args(["rm", "--force", id]).output();
            }
        }
        let _ = tool("docker").args(["rmi", "--force", &self.0]).output();
    }
}
