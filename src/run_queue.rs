//! Decides which client is served next, for how long, and what that costs it. A client that asks little does not wait
//! for clients that ask much.
//!
//! Document: none. The idea is that of a multilevel feedback queue in an operating system's scheduler.
//!
//! A client that can do something waits in one of two queues. A *light* client has asked little recently, and a *heavy*
//! one much. Between two polls of the kernel, the loop serves some clients of each queue: see `server`.
//!
//! ```text
//!     a client's socket is ready,      light:  C D E      all of them, as a rule
//!     or its turn was over before  ->
//!     its work was                     heavy:  A B        some of them
//! ```
//!
//! A *turn* is what one client does before the next is served. All work has a price, in the unit of the cheapest: what it
//! takes to send one byte of a file. A turn ends when it has cost [`TURN_COST`]. What a client has cost counts half after a
//! quarter of a second. A client that has just used a whole turn is heavy.
//!
//! With one queue, a client with one request would wait until each of 4,000 clients that ask without end has had a
//! turn, and wait again for its next request. The exact order of use would take a search tree, and save a client with
//! one request a few milliseconds.
//!
//! Limits: what a turn may cost, and how many turns there are between two polls. A client is in one queue at most. The tokens
//! of clients that are gone are removed when there are many ([`RunQueue::retain`]).
//!
//! Deliberately absent: the addresses of clients. A whole cluster may share one.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::time::{Duration, Instant};

use mio::Token;

use crate::http::response::Content;

/// What one turn may cost, in bytes of a file: a whole layer with its request, which is 150 us of work if the client
/// takes it as fast as it is sent; or some 20 small requests, because clients that pipeline send 16 at once. With
/// 256 KiB, a layer took a third more system calls. nginx's `sendfile_max_chunk` is 2 MiB.
pub const TURN_COST: u64 = 768 * 1024;

/// How many bytes of a file take as long to send as a small request takes to answer.
pub const REQUEST_COST: u64 = 32 * 1024;

/// How many bytes of a file take as long to send as one byte takes to parse or to generate.
const PROCESSED_BYTE_COST: u64 = 64;

/// How many light clients have a turn between two polls. At least as many as are accepted,
/// because each of those may need another turn.
pub const LIGHT_TURNS_PER_POLL: usize = 512;

/// How many heavy clients have a turn between two polls: 5 ms of work if each of them takes a
/// whole layer, which a network rarely does.
pub const HEAVY_TURNS_PER_POLL: usize = 32;

/// After this time, what a client has asked counts half.
const HALF_LIFE: Duration = Duration::from_millis(250);

/// Returns what a response costs, without the bytes of a file, to a request whose head has so many bytes.
#[must_use]
pub fn cost(head: usize, content: &Content<'_>) -> u64 {
    let generated = if let Content::Bytes(Cow::Owned(bytes)) = content { bytes.len() } else { 0 };
    REQUEST_COST + PROCESSED_BYTE_COST * (head + generated) as u64
}

/// What a client has cost recently, and where it stands.
pub struct Load {
    /// The cost as of `at`.
    cost: u64,
    at: Instant,
    /// Whether the client is in a queue.
    is_queued: bool,
}

impl Load {
    /// The load of a client that has asked nothing yet.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        Self { cost: 0, at: now, is_queued: false }
    }

    /// Notes that the client has been taken from its queue.
    pub fn leave_queue(&mut self) {
        self.is_queued = false;
    }

    /// Notes what a turn of the client has cost.
    pub fn note_turn(&mut self, cost: u64, now: Instant) {
        self.discount(now);
        self.cost += cost;
    }

    /// Halves the cost for each half-life that has passed.
    fn discount(&mut self, now: Instant) {
        while self.cost > 0 && now >= self.at + HALF_LIFE {
            self.cost /= 2;
            self.at += HALF_LIFE;
        }
        if self.cost == 0 {
            self.at = now;
        }
    }
}

/// The queues.
#[derive(Default)]
pub struct RunQueue {
    light: VecDeque<Token>,
    heavy: VecDeque<Token>,
}

impl RunQueue {
    /// Whether no client has anything to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.light.is_empty() && self.heavy.is_empty()
    }

    /// Puts a client at the end of its queue, unless it is in one already.
    pub fn enqueue(&mut self, client: Token, load: &mut Load, now: Instant) {
        if !load.is_queued {
            load.is_queued = true;
            load.discount(now);
            let queue = if load.cost < TURN_COST { &mut self.light } else { &mut self.heavy };
            queue.push_back(client);
        }
    }

    /// How many tokens are in the queues, those of clients that are gone included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.light.len() + self.heavy.len()
    }

    /// Removes the clients that are gone.
    pub fn retain(&mut self, mut is_there: impl FnMut(&Token) -> bool) {
        self.light.retain(&mut is_there);
        self.heavy.retain(&mut is_there);
    }

    /// Takes the next client from the light queue.
    pub fn next_light(&mut self) -> Option<Token> {
        self.light.pop_front()
    }

    /// Takes the next client from the heavy queue.
    pub fn next_heavy(&mut self) -> Option<Token> {
        self.heavy.pop_front()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_that_asks_little_does_not_wait_for_those_that_ask_much() {
        const CROWD: usize = 1000;
        let mut now = Instant::now();
        let mut queue = RunQueue::default();
        let mut loads: Vec<Load> = (0..=CROWD).map(|_| Load::new(now)).collect();
        for (client, load) in loads.iter_mut().enumerate().take(CROWD) {
            queue.enqueue(Token(client), load, now);
        }
        // A turn takes 50 us. The visitor asks once in 50 ms, from when all have had a turn.
        for turn in 0..20 * CROWD {
            now += Duration::from_micros(50);
            if turn >= CROWD && turn % 1000 == 0 {
                queue.enqueue(Token(CROWD), &mut loads[CROWD], now);
                assert_eq!(queue.next_light(), Some(Token(CROWD)), "the visitor is next");
                loads[CROWD].leave_queue();
                loads[CROWD].note_turn(REQUEST_COST, now);
            }
            let Token(client) =
                queue.next_light().or_else(|| queue.next_heavy()).expect("the crowd never rests");
            loads[client].leave_queue();
            loads[client].note_turn(TURN_COST, now);
            queue.enqueue(Token(client), &mut loads[client], now);
        }
    }

    #[test]
    fn clients_that_ask_much_take_turns() {
        let now = Instant::now();
        let mut queue = RunQueue::default();
        let mut loads: Vec<Load> = (0..3).map(|_| Load::new(now)).collect();
        for (client, load) in loads.iter_mut().enumerate() {
            load.note_turn(TURN_COST, now);
            queue.enqueue(Token(client), load, now);
            queue.enqueue(Token(client), load, now);
        }
        assert_eq!(queue.next_light(), None);
        let order: Vec<_> = std::iter::from_fn(|| queue.next_heavy()).collect();
        assert_eq!(order, [Token(0), Token(1), Token(2)], "each is there once");
    }

    #[test]
    fn what_was_asked_is_forgotten_with_time() {
        let now = Instant::now();
        let mut queue = RunQueue::default();
        let mut load = Load::new(now);
        load.note_turn(3 * TURN_COST, now);
        queue.enqueue(Token(7), &mut load, now + HALF_LIFE);
        assert_eq!(queue.next_heavy(), Some(Token(7)));
        load.leave_queue();
        load.note_turn(0, now + HALF_LIFE);
        queue.enqueue(Token(7), &mut load, now + 2 * HALF_LIFE);
        assert_eq!(queue.next_light(), Some(Token(7)));
    }
}
