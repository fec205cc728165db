//! Keeps the connected clients, and decides which connections to close when places or memory run out.
//!
//! Document: epoll(7).
//!
//! The kernel returns a client's token with each of the client's events. A token is the number of a slot, and the slot
//! of a closed connection is used again. Nevertheless, no event reaches the wrong client: the server notes all events
//! of a poll before it closes a connection, and a closed socket has no further events.
//!
//! # Eviction
//!
//! To make room for a newcomer, the server first closes connections without a response in flight, and then those whose
//! client has taken nothing of its response for a while. In both groups, the connection that has waited longest is
//! closed first. A client that takes some bytes every second therefore keeps its place, however slowly it reads.
//! Clients in the run queue come last, because it may be the server that keeps them waiting. The search scans all
//! clients, which takes milliseconds. The server therefore closes a 64th of all clients at once, which also makes room
//! for the next newcomers.
//!
//! If incomplete heads and unsent responses take too much memory, the server first closes connections that have made no
//! progress for a while. Among these, it begins with the one that holds most, because an honest client needs little
//! memory, and needs it only briefly.
//!
//! Limits: none here, because the server compares [`Clients::count`], `held` and `queued` with its budget.
//!
//! Deliberately absent: an index by rank, because ranks change with every response, but are needed only in a shortage.

use std::cmp::Reverse;
use std::time::{Duration, Instant};

use mio::Token;

use crate::connection::Connection;
use crate::run_queue::Load;
use crate::socket::Socket;

/// One in this many clients is closed when a newcomer needs a place.
const EVICTED_ONE_IN: usize = 64;

/// How long a reader must have taken nothing before its connection can be closed for a newcomer.
pub const STALL_NOTICED: Duration = Duration::from_secs(1);

/// Whether a response is in flight, and since when the connection has waited. Among the clients that are not in the run
/// queue, the connection with the smallest rank is the first to be closed for a newcomer.
pub type Rank = (bool, Instant);

/// A connected client.
pub struct Client {
    pub socket: Socket,
    pub connection: Connection,
    pub load: Load,
}

/// All clients.
#[derive(Default)]
pub struct Clients {
    slots: Vec<Option<Client>>,
    /// The numbers of the empty slots.
    free: Vec<usize>,
    /// How many bytes all connections together hold.
    pub held: usize,
    /// An upper bound on the bytes that all sockets together have queued.
    pub queued: u64,
}

impl Clients {
    /// Returns the number of clients.
    pub fn count(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Adds a client, which must not hold or have queued any bytes yet, and returns its token.
    pub fn insert(&mut self, client: Client) -> Token {
        let slot = self.free.pop().unwrap_or(self.slots.len());
        if slot == self.slots.len() {
            self.slots.push(None);
        }
        self.slots[slot] = Some(client);
        Token(slot)
    }

    /// Applies `change` to a client that is still connected, and updates the totals of held and queued bytes.
    pub fn update<R>(&mut self, token: Token, change: impl FnOnce(&mut Client) -> R) -> Option<R> {
        let client = self.slots.get_mut(token.0)?.as_mut()?;
        let before = client.used();
        let result = change(client);
        let after = client.used();
        self.held = self.held - before.0 + after.0;
        self.queued = self.queued - before.1 + after.1;
        Some(result)
    }

    /// Changes each client as [`Self::update`] does.
    pub fn for_each(&mut self, mut change: impl FnMut(Token, &mut Client)) {
        for slot in 0..self.slots.len() {
            self.update(Token(slot), |client| change(Token(slot), client));
        }
    }

    fn occupied(&self) -> impl Iterator<Item = (Token, &Client)> {
        let slots = self.slots.iter().enumerate();
        slots.filter_map(|(slot, client)| Some((Token(slot), client.as_ref()?)))
    }

    /// Removes a client.
    pub fn remove(&mut self, token: Token) -> Option<Client> {
        let client = self.slots.get_mut(token.0)?.take()?;
        self.free.push(token.0);
        let (held, queued) = client.used();
        self.held -= held;
        self.queued -= queued;
        Some(client)
    }

    /// Asks the kernel how many bytes each socket has queued. A socket that had no queued bytes is skipped, because it
    /// still has none.
    pub fn measure(&mut self) {
        self.for_each(|_, Client { socket, .. }| {
            if socket.queued > 0 {
                socket.measure();
            }
        });
    }

    /// Returns the clients to close for newcomers, possibly none.
    pub fn evictable(&self, now: Instant) -> Vec<Token> {
        // A client in the run queue may have sent a request.
        let with_rank = |(token, Client { connection, load, .. }): (Token, &Client)| {
            Some((load.is_queued, rank(connection, now)?, token))
        };
        let mut ranked: Vec<(bool, Rank, Token)> = self.occupied().filter_map(with_rank).collect();
        let count = self.count().div_ceil(EVICTED_ONE_IN).min(ranked.len());
        if count < ranked.len() {
            ranked.select_nth_unstable(count);
        }
        ranked.truncate(count);
        ranked.into_iter().map(|(.., token)| token).collect()
    }

    /// Returns the clients whose connections hold memory, in the order in which they are to be closed.
    pub fn holders(&self, now: Instant) -> Vec<Token> {
        let rank = |(token, Client { connection, load, .. }): (Token, &Client)| {
            ((!load.is_queued && is_stalled(connection, now), connection.held()), token)
        };
        let mut ranked: Vec<_> = self.occupied().map(rank).filter(|((_, held), _)| *held > 0).collect();
        ranked.sort_unstable_by_key(|&(rank, _)| Reverse(rank));
        ranked.into_iter().map(|(_, token)| token).collect()
    }
}

impl Client {
    /// Returns how many bytes the connection holds, and an upper bound on the bytes that the socket has queued.
    fn used(&self) -> (usize, u64) {
        (self.connection.held(), self.socket.queued)
    }
}

/// Returns the rank of a connection when a newcomer needs a place, or `None` if the connection must stay because the
/// client is still taking a response.
pub fn rank(connection: &Connection, now: Instant) -> Option<Rank> {
    let is_in_flight = connection.is_in_flight();
    let can_be_closed = !is_in_flight || is_stalled(connection, now);
    can_be_closed.then(|| (is_in_flight, connection.waits_since()))
}

/// Returns whether a connection has waited for at least [`STALL_NOTICED`].
fn is_stalled(connection: &Connection, now: Instant) -> bool {
    now >= connection.waits_since() + STALL_NOTICED
}
