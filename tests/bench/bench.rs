//! The benchmark, which measures rates and costs of the server: `cargo bench`, or `cargo bench -- --quick`.
//!
//! ```text
//!     bench.rs       the measurements, in order, and the report
//!     scenario.rs    what is requested from the servers, and the targets
//!     load.rs        our own client, which checks every response: rates and latencies
//!     compare.rs     nginx, quinistry and the limit side by side
//!     confinement.rs a confined server and an unconfined one, side by side
//!     limit.rs       the limit: a server that only makes the system calls
//!     process.rs     starts servers on their own core, and reads what they cost
//!     chart.rs       the comparison as a picture
//! ```
//!
//! Everything runs on the loopback interface, the server on one core and a client on another. So the figures show the
//! cost of the program, without that of a network. If a tool is not installed (wrk, nginx, strace, taskset), the
//! benchmark reports this and measures the rest.
//!
//! Deliberately absent: a verdict. A missed target is marked, but is not an error, because a busy machine misses any
//! target.
#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    reason = "figures are for people; none has more than a few digits that matter"
)]
#![allow(clippy::disallowed_methods, reason = "tools that are not installed are reported, see above")]

mod chart;
mod compare;
mod confinement;
mod limit;
mod load;
mod process;
mod scenario;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use quinistry::system;
use serde_json::{Map, Value, json};

use compare::Comparison;
use process::{Outcome, Server, find, median};
use scenario::{SCENARIOS, Subject, start_quinistry};

/// The options of the command line.
#[derive(Default)]
struct Options {
    is_quick: bool,
    json: Option<PathBuf>,
    svg: Option<PathBuf>,
    /// Whether `cargo bench` runs the benchmark. `cargo test --benches` only checks that the benchmark starts.
    is_bench: bool,
}

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let plan = |text: &str| serde_json::from_str::<Value>(text).map_err(Into::into);
    let outcome = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["--load", text] => plan(text).and_then(|plan| load::load(&plan)).map(|found| println!("{found}")),
        ["--limit", text] => plan(text).and_then(|plan| limit::serve(&plan)),
        ["--serve", text] => plan(text).and_then(|plan| confinement::serve(&plan)),
        _ => Options::parse(arguments.into_iter()).and_then(|options| bench(&options)),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error}");
            ExitCode::FAILURE
        }
    }
}

impl Options {
    fn parse(mut arguments: impl Iterator<Item = String>) -> Outcome<Self> {
        let mut options = Self::default();
        while let Some(argument) = arguments.next() {
            let mut file = || arguments.next().map(PathBuf::from).ok_or(format!("{argument} needs a file"));
            match argument.as_str() {
                "--quick" => options.is_quick = true,
                "--json" => options.json = Some(file()?),
                "--svg" => options.svg = Some(file()?),
                "--bench" => options.is_bench = true,
                // cargo also passes arguments that are meant for a test harness, such as a filter.
                _ => {}
            }
        }
        Ok(options)
    }

    /// Returns how long the load client measures, in milliseconds, and for the comparison, the length of a slice and
    /// the number of rounds.
    fn times(&self) -> (u64, Duration, usize) {
        if self.is_quick { (250, Duration::from_millis(400), 1) } else { (2000, Duration::from_millis(500), 16) }
    }
}

fn bench(options: &Options) -> Outcome<()> {
    if !options.is_bench {
        println!("No figures: this is for `cargo bench`.");
        return Ok(());
    }
    if !process::can_pin() {
        println!("Server and client share cores: there is no taskset, or only one core.");
    }
    // This process and its children open many connections.
    let _ = system::raise_descriptor_limit();
    let (milliseconds, slice, rounds) = options.times();
    let mut report = Map::new();
    report.insert("version".into(), env!("CARGO_PKG_VERSION").into());
    report.insert("start".into(), start(if options.is_quick { 3 } else { 15 })?);
    let server = start_quinistry()?;
    let subject = Subject::of(&server)?;
    report.insert("load".into(), scenarios(&subject, &server, milliseconds)?);
    report.insert("crowd".into(), crowd(&subject, &server, milliseconds)?);
    report.insert("system_calls_per_request".into(), system_calls(&subject, &server)?);
    report.insert("confinement".into(), price_of_confinement(&subject, options.is_quick)?);
    println!("\nPeak resident memory so far: {} KiB.", server.status("VmHWM")?);
    report.insert("peak_after_load_kib".into(), server.status("VmHWM")?.into());
    if find("wrk").is_none() {
        println!("\nSkipped the comparison: wrk is not installed.");
    } else {
        let comparisons = comparison(&subject, &server, rounds, slice)?;
        let all: Vec<_> = comparisons.iter().map(Comparison::to_json).collect();
        report.insert("comparison".into(), all.into());
        if let Some(file) = &options.svg {
            process::write(file, chart::draw(&comparisons))?;
        }
    }
    if let Some(file) = &options.json {
        process::write(file, format!("{:#}\n", Value::from(report)))?;
    }
    Ok(())
}

/// Measures the time from the start to the first response, and the server's memory then and with a thousand idle
/// connections.
fn start(times: usize) -> Outcome<Value> {
    const CONNECTIONS: u64 = 1000;
    let path = "/v2/quinistry/manifests/latest";
    let mut seconds = Vec::new();
    for _ in 0..times {
        // The server is not pinned, because taskset would add its own time.
        let address = process::free_address()?;
        let mut command = Command::new(env!("CARGO_BIN_EXE_quinistry"));
        command.args(["--listen", &address.to_string()]);
        let start = Instant::now();
        let server = Server::start(command, address)?;
        process::ask(server.address, path, "")?;
        seconds.push(start.elapsed().as_secs_f64());
    }
    let server = start_quinistry()?;
    process::ask(server.address, path, "")?;
    let (peak, idle) = (server.status("VmHWM")?, server.status("VmRSS")?);
    let connections: Outcome<Vec<_>> = (0..CONNECTIONS).map(|_| process::ask(server.address, path, "")).collect();
    let added = (server.status("VmRSS")? - idle) * 1024 / CONNECTIONS;
    drop(connections?);
    let milliseconds = median(seconds) * 1e3;
    println!("Start to first response: {milliseconds:.1} ms (median of {times}).");
    println!("Resident memory: {peak} KiB at most, {idle} KiB idle.");
    println!("Each of {CONNECTIONS} idle connections adds {added} bytes.");
    Ok(json!({
        "milliseconds": milliseconds,
        "peak_kib": peak,
        "idle_kib": idle,
        "bytes_per_idle_connection": added,
    }))
}

/// Measures rates and latencies of all scenarios with our own client.
fn scenarios(subject: &Subject, server: &Server, milliseconds: u64) -> Outcome<Value> {
    println!(
        "\n{:<28} {:>14} {:>9} {:>9} {:>9} {:>9} {:>12}",
        "", "rate", "p50 µs", "p99", "p99.9", "max", "CPU µs/req"
    );
    let mut all = Vec::new();
    for scenario in &SCENARIOS {
        let mut found = load::drive(&subject.plan(scenario, server, milliseconds))?;
        let key = if scenario.is_bulk() { "megabytes_per_second" } else { "requests_per_second" };
        let figure = |value: &Value| value.as_f64().unwrap_or(f64::NAN);
        let [p50, p99, p999, max] =
            ["p50", "p99", "p99_9", "max"].map(|part| figure(&found["latency_microseconds"][part]));
        let cpu = figure(&found["cpu_microseconds_per_request"]);
        println!(
            "{:<28} {:>8.0} {:<5} {p50:>9.0} {p99:>9.0} {p999:>9.0} {max:>9.0} {cpu:>12.2}",
            scenario.name,
            figure(&found[key]),
            scenario.unit()
        );
        found["scenario"] = scenario.name.into();
        all.push(found);
    }
    Ok(all.into())
}

/// Measures the cost of a request with thousands of busy connections, relative to that with 32.
fn crowd(subject: &Subject, server: &Server, milliseconds: u64) -> Outcome<Value> {
    let connections = 5000.min(system::raise_descriptor_limit().saturating_sub(100));
    let cost = |connections: usize| -> Outcome<f64> {
        let mut plan = subject.plan(&SCENARIOS[0], server, milliseconds);
        plan["connections"] = connections.into();
        let found = load::drive(&plan)?;
        Ok(found["cpu_microseconds_per_request"].as_f64().ok_or("no CPU time")?)
    };
    // The two loads are measured in turn, because the speed of the machine may change.
    let ratios: Outcome<Vec<_>> = (0..3).map(|_| Ok(cost(connections)? / cost(32)?)).collect();
    let ratio = median(ratios?);
    println!("\nCPU per request with {connections} connections, relative to 32: {ratio:.2}.");
    Ok(json!({ "connections": connections, "cpu_against_32": ratio }))
}

/// Counts the server's system calls per request, if strace is installed: for the manifest on persistent and on other
/// connections, for the layer, and for the layer if all clients connect at once.
fn system_calls(subject: &Subject, server: &Server) -> Outcome<Value> {
    let Some(strace) = find("strace") else {
        println!("\nSkipped the count of system calls: strace is not installed.");
        return Ok(Value::Null);
    };
    let mut report = Map::new();
    for scenario in [&SCENARIOS[0], &SCENARIOS[3], &SCENARIOS[5], &SCENARIOS[6]] {
        let counts = count_calls(&strace, &subject.plan(scenario, server, 300), server)?;
        println!("\nSystem calls per request: {}", scenario.name);
        for (name, count) in &counts {
            println!("  {name:<12} {count:.3}");
        }
        report.insert(scenario.name.into(), counts.into_iter().collect());
    }
    Ok(report.into())
}

/// Counts the system calls of one scenario. The server is slower under strace, so it finds more to do whenever it
/// wakes. Some calls are made once whenever it wakes, and their count per request is therefore too low.
fn count_calls(strace: &Path, plan: &Value, server: &Server) -> Outcome<Vec<(String, f64)>> {
    let mut command = Command::new(strace);
    command.args(["-f", "-c", "-p", &server.pid().to_string()]).stderr(Stdio::piped());
    let mut child = command.spawn()?;
    while server.status("TracerPid")? == 0 {
        if child.try_wait()?.is_some() {
            println!("\nstrace is not permitted to trace here.");
            return Ok(Vec::new());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    let found = load::drive(plan);
    process::interrupt(&child)?;
    let table = child.wait_with_output()?.stderr;
    let requests = found?["requests"].as_f64().ok_or("no count of requests")?;
    // The columns: % of time, seconds, µs per call, calls, perhaps errors, name.
    let row = |line: &str| {
        let columns: Vec<_> = line.split_whitespace().collect();
        let calls: f64 = columns.get(3)?.parse().ok()?;
        Some((columns.last().copied()?.to_owned(), calls / requests))
    };
    let rows = String::from_utf8_lossy(&table).lines().filter_map(row).collect::<Vec<_>>();
    Ok(rows.into_iter().filter(|(name, calls)| name != "total" && *calls >= 0.001).collect())
}

/// Measures the cost of the system call filter.
fn price_of_confinement(subject: &Subject, is_quick: bool) -> Outcome<Value> {
    let (pairs, slice) = if is_quick { (2, 100) } else { (40, 500) };
    println!("\nConfined relative to unconfined (medians of {pairs} pairs of {slice} ms; target: within 3 %):");
    let mut report = Map::new();
    for scenario in [&SCENARIOS[0], &SCENARIOS[4]] {
        let confinement::Price { rate, cpu } =
            confinement::price(subject, scenario, pairs, Duration::from_millis(slice))?;
        let mark = if rate < 0.97 || cpu > 1.03 { "*" } else { "" };
        println!("  {:<28} rate {rate:.3}, CPU per request {cpu:.3}{mark}", scenario.name);
        report.insert(scenario.name.into(), json!({ "rate": rate, "cpu": cpu }));
    }
    Ok(report.into())
}

/// Compares the servers, and prints the table of the comparison. A figure that misses its target is marked.
fn comparison(subject: &Subject, server: &Server, rounds: usize, slice: Duration) -> Outcome<Vec<Comparison>> {
    if find("nginx").is_none() {
        println!("\nSkipped the comparison with nginx, which is not installed.");
    }
    println!(
        "\nMedians of {rounds} rounds; targets in parentheses, * where missed.\n{:<37} {:>14} {:>15} {:>15} {:>15} {:>9} {:>10} {:>5}",
        "", "rate", "against nginx", "against limit", "CPU/nginx", "CPU/limit", "both/nginx", "busy"
    );
    compare::compare(subject, server, rounds, slice, |comparison| {
        let Comparison { scenario, rate, nginx, limit, cpu, cpu_limit, both, busy, .. } = comparison;
        let targets = scenario.targets.expect("only scenarios with targets are compared");
        let least = |ratio: Option<f64>, target: Option<f64>| {
            cell(ratio, target, "≥", ratio.zip(target).is_some_and(|(ratio, target)| ratio < target))
        };
        println!(
            "{:<37} {rate:>8.0} {:<5} {:>15} {:>15} {:>15} {cpu_limit:>9.2} {:>10} {:>4.0}%",
            comparison.name(),
            scenario.unit(),
            least(*nginx, Some(targets.nginx)),
            least(Some(*limit), targets.limit),
            cell(*cpu, Some(targets.cpu), "≤", cpu.is_some_and(|cpu| cpu > targets.cpu)),
            cell(*both, None, "", false),
            busy * 100.0,
        );
    })
}

fn cell(ratio: Option<f64>, target: Option<f64>, relation: &str, is_missed: bool) -> String {
    let ratio = ratio.map_or("-".into(), |ratio| format!("{ratio:.2}"));
    let target = target.map_or(String::new(), |target| format!(" ({relation} {target:.2})"));
    format!("{ratio}{target}{}", if is_missed { "*" } else { " " })
}
