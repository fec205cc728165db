//! The load client: many connections, one thread, and every response checked.
//!
//! The client is a separate process on its own core, so that its work is not counted for the server. All connections
//! are open before the clock starts. Each connection then sends its next request as soon as it has the response (a
//! closed loop). So the rate is the maximum of the server, and the latencies are those at that rate.
//!
//! A *herd* is another load: the clock starts, all clients connect at once, and each sends one request. The clock stops
//! when the last client has everything.
//!
//! Deliberately absent: a general HTTP client. This one knows the expected response, and any other response is an error
//! that ends the measurement.

use std::io::{ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Registry, Token};
use quinistry::system;
use serde_json::{Value, json};

use crate::process::{self, CLIENT_CORE, Outcome};

/// How long a client of a herd may wait for its next bytes.
const PATIENCE: Duration = Duration::from_secs(10);

/// Runs the client as a separate process according to `plan`, and returns what it has measured.
pub fn drive(plan: &Value) -> Outcome<Value> {
    let mut command = process::pinned(CLIENT_CORE, std::env::current_exe()?);
    let output = command.args(["--load", &plan.to_string()]).output()?;
    if !output.status.success() {
        return Err(format!("{plan}: {}", String::from_utf8_lossy(&output.stderr)).into());
    }
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// What to request, and the expected response.
struct Plan {
    address: SocketAddr,
    /// All requests that a connection sends before it waits for their responses.
    requests: Vec<u8>,
    depth: usize,
    status_line: String,
    content_length: usize,
    is_closing: bool,
}

/// A connection, and what it still has to receive.
struct Client {
    stream: TcpStream,
    asked: Instant,
    unanswered: usize,
    /// The start of a head whose end has not arrived yet.
    head: Vec<u8>,
    /// The number of bytes that are missing from the content of a response.
    content_left: usize,
}

/// Runs the load client.
pub fn load(plan: &Value) -> Outcome<Value> {
    let number = |key: &str| plan[key].as_u64().ok_or(format!("no {key}"));
    let text = |key: &str| plan[key].as_str().ok_or(format!("no {key}"));
    let address: SocketAddr = text("address")?.parse()?;
    let (depth, connections) = (number("depth")? as usize, number("connections")? as usize);
    let is_herd = plan["is_herd"] == true;
    let (pid, time) = (number("pid")? as u32, Duration::from_millis(number("milliseconds")?));
    let request = process::request(address, text("path")?, text("fields")?);
    let plan = Plan {
        address,
        requests: request.repeat(depth).into_bytes(),
        depth,
        status_line: format!("HTTP/1.1 {} ", number("status")?),
        content_length: number("content_length")? as usize,
        is_closing: plan["is_closing"] == true,
    };
    let _ = system::raise_descriptor_limit();
    let mut poll = Poll::new()?;
    let mut clients = Vec::new();
    if !is_herd {
        for place in 0..connections {
            clients.push(plan.connect(Token(place), poll.registry())?);
        }
    }
    let cpus = || -> Outcome<_> { Ok([process::cpu(pid)?, process::cpu(std::process::id())?]) };
    let (start, before) = (Instant::now(), cpus()?);
    let latencies = if is_herd {
        herd(&plan, &mut poll, connections, start)?
    } else {
        for client in &mut clients {
            client.ask(&plan, start)?;
        }
        run(&plan, &mut poll, &mut clients, start + time)?
    };
    let (elapsed, mut after) = (start.elapsed(), cpus()?);
    if is_herd {
        after[0] = cpu_at_rest(pid)?;
    }
    let cpu = [0, 1].map(|at| after[at].saturating_sub(before[at]));
    Ok(summary(latencies, elapsed, cpu, plan.content_length))
}

/// Keeps all connections busy until `end`, and returns the latency of every response in nanoseconds.
fn run(plan: &Plan, poll: &mut Poll, clients: &mut [Client], end: Instant) -> Outcome<Vec<u64>> {
    let mut latencies = Vec::with_capacity(1 << 20);
    let mut buffer = vec![0; 256 * 1024];
    let mut events = Events::with_capacity(1024);
    while Instant::now() < end {
        poll.poll(&mut events, Some(end.saturating_duration_since(Instant::now())))?;
        for event in events.iter().filter(|event| event.is_readable()) {
            let client = &mut clients[event.token().0];
            loop {
                let count = match client.stream.read(&mut buffer) {
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    count => count?,
                };
                let now = Instant::now();
                if count == 0 {
                    if !plan.is_closing || client.unanswered > 0 {
                        return Err("the server closed a connection too early".into());
                    }
                    *client = plan.connect(event.token(), poll.registry())?;
                    client.ask(plan, now)?;
                    break;
                }
                let answered = client.take(&buffer[..count], plan)?;
                let latency = now.duration_since(client.asked).as_nanos() as u64;
                latencies.extend(std::iter::repeat_n(latency, answered));
                if client.unanswered == 0 && !plan.is_closing {
                    client.ask(plan, now)?;
                }
            }
        }
    }
    Ok(latencies)
}

/// Connects clients that send one request each. Returns for each client the time until it had everything, in
/// nanoseconds. A client then closes its connection, as it knows the length of the content.
fn herd(plan: &Plan, poll: &mut Poll, connections: usize, start: Instant) -> Outcome<Vec<u64>> {
    let mut clients = Vec::with_capacity(connections);
    for place in 0..connections {
        let mut client = plan.connect(Token(place), poll.registry())?;
        client.ask(plan, start)?;
        clients.push(Some(client));
    }
    let mut latencies = Vec::with_capacity(connections);
    let mut buffer = vec![0; 256 * 1024];
    let mut events = Events::with_capacity(1024);
    while latencies.len() < connections {
        poll.poll(&mut events, Some(PATIENCE))?;
        if events.is_empty() {
            return Err(format!("{} clients timed out", connections - latencies.len()).into());
        }
        for event in &events {
            let place = &mut clients[event.token().0];
            while let Some(client) = place {
                let count = match client.stream.read(&mut buffer) {
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    Ok(0) => return Err("the server closed a connection too early".into()),
                    count => count?,
                };
                if client.take(&buffer[..count], plan)? > 0 {
                    latencies.push(start.elapsed().as_nanos() as u64);
                    *place = None;
                }
            }
        }
    }
    Ok(latencies)
}

/// Waits until a process has closed its connections and is idle, and returns its CPU time.
fn cpu_at_rest(pid: u32) -> Outcome<Duration> {
    let mut before = process::cpu(pid)?;
    loop {
        std::thread::sleep(Duration::from_millis(20));
        let now = process::cpu(pid)?;
        if now == before {
            return Ok(now);
        }
        before = now;
    }
}

/// Returns the figures as JSON. `cpu` is the CPU time of the server and of this process.
fn summary(mut latencies: Vec<u64>, elapsed: Duration, cpu: [Duration; 2], content_length: usize) -> Value {
    latencies.sort_unstable();
    let requests = latencies.len();
    let microseconds = |part: f64| {
        let at = (requests as f64 * part) as usize;
        latencies.get(at.min(requests.saturating_sub(1))).map_or(f64::NAN, |&latency| latency as f64 / 1e3)
    };
    let seconds = elapsed.as_secs_f64();
    json!({
        "requests": requests,
        "requests_per_second": requests as f64 / seconds,
        "megabytes_per_second": (requests * content_length) as f64 / seconds / 1e6,
        "cpu_microseconds_per_request": cpu[0].as_secs_f64() * 1e6 / requests as f64,
        "own_cpu_microseconds_per_request": cpu[1].as_secs_f64() * 1e6 / requests as f64,
        "latency_microseconds": {
            "p50": microseconds(0.5), "p99": microseconds(0.99), "p99_9": microseconds(0.999),
            "max": microseconds(1.0),
        },
    })
}

impl Plan {
    fn connect(&self, token: Token, registry: &Registry) -> Outcome<Client> {
        // On the loopback interface, this waits only for the kernel.
        let stream = std::net::TcpStream::connect(self.address)?;
        stream.set_nonblocking(true)?;
        stream.set_nodelay(true)?;
        let mut stream = TcpStream::from_std(stream);
        registry.register(&mut stream, token, Interest::READABLE)?;
        Ok(Client { stream, asked: Instant::now(), unanswered: 0, head: Vec::new(), content_left: 0 })
    }
}

impl Client {
    /// Sends the next requests. There is room for them, because all earlier requests have been answered.
    fn ask(&mut self, plan: &Plan, now: Instant) -> Outcome<()> {
        self.stream.write_all(&plan.requests)?;
        (self.asked, self.unanswered) = (now, plan.depth);
        Ok(())
    }

    /// Consumes received bytes, and returns how many responses they complete.
    fn take(&mut self, mut bytes: &[u8], plan: &Plan) -> Outcome<usize> {
        const END: &[u8] = b"\r\n\r\n";
        let before = self.unanswered;
        while !bytes.is_empty() {
            if self.content_left == 0 {
                let kept = self.head.len();
                self.head.extend_from_slice(&bytes[..bytes.len().min(1024)]);
                let Some(end) = self.head.windows(END.len()).position(|window| window == END) else {
                    bytes = &bytes[self.head.len() - kept..];
                    continue;
                };
                let head = &self.head[..end + END.len()];
                let length = process::content_length(head);
                if !head.starts_with(plan.status_line.as_bytes()) || length != Some(plan.content_length) {
                    return Err(format!("not what was expected: {}", String::from_utf8_lossy(head)).into());
                }
                bytes = &bytes[head.len() - kept..];
                self.head.clear();
                self.content_left = plan.content_length;
            }
            let content = bytes.len().min(self.content_left);
            bytes = &bytes[content..];
            self.content_left -= content;
            if self.content_left == 0 {
                self.unanswered = self.unanswered.checked_sub(1).ok_or("a response without a request")?;
            }
        }
        Ok(before - self.unanswered)
    }
}
