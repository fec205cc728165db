//! Decides whose turn it is, so that a client that asks little never waits for a client that asks much.
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
//! Why two queues and not one? With one queue and 4,000 clients that each send 60 requests at a time, a
//! client with one request waited for up to 36 s. Why not the exact order of use? It would take a
//! search tree, and gain a client with one request a few milliseconds.
//!
//! Deliberately absent: the addresses of clients. Many clients behind one address are as likely to be a
//! cluster as an attack.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::connection::REQUESTS_PER_TURN;

/// A client asks much if it has had as many requests answered lately as one turn allows. So a client
/// may ask 40 times a second, evenly, and still be one that asks little.
const MUCH: usize = REQUESTS_PER_TURN;

/// After this time, what a client has asked counts half.
const HALF_LIFE: Duration = Duration::from_millis(250);

/// What a client has asked lately, and whether it stands in a queue.
pub struct Share {
    /// How many requests were answered lately, as of `at`.
    answered: usize,
    at: Instant,
    is_queued: bool,
}

impl Share {
    /// The share of a client that has asked nothing yet.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        Self { answered: 0, at: now, is_queued: false }
    }

    /// Notes that the client has been taken from its queue, and has had some requests answered.
    pub fn note_turn(&mut self, requests: usize, now: Instant) {
        self.is_queued = false;
        self.discount(now);
        self.answered += requests;
    }

    /// Halves the count for each half-life that has passed.
    fn discount(&mut self, now: Instant) {
        while self.answered > 0 && now >= self.at + HALF_LIFE {
            self.answered /= 2;
            self.at += HALF_LIFE;
        }
        if self.answered == 0 {
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
        if share.is_queued {
            return;
        }
        share.is_queued = true;
        share.discount(now);
        let queue = if share.answered < MUCH { &mut self.light } else { &mut self.heavy };
        queue.push_back(client);
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
                shares[CROWD].note_turn(1, now);
            }
            let client = turns.next_light().or_else(|| turns.next_heavy()).expect("the crowd never rests");
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
        share.note_turn(0, now + HALF_LIFE);
        turns.enqueue('a', &mut share, now + 2 * HALF_LIFE);
        assert_eq!(turns.next_light(), Some('a'));
    }
}
