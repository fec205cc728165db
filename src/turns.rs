//! Decides whose turn it is, so that a client that asks little never waits for a client that asks much.
//!
//! Document: none. The idea is that of a feedback queue in an operating system's scheduler.
//!
//! Clients that can do something stand in one of two queues. A client that has asked little lately
//! stands in the *light* queue, and one that has asked much in the *heavy* one. The loop serves some of
//! each and then looks again for what is new: see `server`.
//!
//! ```text
//!     a client's socket is ready,      light:  C D E      all of them, as a rule
//!     or its turn was over before  ->
//!     its work was                     heavy:  A B        some of them
//! ```
//!
//! "Lately" means that what a client has asked counts half after a quarter of a second. A client that
//! has just used up a turn has asked much.
//!
//! Why two queues and not one? In one queue, a client with one request waits until each of 4,000 clients
//! that ask without end has had a turn, and for its next request it waits again. Why not the exact order
//! of use? It would take a search tree, and gain a client with one request a few milliseconds.
//!
//! Limits: none of its own. A client stands in one queue at most; the tokens of clients that are gone are
//! removed when there are many ([`Turns::retain`]).
//!
//! Deliberately absent: the addresses of clients. A whole cluster may share one.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::connection::REQUESTS_PER_TURN;

/// A client asks much if it has cost as much lately as one turn allows, in requests. So a client may ask
/// 40 times a second, evenly, and still be one that asks little.
const MUCH: usize = REQUESTS_PER_TURN;

/// After this time, what a client has asked counts half.
const HALF_LIFE: Duration = Duration::from_millis(250);

/// What a client has cost lately, and where it stands.
pub struct Share {
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

impl Share {
    /// The share of a client that has asked nothing yet.
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
pub struct Turns<T> {
    light: VecDeque<T>,
    heavy: VecDeque<T>,
}

impl<T> Default for Turns<T> {
    fn default() -> Self {
        Self { light: VecDeque::new(), heavy: VecDeque::new() }
    }
}

impl<T> Turns<T> {
    /// Whether no client has anything to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.light.is_empty() && self.heavy.is_empty()
    }

    /// Puts a client at the end of its queue, unless it stands in one already.
    pub fn enqueue(&mut self, client: T, share: &mut Share, now: Instant) {
        if share.queue.is_some() {
            return;
        }
        share.discount(now);
        if share.cost < MUCH {
            share.queue = Some(Queue::Light);
            self.light.push_back(client);
        } else {
            share.queue = Some(Queue::Heavy);
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
        let mut turns = Turns::default();
        let mut shares: Vec<Share> = (0..=CROWD).map(|_| Share::new(now)).collect();
        for (client, share) in shares.iter_mut().enumerate().take(CROWD) {
            turns.enqueue(client, share, now);
        }
        // A turn takes 50 us. The visitor asks once in 50 ms, from when all have had a turn.
        for turn in 0..20 * CROWD {
            now += Duration::from_micros(50);
            if turn >= CROWD && turn % 1000 == 0 {
                turns.enqueue(CROWD, &mut shares[CROWD], now);
                assert_eq!(turns.next_light(), Some(CROWD), "the visitor is next");
                shares[CROWD].leave_queue();
                shares[CROWD].note_turn(1, now);
            }
            let client = turns.next_light().or_else(|| turns.next_heavy()).expect("the crowd never rests");
            shares[client].leave_queue();
            shares[client].note_turn(MUCH, now);
            turns.enqueue(client, &mut shares[client], now);
        }
    }

    #[test]
    fn clients_that_ask_much_take_turns() {
        let now = Instant::now();
        let mut turns = Turns::default();
        let mut shares: Vec<Share> = (0..3).map(|_| Share::new(now)).collect();
        for (client, share) in shares.iter_mut().enumerate() {
            share.note_turn(MUCH, now);
            turns.enqueue(client, share, now);
            turns.enqueue(client, share, now);
        }
        assert_eq!(turns.next_light(), None);
        let order: Vec<_> = std::iter::from_fn(|| turns.next_heavy()).collect();
        assert_eq!(order, [0, 1, 2], "each stands there once");
    }

    #[test]
    fn what_was_asked_is_forgotten_with_time() {
        let now = Instant::now();
        let mut turns = Turns::default();
        let mut share = Share::new(now);
        share.note_turn(3 * MUCH, now);
        turns.enqueue('a', &mut share, now + HALF_LIFE);
        assert_eq!(turns.next_heavy(), Some('a'));
        share.leave_queue();
        share.note_turn(0, now + HALF_LIFE);
        turns.enqueue('a', &mut share, now + 2 * HALF_LIFE);
        assert_eq!(turns.next_light(), Some('a'));
    }
}
