//! The limit: a server that makes only the system calls that a response requires.
//!
//! For every empty line, which ends a head, the limit sends a recorded response of quinistry: the same bytes, from
//! memory or, for the layer, from a sealed file. The difference from quinistry is the cost of parsing requests,
//! deadlines, limits and the log.
//!
//! Deliberately absent: everything else that a server does. The limit parses nothing, checks nothing and has no
//! deadlines. It exits at the end of its standard input.

use std::io::{self, ErrorKind, Read};
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::path::Path;

use mio::net::{TcpListener, TcpStream};
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use quinistry::acceptor;
use quinistry::system::{self, SealedFile};
use serde_json::{Value, json};

use crate::process::{self, Outcome, SERVER_CORE, Server};

const LISTENER: Token = Token(usize::MAX);
const INPUT: Token = Token(usize::MAX - 1);

/// The maximum number of small responses that are sent at once, which is more than any scenario needs.
const GATHERED: usize = 64;

/// Starts a limit server. The file `response` has the head and any small content. Large content is in the file `layer`.
pub fn start(response: &Path, layer: Option<&Path>, is_closing: bool) -> Outcome<Server> {
    let address = process::free_address()?;
    let mut command = process::pinned(SERVER_CORE, std::env::current_exe()?);
    let plan = json!({
        "address": address.to_string(),
        "response": response.to_string_lossy(),
        "layer": layer.map(Path::to_string_lossy),
        "is_closing": is_closing,
    });
    command.args(["--limit", &plan.to_string()]);
    Server::start(command, address)
}

/// Runs a limit server.
pub fn serve(plan: &Value) -> Outcome<()> {
    let address: SocketAddr = plan["address"].as_str().ok_or("no address")?.parse()?;
    let mut listener = TcpListener::from_std(acceptor::listen(address)?);
    let canned = Canned::load(plan)?;
    let mut poll = Poll::new()?;
    poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
    poll.registry().register(&mut SourceFd(&0), INPUT, Interest::READABLE)?;
    let mut buffer = vec![0; 16 * 1024];
    let mut clients: Vec<Option<Client>> = Vec::new();
    let mut free = Vec::new();
    let mut events = Events::with_capacity(1024);
    loop {
        poll.poll(&mut events, None)?;
        for event in &events {
            match event.token() {
                INPUT => return Ok(()),
                LISTENER => {
                    while let Ok((stream, _)) = listener.accept() {
                        let place = free.pop().unwrap_or(clients.len());
                        if place == clients.len() {
                            clients.push(None);
                        }
                        let mut client = Client { stream, matched: 0, unsent: 0 };
                        let both = Interest::READABLE | Interest::WRITABLE;
                        poll.registry().register(&mut client.stream, Token(place), both)?;
                        // The request often comes with the connection.
                        match client.turn(true, false, &mut buffer, &canned) {
                            Ok(true) => clients[place] = Some(client),
                            _ => free.push(place),
                        }
                    }
                }
                Token(place) => {
                    let Some(client) = &mut clients[place] else { continue };
                    let (readable, ended) = (event.is_readable(), event.is_read_closed());
                    if !client.turn(readable, ended, &mut buffer, &canned).unwrap_or(false) {
                        clients[place] = None;
                        free.push(place);
                    }
                }
            }
        }
    }
}

/// The only response of this server.
struct Canned {
    /// The head with any small content, repeated if no layer follows.
    bytes: Vec<u8>,
    layer: Option<(SealedFile, usize)>,
    /// The length of one complete response.
    size: usize,
    is_closing: bool,
}

impl Canned {
    fn load(plan: &Value) -> Outcome<Self> {
        let response = std::fs::read(plan["response"].as_str().ok_or("no response")?)?;
        let is_closing = plan["is_closing"] == true;
        let Some(layer) = plan["layer"].as_str() else {
            return Ok(Self { size: response.len(), bytes: response.repeat(GATHERED), layer: None, is_closing });
        };
        let content = std::fs::read(layer)?;
        let (file, ()) = SealedFile::create(|file| file.write_all(&content))?;
        let size = response.len() + content.len();
        Ok(Self { bytes: response, layer: Some((file, content.len())), size, is_closing })
    }
}

struct Client {
    stream: TcpStream,
    /// How many bytes of CR LF CR LF have been seen.
    matched: u8,
    /// How many bytes of responses remain to be sent.
    unsent: usize,
}

impl Client {
    /// Reads requests and sends responses. Returns whether the connection stays open.
    fn turn(&mut self, mut is_readable: bool, is_ended: bool, buffer: &mut [u8], canned: &Canned) -> io::Result<bool> {
        let mut is_asked = false;
        while is_readable {
            let count = match self.stream.read(buffer) {
                Ok(0) => return Ok(false),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                count => count?,
            };
            // A short read has emptied the socket, except that the end of the stream may still have to be read.
            is_readable = count == buffer.len() || is_ended;
            let blank_lines = self.count_blank_lines(&buffer[..count]);
            self.unsent += blank_lines * canned.size;
            is_asked |= blank_lines > 0;
        }
        match self.send(canned) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(true),
            sent => sent.map(|()| !(is_asked && canned.is_closing)),
        }
    }

    fn count_blank_lines(&mut self, bytes: &[u8]) -> usize {
        let mut count = 0;
        for &byte in bytes {
            self.matched = match (self.matched, byte) {
                (0 | 2, b'\r') | (1, b'\n') => self.matched + 1,
                (3, b'\n') => {
                    count += 1;
                    0
                }
                (_, b'\r') => 1,
                _ => 0,
            };
        }
        count
    }

    fn send(&mut self, canned: &Canned) -> io::Result<()> {
        while self.unsent > 0 {
            // The position in the current response follows from the number of unsent bytes.
            let at = (canned.size - self.unsent % canned.size) % canned.size;
            let count = match (&canned.layer, canned.bytes.get(at..)) {
                (None, Some(bytes)) => {
                    let bytes = &bytes[..bytes.len().min(self.unsent)];
                    system::send(self.stream.as_fd(), bytes, false)?
                }
                (Some(_), Some(head)) if !head.is_empty() => system::send(self.stream.as_fd(), head, true)?,
                (Some((file, size)), _) => {
                    let start = at - canned.bytes.len();
                    file.send(self.stream.as_fd(), start as u64..*size as u64)?
                }
                (None, None) => unreachable!("without a layer, the bytes have the whole response"),
            };
            self.unsent -= count;
        }
        Ok(())
    }
}
