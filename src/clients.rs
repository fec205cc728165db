//! The table of connected clients: finds a client by its token, and the client that gives way when
//! there are too many.
//!
//! Document: epoll(7).
//!
//! A token is what the kernel hands back with an event. It names a slot of the table and the slot's
//! generation, which grows whenever the slot is emptied. So an event that was meant for a connection
//! that is closed does not reach the one that has its slot now.
//!
//! ```text
//!     token = generation * MAX_CONNECTIONS + slot
//! ```
//!
//! Limits: the most slots that a token can name. The server compares [`Clients::count`] with
//! [`Clients::limit`] before it adds a client, and [`Clients::held`] with its limit of memory.
//!
//! Deliberately absent: an index by rank. Ranks change with every answer, and are asked for only when
//! something is short. Then all clients are looked at, and the 64 that give way first are kept for the
//! next times.

use std::ops::Range;
use std::time::Instant;

use mio::Token;
use mio::net::TcpStream;

use crate::connection::{Connection, Rank, Shortage};
use crate::turns::Share;

/// The most connections, however many descriptors there are. An idle one costs less than 600 bytes, so
/// that all of them cost 10 MB.
pub const MAX_CONNECTIONS: usize = 16 * 1024;

const _: () = assert!(
    MAX_CONNECTIONS.is_power_of_two(),
    "otherwise a token whose generation wraps around would name another slot"
);

/// How many clients that may give way are looked up at a time.
const LOOKED_UP: usize = 64;

/// A client: its socket, its connection, and its share of the server's time.
pub struct Client {
    /// The client's socket, and what the kernel has said of it.
    pub socket: Socket,
    /// The state of the exchange with the client.
    pub connection: Connection,
    /// What the client has asked lately.
    pub share: Share,
}

/// A socket, and what the kernel has said of it.
pub struct Socket {
    /// The socket.
    pub stream: TcpStream,
    /// Whether there may be something to read. The kernel says so once. It is over when a read would
    /// block, or brings less than there was room for (epoll(7), question 9).
    pub is_readable: bool,
    /// Whether a read may bring less than there is. That is so when the other end has stopped sending,
    /// because the end comes separately; and when it has sent urgent data, because a read stops in
    /// front of it (tcp(7)). The kernel says that once, too, so this is never taken back.
    pub may_read_short: bool,
}

impl Socket {
    /// A socket that was just accepted. There may be something to read.
    #[must_use]
    pub fn new(stream: TcpStream) -> Self {
        Self { stream, is_readable: true, may_read_short: false }
    }
}

/// All clients.
pub struct Clients {
    slots: Vec<Slot>,
    free: Vec<usize>,
    limit: usize,
    /// What all connections together keep in memory.
    held: usize,
    /// The clients that give way first, as of the last look, for each shortage. The first to give way is
    /// last. An entry is stale if the client's rank has changed since. No client that is being answered
    /// is here, because since the last look there may be one that is not.
    candidates: [Vec<(Rank, Token)>; 2],
}

#[derive(Default)]
struct Slot {
    generation: usize,
    client: Option<Client>,
}

impl Clients {
    /// A table that has room for `limit` clients, at most [`MAX_CONNECTIONS`].
    #[must_use]
    pub fn new(limit: usize) -> Self {
        let candidates = [Vec::new(), Vec::new()];
        Self { slots: Vec::new(), free: Vec::new(), limit: limit.min(MAX_CONNECTIONS), held: 0, candidates }
    }

    /// How many clients there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// How many clients there can be.
    #[must_use]
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// How many bytes all connections together keep.
    #[must_use]
    pub fn held(&self) -> usize {
        self.held
    }

    /// The slots, empty ones included.
    #[must_use]
    pub fn slots(&self) -> Range<usize> {
        0..self.slots.len()
    }

    /// The token of the client that is in a slot, or that comes there next.
    #[must_use]
    pub fn token(&self, slot: usize) -> Token {
        let generation = self.slots[slot].generation;
        // The topmost bit is kept clear, for tokens that are no client's.
        Token(generation.wrapping_mul(MAX_CONNECTIONS).wrapping_add(slot) & (usize::MAX >> 1))
    }

    fn slot(&self, token: Token) -> Option<usize> {
        let slot = token.0 % MAX_CONNECTIONS;
        (slot < self.slots.len() && self.token(slot) == token).then_some(slot)
    }

    /// The client with that token, if it is still there.
    pub fn find(&mut self, token: Token) -> Option<&mut Client> {
        let slot = self.slot(token)?;
        self.slots[slot].client.as_mut()
    }

    /// Adds a client, and gives its token.
    pub fn insert(&mut self, client: Client) -> Token {
        let slot = self.free.pop().unwrap_or(self.slots.len());
        if slot == self.slots.len() {
            self.slots.push(Slot::default());
        }
        self.held += client.connection.held();
        self.slots[slot].client = Some(client);
        self.token(slot)
    }

    /// Changes a client, and counts what its connection then keeps.
    pub fn with<R>(&mut self, token: Token, change: impl FnOnce(&mut Client) -> R) -> Option<R> {
        let client = self.find(token)?;
        let before = client.connection.held();
        let result = change(client);
        let after = client.connection.held();
        self.held = self.held - before + after;
        Some(result)
    }

    /// Takes a client out of the table. Dropping it closes its connection.
    pub fn remove(&mut self, token: Token) -> Option<Client> {
        let slot = self.slot(token)?;
        let client = self.slots[slot].client.take()?;
        self.slots[slot].generation = self.slots[slot].generation.wrapping_add(1);
        self.held -= client.connection.held();
        self.free.push(slot);
        Some(client)
    }

    /// The client whose rank says that it gives way first, if any does.
    pub fn first_to_give_way(&mut self, shortage: Shortage, now: Instant) -> Option<Token> {
        loop {
            while let Some((rank, token)) = self.candidates[shortage as usize].pop() {
                if self.rank(token, shortage, now) == Some(rank) {
                    return Some(token);
                }
            }
            let ranked = self.slots().filter_map(|slot| {
                let token = self.token(slot);
                Some((self.rank(token, shortage, now)?, token))
            });
            let mut ranked: Vec<_> = ranked.collect();
            ranked.sort_unstable_by(|one, other| other.cmp(one));
            if ranked.last()?.0.is_being_answered() {
                return ranked.pop().map(|(_, token)| token);
            }
            ranked.retain(|(rank, _)| !rank.is_being_answered());
            ranked.drain(..ranked.len().saturating_sub(LOOKED_UP));
            self.candidates[shortage as usize] = ranked;
        }
    }

    /// The rank of a client; none if it does not give way. A client in the light queue keeps its place: it
    /// may have sent a request, and will be looked at soon.
    fn rank(&self, token: Token, shortage: Shortage, now: Instant) -> Option<Rank> {
        let client = self.slots[self.slot(token)?].client.as_ref()?;
        let keeps_place = shortage == Shortage::Places && client.share.is_next();
        if keeps_place { None } else { client.connection.rank(shortage, now) }
    }
}
