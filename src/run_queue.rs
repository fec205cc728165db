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
//! A *turn* is what one client does before the next is served. It ends when the client has used its [`Allowance`].
//! What a turn has cost counts half after a quarter of a second. A client that has just used a whole allowance is heavy.
//!
//! With one queue, a client with one request would wait until each of 4,000 clients that ask without end has had a
//! turn, and wait again for its next request. The exact order of use would take a search tree, and save a client with
//! one request a few milliseconds.
//!
//! Limits: the allowance, and how many turns there are between two polls. A client is in one queue at most. The tokens
//! of clients that are gone are removed when there are many ([`RunQueue::retain`]).
//!
//! Deliberately absent: the addresses of clients. A whole cluster may share one.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::http::response::Content;

/// How many requests a connection may have answered before it is the others' turn. wrk and other
/// clients that pipeline send 16 at once, which one turn should answer.
pub const REQUESTS_PER_TURN: usize = 20;

/// How many bytes of a file a connection may send before it is the others' turn: a whole layer, and 150 us
/// of work if the client takes it as fast as it is sent. With 256 KiB, a layer took a third more calls.
/// nginx's `sendfile_max_chunk` is 2 MiB.
pub const BYTES_PER_TURN: u64 = 640 * 1024;

/// How many light clients have a turn between two polls. At least as many as are accepted,
/// because each of those may need another turn.
pub const LIGHT_TURNS_PER_POLL: usize = 512;

/// How many heavy clients have a turn between two polls: 5 ms of work if each of them takes a
/// whole layer, which a network rarely does.
pub const HEAVY_TURNS_PER_POLL: usize = 32;

/// How many bytes of a file take as long to send as a request takes to answer.
const BYTES_PER_REQUEST: u64 = 12 * 1024;

/// How many bytes take as long to parse or to generate as a request of the usual size takes to answer.
const BYTES_PROCESSED_PER_REQUEST: usize = 512;

// A client that has used up a turn has asked much, whichever of the two it has used up.
const _: () = assert!(BYTES_PER_TURN / BYTES_PER_REQUEST >= REQUESTS_PER_TURN as u64);

/// A client asks much if it has cost as much recently as one turn allows, in requests. So a client may ask
/// 40 times a second, evenly, and still be one that asks little.
const MUCH: usize = REQUESTS_PER_TURN;

/// After this time, what a client has asked counts half.
const HALF_LIFE: Duration = Duration::from_millis(250);

/// How much a connection may do in one turn.
#[derive(Clone, Copy, Debug)]
pub struct Allowance {
    /// How many requests it may have answered. What takes as long as a request counts as one.
    pub requests: usize,
    /// How many bytes of a file it may send, and how many it may discard.
    pub bytes: u64,
}

impl Allowance {
    /// The allowance at the beginning of a turn.
    pub const FULL: Self = Self { requests: REQUESTS_PER_TURN, bytes: BYTES_PER_TURN };

    /// The allowance of a newcomer. Nearly all have one request to begin with. If thousands come at once
    /// and have more, the rest has to wait for a turn like everything else.
    pub const FIRST: Self = Self { requests: 4, ..Self::FULL };

    /// What a turn with this allowance has cost, in requests, if so much of the allowance is left.
    #[must_use]
    pub fn spent(self, left: Self) -> usize {
        (self.requests - left.requests) + ((self.bytes - left.bytes) / BYTES_PER_REQUEST) as usize
    }

    /// Takes off as much as so many requests of the usual size.
    pub fn pay(&mut self, requests: usize) {
        self.requests = self.requests.saturating_sub(requests);
    }
}

/// Returns what a request costs whose head has so many bytes, in requests of the usual size.
#[must_use]
pub fn cost(head: usize, content: &Content<'_>) -> usize {
    let (usual, generated) = match content {
        // It takes system calls of its own, while other responses share one.
        Content::File(_) => (4, 0),
        Content::Bytes(Cow::Owned(bytes)) => (1, bytes.len()),
        Content::Bytes(Cow::Borrowed(_)) => (1, 0),
    };
    usual + (head + generated) / BYTES_PROCESSED_PER_REQUEST
}

/// What a client has cost recently, and where it stands.
pub struct Load {
    /// The cost as of `at`, in requests.
    cost: usize,
    at: Instant,
    queue: Option<Queue>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Queue {
    Light,
    Heavy,
}

impl Load {
    /// The load of a client that has asked nothing yet.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        Self { cost: 0, at: now, queue: None }
    }

    /// Notes that the client has been taken from its queue.
    pub fn leave_queue(&mut self) {
        self.queue = None;
    }

    /// Whether the client stands in the light queue, so that its turn comes soon.
    #[must_use]
    pub fn is_next(&self) -> bool {
        self.queue == Some(Queue::Light)
    }

    /// Notes what a turn of the client has cost, in requests.
    pub fn note_turn(&mut self, cost: usize, now: Instant) {
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

/// The queues. `T` names a client.
pub struct RunQueue<T> {
    light: VecDeque<T>,
    heavy: VecDeque<T>,
}

impl<T> Default for RunQueue<T> {
    fn default() -> Self {
        Self { light: VecDeque::new(), heavy: VecDeque::new() }
    }
}

impl<T> RunQueue<T> {
    /// Whether no client has anything to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.light.is_empty() && self.heavy.is_empty()
    }

    /// Puts a client at the end of its queue, unless it stands in one already.
    pub fn enqueue(&mut self, client: T, load: &mut Load, now: Instant) {
        if load.queue.is_some() {
            return;
        }
        load.discount(now);
        if load.cost < MUCH {
            load.queue = Some(Queue::Light);
            self.light.push_back(client);
        } else {
            load.queue = Some(Queue::Heavy);
            self.heavy.push_back(client);
        }
    }

    /// How many tokens are in the queues, those of clients that are gone included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.light.len() + self.heavy.len()
    }

    /// Removes the clients that are gone.
    pub fn retain(&mut self, mut is_there: impl FnMut(&T) -> bool) {
        self.light.retain(&mut is_there);
        self.heavy.retain(&mut is_there);
    }

    /// Takes the next client from the light queue.
    pub fn next_light(&mut self) -> Option<T> {
        self.light.pop_front()
    }

    /// Takes the next client from the heavy queue.
    pub fn next_heavy(&mut self) -> Option<T> {
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
            queue.enqueue(client, load, now);
        }
        // A turn takes 50 us. The visitor asks once in 50 ms, from when all have had a turn.
        for turn in 0..20 * CROWD {
            now += Duration::from_micros(50);
            if turn >= CROWD && turn % 1000 == 0 {
                queue.enqueue(CROWD, &mut loads[CROWD], now);
                assert_eq!(queue.next_light(), Some(CROWD), "the visitor is next");
                loads[CROWD].leave_queue();
                loads[CROWD].note_turn(1, now);
            }
            let client = queue.next_light().or_else(|| queue.next_heavy()).expect("the crowd never rests");
            loads[client].leave_queue();
            loads[client].note_turn(MUCH, now);
            queue.enqueue(client, &mut loads[client], now);
        }
    }

    #[test]
    fn clients_that_ask_much_take_turns() {
        let now = Instant::now();
        let mut queue = RunQueue::default();
        let mut loads: Vec<Load> = (0..3).map(|_| Load::new(now)).collect();
        for (client, load) in loads.iter_mut().enumerate() {
            load.note_turn(MUCH, now);
            queue.enqueue(client, load, now);
            queue.enqueue(client, load, now);
        }
        assert_eq!(queue.next_light(), None);
        let order: Vec<_> = std::iter::from_fn(|| queue.next_heavy()).collect();
        assert_eq!(order, [0, 1, 2], "each stands there once");
    }

    #[test]
    fn what_was_asked_is_forgotten_with_time() {
        let now = Instant::now();
        let mut queue = RunQueue::default();
        let mut load = Load::new(now);
        load.note_turn(3 * MUCH, now);
        queue.enqueue('a', &mut load, now + HALF_LIFE);
        assert_eq!(queue.next_heavy(), Some('a'));
        load.leave_queue();
        load.note_turn(0, now + HALF_LIFE);
        queue.enqueue('a', &mut load, now + 2 * HALF_LIFE);
        assert_eq!(queue.next_light(), Some('a'));
    }
}
