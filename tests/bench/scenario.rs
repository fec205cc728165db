//! The scenarios: what is requested from the servers, by how many connections, and which targets the figures have.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::process::{self, Outcome, SERVER_CORE, Server};

/// The content that is requested.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    Manifest,
    Layer,
    /// The second quarter of the layer.
    Range,
}

/// A kind of load.
pub struct Scenario {
    pub name: &'static str,
    pub asked: Asked,
    pub connections: usize,
    /// How many requests a connection sends at once.
    pub depth: usize,
    /// Whether the connection ends with the response, so that each request needs a new connection.
    pub is_closing: bool,
    /// Whether all clients connect at once and send one request each.
    pub is_herd: bool,
    /// `None` if the scenario is not compared.
    pub targets: Option<Targets>,
}

/// The targets of the comparison: minimum ratios of the rates, and the maximum ratio of the CPU time.
#[derive(Clone, Copy)]
pub struct Targets {
    pub nginx: f64,
    pub limit: Option<f64>,
    pub cpu: f64,
}

const fn targets(nginx: f64, limit: Option<f64>, cpu: f64) -> Targets {
    Targets { nginx, limit, cpu }
}

const MANIFEST: Scenario = Scenario {
    name: "manifest, 32 connections",
    asked: Asked::Manifest,
    connections: 32,
    depth: 1,
    is_closing: false,
    is_herd: false,
    targets: Some(targets(1.25, Some(0.95), 0.80)),
};

const LAYER: Scenario = Scenario {
    name: "layer, 32 connections",
    asked: Asked::Layer,
    targets: Some(targets(1.1, Some(0.95), 0.95)),
    ..MANIFEST
};

const HERD: Scenario = Scenario {
    name: "layer, 1,000 at once",
    connections: 1000,
    is_closing: true,
    is_herd: true,
    targets: Some(targets(1.0, None, 1.0)),
    ..LAYER
};

pub const SCENARIOS: [Scenario; 10] = [
    MANIFEST,
    Scenario { name: "manifest, 512 connections", connections: 512, ..MANIFEST },
    Scenario { name: "manifest, 16 pipelined", depth: 16, targets: Some(targets(1.5, Some(0.8), 0.7)), ..MANIFEST },
    Scenario {
        name: "manifest, a connection each",
        is_closing: true,
        targets: Some(targets(1.1, None, 0.9)),
        ..MANIFEST
    },
    LAYER,
    Scenario { name: "layer, 1 connection", connections: 1, targets: Some(targets(1.0, Some(0.95), 1.0)), ..LAYER },
    HERD,
    Scenario { name: "layer, 5,000 at once", connections: 5000, ..HERD },
    Scenario { name: "layer, 1,000 at once, kept", is_closing: false, ..HERD },
    Scenario { name: "ranges, 32 connections", asked: Asked::Range, targets: None, ..LAYER },
];

impl Scenario {
    /// Returns whether the rate is in bytes rather than requests.
    pub fn is_bulk(&self) -> bool {
        self.asked != Asked::Manifest
    }

    /// Returns the unit of the rate.
    pub fn unit(&self) -> &'static str {
        if self.is_bulk() { "MB/s" } else { "req/s" }
    }
}

/// What quinistry serves, as clients receive it.
pub struct Subject {
    pub manifest_path: &'static str,
    pub manifest: Vec<u8>,
    pub layer_path: String,
    pub layer: Vec<u8>,
    /// The heads of the responses for the manifest and the layer, each without and with `Connection: close`.
    pub heads: [[Vec<u8>; 2]; 2],
    /// The directory of the files for other servers.
    pub directory: PathBuf,
}

impl Subject {
    pub fn of(server: &Server) -> Outcome<Self> {
        let manifest_path = "/v2/quinistry/manifests/latest";
        let ((manifest_head, manifest), _) = process::ask(server.address, manifest_path, "")?;
        let one_platform = "Accept: application/vnd.docker.distribution.manifest.v2+json\r\n";
        let ((_, with_layer), _) = process::ask(server.address, manifest_path, one_platform)?;
        let json: Value = serde_json::from_slice(&with_layer)?;
        let digest = json["layers"][0]["digest"].as_str().ok_or("a manifest without a layer")?;
        let layer_path = format!("/v2/quinistry/blobs/{digest}");
        let ((layer_head, layer), _) = process::ask(server.address, &layer_path, "")?;
        let closing_head = |path| -> Outcome<Vec<u8>> {
            let ((head, _), _) = process::ask(server.address, path, "Connection: close\r\n")?;
            Ok(head)
        };
        let heads = [[manifest_head, closing_head(manifest_path)?], [layer_head, closing_head(&layer_path)?]];
        let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("bench");
        Ok(Self { manifest_path, manifest, layer_path, layer, heads, directory })
    }

    pub fn path(&self, scenario: &Scenario) -> &str {
        if scenario.is_bulk() { &self.layer_path } else { self.manifest_path }
    }

    /// Returns the length of the content of each response.
    pub fn content_length(&self, scenario: &Scenario) -> usize {
        match scenario.asked {
            Asked::Manifest => self.manifest.len(),
            Asked::Layer => self.layer.len(),
            Asked::Range => self.layer.len() / 4,
        }
    }

    /// Returns the scenario as a plan for the load client.
    pub fn plan(&self, scenario: &Scenario, server: &Server, milliseconds: u64) -> Value {
        let fields = match scenario.asked {
            Asked::Range => {
                let length = self.content_length(scenario);
                format!("Range: bytes={length}-{}\r\n", 2 * length - 1)
            }
            _ if scenario.is_closing => "Connection: close\r\n".into(),
            _ => String::new(),
        };
        json!({
            "address": server.address.to_string(),
            "pid": server.pid(),
            "path": self.path(scenario),
            "fields": fields,
            "status": if scenario.asked == Asked::Range { 206 } else { 200 },
            "content_length": self.content_length(scenario),
            "connections": scenario.connections,
            "depth": scenario.depth,
            "is_closing": scenario.is_closing,
            "is_herd": scenario.is_herd,
            "milliseconds": milliseconds,
        })
    }
}

/// Starts quinistry on the servers' core. It logs requests, as it does by default.
pub fn start_quinistry() -> Outcome<Server> {
    let address = process::free_address()?;
    let mut command = process::pinned(SERVER_CORE, env!("CARGO_BIN_EXE_quinistry"));
    command.args(["--listen", &address.to_string()]);
    Server::start(command, address)
}
