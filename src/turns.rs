//! Decides whose turn it is, so that a client that asks little never waits for a client that asks much.
//!
//! Clients that can do something stand in one of two queues. A client that has asked little lately
//! stands in the *light* queue, and one that has asked much in the *heavy* one. The loop serves a few of
//! each and then looks again for what is new: see `server`.
//!
//! "Lately" is measured in rounds. A round is over when every client that stood in the heavy queue at
//! its beginning has had a turn. What a client has asked counts half after each round. So thousands of
//! clients that ask without end stay heavy, however long a round takes them all; and where no client
//! waits, rounds follow each other quickly and all is soon forgotten.
//!
//! ```text
//!     the kernel says that a client     light:  C D E      up to 64 at a time
//!     can go on, or its turn was   ->   
//!     over before its work was          heavy:  A B        up to 16 at a time; round over after B
//! ```
//!
//! Why two queues and not one? In one queue of 4,000 clients that each send 60 requests at a time, a
//! client with one request waited up to 36 s. Why not the exact order of use? It would take a search
//! tree, and gain a client with one request a few milliseconds.
//!
//! Deliberately absent: the addresses of clients. Many clients behind one address are as likely to be a
//! cluster as an attack.

use std::collections::VecDeque;

use crate::connection::REQUESTS_PER_TURN;

/// A client has asked much if it has had as many requests answered lately as one turn allows.
const MUCH: usize = REQUESTS_PER_TURN;

/// What a client has asked lately, and whether it stands in a queue.
#[derive(Default)]
pub struct Share {
    /// How many requests were answered, those of earlier rounds discounted, as of `round`.
    spent: usize,
    round: u32,
    is_queued: bool,
}

impl Share {
    /// Forgets half of what was spent for each round that has passed.
    fn discount(&mut self, round: u32) {
        self.spent = self.spent.checked_shr(round.wrapping_sub(self.round)).unwrap_or(0);
        self.round = round;
    }
}

/// The queues. `T` names a client.
pub struct Turns<T> {
    light: VecDeque<T>,
    heavy: VecDeque<T>,
    round: u32,
    /// How many of the heavy queue have not had their turn in this round.
    left_in_round: usize,
}

impl<T> Default for Turns<T> {
    fn default() -> Self {
        Self { light: VecDeque::new(), heavy: VecDeque::new(), round: 0, left_in_round: 0 }
    }
}

impl<T> Turns<T> {
    /// Whether no client has anything to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.light.is_empty() && self.heavy.is_empty()
    }

    /// Puts a client at the end of its queue, unless it stands in one already.
    pub fn enqueue(&mut self, client: T, share: &mut Share) {
        if share.is_queued {
            return;
        }
        share.is_queued = true;
        share.discount(self.round);
        let queue = if share.spent < MUCH { &mut self.light } else { &mut self.heavy };
        queue.push_back(client);
    }

    /// Takes the next client from the light queue.
    pub fn next_light(&mut self) -> Option<T> {
        self.light.pop_front()
    }

    /// Takes the next client from the heavy queue.
    pub fn next_heavy(&mut self) -> Option<T> {
        if self.left_in_round == 0 {
            self.round = self.round.wrapping_add(1);
            self.left_in_round = self.heavy.len();
        }
        self.left_in_round = self.left_in_round.saturating_sub(1);
        self.heavy.pop_front()
    }

    /// Notes that a client has been taken from its queue, and has had some requests answered.
    pub fn note(&self, share: &mut Share, requests: usize) {
        share.is_queued = false;
        share.discount(self.round);
        share.spent += requests;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Has clients 0 to `crowd` ask without end, and `visitor` once now and then. Gives the most turns
    /// of others that the visitor ever waited for.
    fn longest_wait(crowd: usize, asks_at_a_time: usize, pause: usize) -> usize {
        let mut turns = Turns::default();
        let mut shares: Vec<Share> = (0..=crowd).map(|_| Share::default()).collect();
        (0..crowd).for_each(|client| turns.enqueue(client, &mut shares[client]));
        let (mut longest, mut asked_at) = (0, None);
        for turn in 0..20 * crowd {
            if turn % pause == 0 && asked_at.is_none() && turn > 4 * crowd {
                asked_at = Some(turn);
                turns.enqueue(crowd, &mut shares[crowd]);
            }
            let client = turns.next_light().or_else(|| turns.next_heavy()).expect("the crowd never rests");
            if client == crowd {
                turns.note(&mut shares[crowd], 1);
                longest = longest.max(turn - asked_at.take().expect("it has asked"));
            } else {
                turns.note(&mut shares[client], asks_at_a_time);
                turns.enqueue(client, &mut shares[client]);
            }
        }
        longest
    }

    #[test]
    fn a_client_that_asks_little_does_not_wait_for_those_that_ask_much() {
        for crowd in [1, 10, 1000] {
            assert_eq!(longest_wait(crowd, REQUESTS_PER_TURN, crowd.div_ceil(2)), 0, "{crowd}");
        }
    }

    #[test]
    fn clients_that_ask_much_take_turns() {
        let mut turns = Turns::default();
        let mut shares: Vec<Share> = (0..3).map(|_| Share::default()).collect();
        for (client, share) in shares.iter_mut().enumerate() {
            turns.note(share, MUCH);
            turns.enqueue(client, share);
            turns.enqueue(client, share);
        }
        assert_eq!(turns.next_light(), None);
        let order: Vec<_> = std::iter::from_fn(|| turns.next_heavy()).collect();
        assert_eq!(order, [0, 1, 2], "each stands there once");
    }

    #[test]
    fn what_was_asked_is_forgotten_when_no_client_waits() {
        let mut turns = Turns::default();
        let mut share = Share::default();
        turns.note(&mut share, 100 * MUCH);
        for _ in 0..20 {
            assert_eq!(turns.next_heavy(), None);
        }
        turns.enqueue(7, &mut share);
        assert_eq!(turns.next_light(), Some(7));
    }
}
