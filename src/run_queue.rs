//! Decides which client is served next and for how long, so that a client with few requests does not wait for clients
//! with many.
//!
//! A client that can continue waits in one of two queues, as in the multilevel feedback queue of an operating system's
//! scheduler. One is for *light* clients, which have cost little recently, and the other for *heavy* clients, which
//! have cost much. With only one queue, a client with a single request would wait until each of 4,000 clients that
//! never stop asking has had a turn. It would wait as long again for its next request. Between two polls of the kernel,
//! the loop therefore serves some clients of each queue:
//!
//! ```text
//!     a client's socket is ready,        light:  C D E      up to 512 of them
//!     or its turn ended before its  ->
//!     work did                           heavy:  A B        up to 32 of them
//! ```
//!
//! A *turn* is what one client does before the next client is served. A turn ends when the client has nothing more to
//! do, and at the latest when it has cost [`TURN_COST`]. The unit of cost is the work of sending one byte of a file. A
//! client is heavy while its recorded cost is at least [`TURN_COST`], as it is after a whole turn. The recorded cost is
//! halved every quarter of a second, so that the client can become light again.
//!
//! Limits: the cost of a turn, and the number of turns between two polls. A client is in at most one queue.
//!
//! Deliberately absent: the addresses of clients, because a whole cluster may share one address.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use mio::Token;

/// The maximum cost of one turn. This is enough for a whole layer with its request. With 256 KiB, sending a layer took
/// a third more system calls. A turn with a layer is 150 us of work if the client takes the layer as fast as it is
/// sent. A turn is also enough for 17 requests with heads of 200 bytes, and thus for the 16 that a pipelining client
/// sends at once. For comparison, nginx's `sendfile_max_chunk` is 2 MiB.
pub const TURN_COST: u64 = 768 * 1024;

/// The maximum number of light clients that have a turn between two polls. The server accepts at most this many clients
/// between two polls, because each of them may need another turn.
pub const LIGHT_TURNS_PER_POLL: usize = 512;

/// The maximum number of heavy clients that have a turn between two polls: 5 ms of work if each takes a whole layer.
const HEAVY_TURNS_PER_POLL: usize = 32;

/// The time after which the recorded cost of a client is halved.
const HALF_LIFE: Duration = Duration::from_millis(250);

/// What a client has cost recently, and whether the client is in a queue.
pub struct Load {
    /// The cost as of `at`.
    cost: u64,
    at: Instant,
    /// Whether the client is in a queue. It must be set to false when the client is served.
    pub is_queued: bool,
}

impl Load {
    /// Returns the load of a client that has not asked for anything yet.
    pub fn new(now: Instant) -> Self {
        Self { cost: 0, at: now, is_queued: false }
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

/// The queue of light clients and the queue of heavy clients.
#[derive(Default)]
pub struct RunQueue {
    light: VecDeque<Token>,
    heavy: VecDeque<Token>,
}

impl RunQueue {
    pub fn is_empty(&self) -> bool {
        self.light.is_empty() && self.heavy.is_empty()
    }

    /// Puts a client at the end of its queue, or does nothing if the client is in a queue already.
    pub fn enqueue(&mut self, client: Token, load: &mut Load, now: Instant) {
        if !load.is_queued {
            load.is_queued = true;
            load.discount(now);
            let queue = if load.cost < TURN_COST { &mut self.light } else { &mut self.heavy };
            queue.push_back(client);
        }
    }

    /// Takes from the queues the clients that are served before the next poll.
    pub fn next_batch(&mut self) -> Vec<Token> {
        let light = self.light.len().min(LIGHT_TURNS_PER_POLL);
        let heavy = self.heavy.len().min(HEAVY_TURNS_PER_POLL);
        self.light.drain(..light).chain(self.heavy.drain(..heavy)).collect()
    }

    /// Removes a closed client from its queue, because otherwise a flood of evicted clients would fill the heavy queue
    /// faster than the loop serves it.
    pub fn remove(&mut self, client: Token, load: &Load) {
        if load.is_queued {
            self.light.retain(|&other| other != client);
            self.heavy.retain(|&other| other != client);
        }
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
        let mut turns = 0;
        for poll in 0..4000 {
            // The visitor asks once in 60 ms, after all other clients have had a turn.
            let is_visited = turns > CROWD && poll % 40 == 0;
            if is_visited {
                queue.enqueue(Token(CROWD), &mut loads[CROWD], now);
            }
            let batch = queue.next_batch();
            assert_eq!(is_visited, batch[0] == Token(CROWD), "the visitor is next");
            assert!(batch.len() <= LIGHT_TURNS_PER_POLL + HEAVY_TURNS_PER_POLL);
            turns += batch.len();
            for Token(client) in batch {
                now += Duration::from_micros(50);
                loads[client].is_queued = false;
                if client == CROWD {
                    loads[client].note_turn(TURN_COST / 24, now);
                } else {
                    loads[client].note_turn(TURN_COST, now);
                    queue.enqueue(Token(client), &mut loads[client], now);
                }
            }
        }
    }

    #[test]
    fn clients_that_ask_much_take_turns_until_they_are_gone() {
        let now = Instant::now();
        let mut queue = RunQueue::default();
        let mut loads: Vec<Load> = (0..4).map(|_| Load::new(now)).collect();
        for (client, load) in loads.iter_mut().enumerate() {
            load.note_turn(TURN_COST, now);
            queue.enqueue(Token(client), load, now);
            queue.enqueue(Token(client), load, now);
        }
        queue.remove(Token(1), &loads[1]);
        assert_eq!(queue.next_batch(), [Token(0), Token(2), Token(3)], "each is there once");
        assert!(queue.is_empty());
    }

    #[test]
    fn what_was_asked_is_forgotten_with_time() {
        let now = Instant::now();
        let mut queue = RunQueue::default();
        let mut load = Load::new(now);
        load.note_turn(3 * TURN_COST, now);
        queue.enqueue(Token(7), &mut load, now + HALF_LIFE);
        assert_eq!(queue.heavy, [Token(7)]);
        queue.next_batch();
        load.is_queued = false;
        queue.enqueue(Token(7), &mut load, now + 2 * HALF_LIFE);
        assert_eq!(queue.light, [Token(7)]);
    }
}
