//! Docker, which may be in use: a test has names of its own, and takes away what it has made.
//!
//! Docker's images and containers may be somebody's. A test names its images by the port of a server of
//! its own, removes by these names alone, and publishes on loopback ports that were free.

use super::run;
use super::tools::{has_tool, tool};

pub fn docker(arguments: &[&str]) -> String {
    run(tool("docker").args(arguments)).trim().to_owned()
}

pub fn has_docker() -> bool {
    has_tool("docker", &["info"])
}

/// The name of an image of a test's. In the end the image is removed, if it is there, together with the
/// containers that were made of it by this name.
pub struct ImageName(pub String);

impl ImageName {
    /// That of the image which is served on that port.
    pub fn at(port: u16) -> Self {
        Self(format!("localhost:{port}/quinistry"))
    }

    /// Pulls, and returns the digest that docker prints.
    pub fn pull(&self) -> String {
        let output = docker(&["pull", &self.0]);
        let line = output.lines().find_map(|line| line.strip_prefix("Digest: "));
        line.unwrap_or_else(|| panic!("no digest: {output}")).to_owned()
    }
}

impl Drop for ImageName {
    fn drop(&mut self) {
        // Not by the filter `ancestor`, which goes by the image's id: others may have the same image.
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
