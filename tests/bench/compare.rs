//! quinistry, nginx and the limit side by side, under the same load.
//!
//! The speed of a machine changes over time, so rounds are interleaved: in each round, each server has one slice of
//! time. The report has the median of the ratios within a round. Only one server at a time is under load. All servers
//! run on the same core, the client runs on another, and all servers serve the same content.
//!
//! nginx is configured for speed: one process, cached open files, no log (quinistry's log stays on), and `sendfile` and
//! `tcp_nopush` for the layer. For the manifest, nginx reads the file instead, and so sends head and content in one
//! packet. With `tcp_nopush`, nginx would also do so, but would delay pipelined responses by 40 ms until an
//! acknowledgement. The heads of nginx are as long as quinistry's. Other options, such as `deferred`, have their
//! defaults.
//!
//! wrk generates the load. Where wrk is likely to be slower than the servers, the report also has the figures of our
//! own client.
//!
//! Documents: the nginx manual, modules core and `ngx_http_core_module`; wrk's SCRIPTING.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

use crate::process::{self, CLIENT_CORE, Outcome, SERVER_CORE, Server, median};
use crate::scenario::{Asked, SCENARIOS, Scenario, Subject};
use crate::{limit, load};

/// The length of nginx's head if the field for padding is empty.
const NGINX_HEAD: usize = 292;

/// quinistry's figures relative to those of the other servers, in one scenario.
pub struct Comparison {
    pub scenario: &'static Scenario,
    pub client: Client,
    /// quinistry's rate, in the scenario's unit.
    pub rate: f64,
    pub nginx: Option<f64>,
    pub limit: f64,
    /// CPU time per request or byte, relative to nginx and to the limit.
    pub cpu: Option<f64>,
    pub cpu_limit: f64,
    /// CPU time of server and client together per request or byte, relative to nginx and the same client.
    pub both: Option<f64>,
    /// The share of its core that quinistry used. If that is less than 1, the client was slower, and limited the rate.
    pub busy: f64,
}

/// The client that generates the load.
#[derive(Clone, Copy)]
pub enum Client {
    Wrk,
    Own,
}

impl Comparison {
    pub fn name(&self) -> String {
        match self.client {
            Client::Own if !self.scenario.is_herd => format!("{}, own client", self.scenario.name),
            _ => self.scenario.name.into(),
        }
    }

    pub fn to_json(&self) -> Value {
        let targets = self
            .scenario
            .targets
            .map(|targets| json!({ "nginx": targets.nginx, "limit": targets.limit, "cpu": targets.cpu }));
        json!({
            "scenario": self.name(),
            "unit": self.scenario.unit(),
            "rate": self.rate,
            "rate_against_nginx": self.nginx,
            "rate_against_limit": self.limit,
            "cpu_against_nginx": self.cpu,
            "cpu_against_limit": self.cpu_limit,
            "cpu_with_client_against_nginx": self.both,
            "share_of_core": self.busy,
            "targets": targets,
        })
    }
}

/// The outcome of one slice of load on one server.
struct Sample {
    rate: f64,
    /// CPU seconds of the server per unit of work.
    cost: f64,
    /// The same for server and client together, if the client reports its own time.
    both: Option<f64>,
}

/// Compares the servers in all scenarios that have targets, and reports each scenario when it is done.
pub fn compare(
    subject: &Subject,
    quinistry: &Server,
    rounds: usize,
    slice: Duration,
    mut report: impl FnMut(&Comparison),
) -> Outcome<Vec<Comparison>> {
    let nginx = process::find("nginx").map(|nginx| start_nginx(&nginx, subject)).transpose()?;
    let directory = &subject.directory;
    let limit = |name: &str, head: &[u8], content: &[u8], layer: Option<&Path>, is_closing| {
        let response = directory.join(name);
        process::write(&response, [head, content].concat())?;
        limit::start(&response, layer, is_closing)
    };
    let [manifest, layer] = &subject.heads;
    let file = directory.join(&subject.layer_path[1..]);
    process::write(&file, &subject.layer)?;
    let limits = [
        limit("manifest", &manifest[0], &subject.manifest, None, false)?,
        limit("manifest-closing", &manifest[1], &subject.manifest, None, true)?,
        limit("layer", &layer[0], &[], Some(&file), false)?,
        limit("layer-closing", &layer[1], &[], Some(&file), true)?,
    ];
    let mut comparisons = Vec::new();
    let compared = SCENARIOS.iter().filter(|scenario| scenario.targets.is_some());
    let compared = compared.flat_map(|scenario| {
        let is_hard_on_wrk = scenario.asked == Asked::Manifest && !scenario.is_closing;
        let clients = match (scenario.is_herd, is_hard_on_wrk) {
            (true, _) => &[Client::Own][..],
            (_, true) => &[Client::Wrk, Client::Own],
            _ => &[Client::Wrk],
        };
        clients.iter().map(move |client| (scenario, *client))
    });
    for (scenario, client) in compared {
        let limit = &limits[2 * usize::from(scenario.is_bulk()) + usize::from(scenario.is_closing)];
        // One connection may be twice as fast as the next, so many must be measured.
        let parts = if scenario.connections == 1 { 4 } else { 1 };
        let slice = slice / parts as u32;
        let wrk = Wrk::new(scenario, subject)?;
        let load = |server: &Server| match client {
            Client::Wrk => wrk.load(server, slice),
            Client::Own => own_load(scenario, &subject.plan(scenario, server, slice.as_millis() as u64)),
        };
        let mut samples = Vec::new();
        // A herd takes a long time, and its figures vary little, so fewer rounds are enough.
        let rounds = if scenario.is_herd { rounds.div_ceil(2) } else { rounds };
        for _ in 0..rounds * parts {
            samples.push((load(quinistry)?, nginx.as_ref().map(load).transpose()?, load(limit)?));
        }
        let against_nginx = |ratio: fn(&Sample, &Sample) -> f64| {
            let ratios = samples.iter().map(|(ours, theirs, _)| Some(ratio(ours, theirs.as_ref()?)));
            ratios.collect::<Option<Vec<_>>>().map(median)
        };
        let comparison = Comparison {
            scenario,
            client,
            rate: median(samples.iter().map(|(quinistry, ..)| quinistry.rate)),
            nginx: against_nginx(|ours, theirs| ours.rate / theirs.rate),
            limit: median(samples.iter().map(|(ours, _, limit)| ours.rate / limit.rate)),
            cpu: against_nginx(|ours, theirs| ours.cost / theirs.cost),
            both: match client {
                Client::Wrk => None,
                Client::Own => {
                    against_nginx(|ours, theirs| ours.both.unwrap_or(f64::NAN) / theirs.both.unwrap_or(f64::NAN))
                }
            },
            cpu_limit: median(samples.iter().map(|(ours, _, limit)| ours.cost / limit.cost)),
            busy: median(samples.iter().map(|(ours, ..)| ours.cost * ours.rate)),
        };
        report(&comparison);
        comparisons.push(comparison);
    }
    Ok(comparisons)
}

/// Starts nginx, which serves the manifest and the layer as files, at the same paths as quinistry.
fn start_nginx(nginx: &Path, subject: &Subject) -> Outcome<Server> {
    let address = process::free_address()?;
    let directory = subject.directory.to_str().ok_or("a directory whose name is not UTF-8")?;
    process::write(&subject.directory.join(&subject.manifest_path[1..]), &subject.manifest)?;
    process::write(&subject.directory.join(&subject.layer_path[1..]), &subject.layer)?;
    // An additional field makes nginx's heads as long as quinistry's.
    let padding = "x".repeat(subject.heads[0][0].len().saturating_sub(NGINX_HEAD));
    let configuration = format!(
        "daemon off; master_process off; pid nginx.pid; error_log error.log;
         events {{ worker_connections 8192; }}
         http {{
             client_body_temp_path temporary; proxy_temp_path temporary; fastcgi_temp_path temporary;
             uwsgi_temp_path temporary; scgi_temp_path temporary;
             access_log off; sendfile on; tcp_nopush on; keepalive_requests 1000000000;
             open_file_cache max=100 inactive=1h; open_file_cache_valid 1h;
             default_type application/vnd.docker.distribution.manifest.v2+json;
             add_header Padding {padding};
             server {{
                 listen {address} backlog=4096; root {directory};
                 location /v2/quinistry/manifests/ {{ sendfile off; }}
             }}
         }}"
    );
    let file = subject.directory.join("nginx.conf");
    process::write(&file, configuration)?;
    let mut command = process::pinned(SERVER_CORE, nginx);
    command.args(["-p", directory, "-e", "error.log", "-c"]).arg(file);
    let server = Server::start(command, address)?;
    for (path, content) in [(subject.manifest_path, &subject.manifest), (&*subject.layer_path, &subject.layer)] {
        let ((head, file), _) = process::ask(address, path, "")?;
        if file != *content {
            return Err(format!("nginx serves something else: {}", String::from_utf8_lossy(&head)).into());
        }
    }
    Ok(server)
}

/// Puts a server under load from our own client.
fn own_load(scenario: &Scenario, plan: &Value) -> Outcome<Sample> {
    let found = load::drive(plan)?;
    let figure = |key: &str| found[key].as_f64().ok_or(format!("the client does not report {key}"));
    let requests = figure("requests_per_second")?;
    let rate = if scenario.is_bulk() { figure("megabytes_per_second")? } else { requests };
    let cost = |key: &str| figure(key).map(|cpu| cpu / 1e6 * requests / rate);
    let (server, client) = (cost("cpu_microseconds_per_request")?, cost("own_cpu_microseconds_per_request")?);
    Ok(Sample { rate, cost: server, both: Some(server + client) })
}

/// The command line of wrk for a scenario.
struct Wrk {
    arguments: Vec<String>,
    path: String,
    /// The length of a response's content in MB if work is measured in bytes, or else 1.
    work_per_request: f64,
}

impl Wrk {
    /// Writes the script for wrk, which prints exact figures and pipelines requests. wrk itself prints rounded figures.
    fn new(scenario: &Scenario, subject: &Subject) -> Outcome<Self> {
        let done = "done = function(summary)
            local e = summary.errors
            local failed = e.connect + e.read + e.write + e.status + e.timeout
            io.write(string.format('\\n{ \"requests\": %d, \"microseconds\": %d, \"failed\": %d }\\n',
                summary.requests, summary.duration, failed))
        end\n";
        let pipelined = "init = function()
            pipelined = string.rep(wrk.format(), DEPTH)
        end
        request = function()
            return pipelined
        end\n";
        let script = match scenario.depth {
            1 => done.to_owned(),
            depth => done.to_owned() + &pipelined.replace("DEPTH", &depth.to_string()),
        };
        let file = subject.directory.join(format!("depth-{}.lua", scenario.depth));
        process::write(&file, script)?;
        let connections = format!("-c{}", scenario.connections);
        let mut arguments: Vec<_> = ["-t1", &connections, "-d1m", "-s"].map(str::to_owned).into();
        arguments.push(file.to_string_lossy().into_owned());
        if scenario.is_closing {
            arguments.extend(["-H", "Connection: close"].map(str::to_owned));
        }
        let length = subject.content_length(scenario) as f64;
        let work_per_request = if scenario.is_bulk() { length / 1e6 } else { 1.0 };
        Ok(Self { arguments, path: subject.path(scenario).to_owned(), work_per_request })
    }

    /// Puts a server under load. wrk's own duration is in whole seconds, so it is interrupted.
    fn load(&self, server: &Server, slice: Duration) -> Outcome<Sample> {
        let mut command: Command = process::pinned(CLIENT_CORE, "wrk");
        command.args(&self.arguments).arg(format!("http://{}{}", server.address, self.path));
        let before = server.cpu()?;
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        std::thread::sleep(slice);
        process::interrupt(&child)?;
        let output = child.wait_with_output()?;
        let cpu = server.cpu()?.saturating_sub(before);
        let text = String::from_utf8_lossy(&output.stdout);
        let figures: Value = text
            .lines()
            .find(|line| line.starts_with('{'))
            .and_then(|line| serde_json::from_str(line).ok())
            .ok_or_else(|| format!("{command:?}: {text}{}", String::from_utf8_lossy(&output.stderr)))?;
        let figure = |key: &str| figures[key].as_f64().ok_or(format!("wrk does not report {key}"));
        if figure("failed")? > 0.0 || figure("requests")? == 0.0 {
            return Err(format!("{command:?}: {text}").into());
        }
        let work = figure("requests")? * self.work_per_request;
        Ok(Sample { rate: work / (figure("microseconds")? / 1e6), cost: cpu.as_secs_f64() / work, both: None })
    }
}
