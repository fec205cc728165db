//! The cost of the system call filter: a confined server and an unconfined one, side by side.
//!
//! Both are separate processes of this benchmark, which serve quinistry's executable with quinistry's library. The
//! only difference is that one of them calls `Server::confine`. quinistry itself has no option that turns the filter
//! off, and should have none.
//!
//! Of two processes that run the same program, one may always be faster, because of the layout of its memory. So each
//! pair of slices has new processes, and their order alternates.
//!
//! Deliberately absent: the time of the filter for a single call. It depends on the call (see the order of
//! `confinement::RULES`), and only the cost of a request matters.

use std::fs::File;
use std::net::SocketAddr;
use std::time::Duration;

use quinistry::acceptor;
use quinistry::budget::Budget;
use quinistry::clock::Clock;
use quinistry::fault::Faults;
use quinistry::image::Image;
use quinistry::image::layer::Executable;
use quinistry::log::{Log, Requests};
use quinistry::metrics::Metrics;
use quinistry::service::Service;
use quinistry::site::Site;
use quinistry::system::{SealedFile, Signals};
use serde_json::{Value, json};

use crate::load;
use crate::process::{self, Outcome, SERVER_CORE, Server, median};
use crate::scenario::{Scenario, Subject};

/// Runs a server.
pub fn serve(plan: &Value) -> Outcome<()> {
    let address: SocketAddr = plan["address"].as_str().ok_or("no address")?.parse()?;
    let signals = Signals::new()?;
    let listener = acceptor::listen(address)?;
    let file = File::open(env!("CARGO_BIN_EXE_quinistry"))?;
    let size = file.metadata()?.len();
    let executable = Executable::check(file, size).map_err(|error| error.to_string())?;
    let packed = SealedFile::create(|layer| executable.pack(layer)).map_err(|error| error.to_string())?;
    let (layers, image) = Image::assemble(vec![packed]);
    let budget = Budget::of(u64::MAX, 1000);
    let service = Service {
        site: Box::leak(Box::new(Site::new(image))),
        faults: Faults::default(),
        clock: Clock::start(),
        log: Log::new(Requests::Shown, false),
        metrics: Metrics::default(),
    };
    let mut server = quinistry::server::Server::new(listener, signals, service, layers, budget)?;
    if plan["is_confined"] == true {
        server.confine();
    }
    server.run()?;
    Ok(())
}

fn start(is_confined: bool) -> Outcome<Server> {
    let address = process::free_address()?;
    let plan = json!({ "address": address.to_string(), "is_confined": is_confined });
    let mut command = process::pinned(SERVER_CORE, std::env::current_exe()?);
    command.args(["--serve", &plan.to_string()]);
    let server = Server::start(command, address)?;
    process::ask(address, "/v2/", "")?; // The first response shows that the server is ready.
    Ok(server)
}

/// The figures of a scenario with the filter, relative to those without it.
pub struct Price {
    /// The ratio of the rates.
    pub rate: f64,
    /// The ratio of the CPU times per request.
    pub cpu: f64,
}

/// Measures pairs of slices, and returns the medians of the ratios within a pair.
pub fn price(subject: &Subject, scenario: &Scenario, pairs: usize, slice: Duration) -> Outcome<Price> {
    let measure = |server: &Server| -> Outcome<(f64, f64)> {
        let found = load::drive(&subject.plan(scenario, server, slice.as_millis() as u64))?;
        let figure = |key: &str| found[key].as_f64().ok_or(format!("the client does not report {key}"));
        Ok((figure("requests_per_second")?, figure("cpu_microseconds_per_request")?))
    };
    let mut ratios = Vec::new();
    for pair in 0..pairs {
        let (confined, free) = (start(true)?, start(false)?);
        let is_filtered = |server: &Server| server.status("Seccomp").map(|kind| kind == 2);
        if !is_filtered(&confined)? || is_filtered(&free)? {
            return Err("only one of the two servers must be confined".into());
        }
        let ((rate, cpu), (free_rate, free_cpu)) = if pair % 2 == 0 {
            (measure(&confined)?, measure(&free)?)
        } else {
            let free = measure(&free)?;
            (measure(&confined)?, free)
        };
        ratios.push((rate / free_rate, cpu / free_cpu));
    }
    Ok(Price { rate: median(ratios.iter().map(|(rate, _)| *rate)), cpu: median(ratios.iter().map(|(_, cpu)| *cpu)) })
}
