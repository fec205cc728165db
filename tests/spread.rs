//! How the image spreads if every node that has it also serves it. One test simulates many nodes. The others use a few
//! real nodes, each with its own network and containerd (see `common/node.rs`), and are skipped where nodes cannot be
//! created.
//!
//! `cargo test --test spread -- --nocapture` prints the table in `k8s/README.md`.

mod common;

use std::fmt::Write as _;

use common::node::{Network, Node};
use common::{README, eventually};

/// A reproducible pseudorandom number generator (`SplitMix64`).
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) as usize % limit
    }
}

/// The cost of a spread to all nodes.
struct Spread {
    rounds: usize,
    /// How many times the busiest node sent the image.
    most_sent: usize,
}

/// Simulates the spread from one node to all. In each round, every node that lacks the image asks a random node that
/// has it. Each node serves at most `uploads` others in a round, and refuses the rest.
fn spread(nodes: usize, uploads: usize) -> Spread {
    let mut random = Random(nodes as u64);
    let mut sent = vec![0; nodes];
    let (mut holders, mut rounds) = (1, 0);
    while holders < nodes {
        let mut sent_now = vec![0; holders];
        let mut newcomers = 0;
        for _ in holders..nodes {
            let asked = random.below(holders);
            if sent_now[asked] < uploads {
                sent_now[asked] += 1;
                sent[asked] += 1;
                newcomers += 1;
            }
        }
        holders += newcomers;
        rounds += 1;
    }
    Spread { rounds, most_sent: sent.into_iter().max().unwrap_or(0) }
}

#[test]
fn the_number_of_rounds_grows_with_the_logarithm_of_the_number_of_nodes() {
    const UPLOADS: [usize; 2] = [1, 4];
    const MEGABYTES: f64 = 0.6; // The size of a layer, to one decimal.
    const ROOM: &str = "a String takes everything";
    let mut table = "| nodes |".to_owned();
    for uploads in UPLOADS {
        write!(table, " one registry, {uploads} at a time | all nodes | most sent |").expect(ROOM);
    }
    table += "\n|---:|---:|---:|---:|---:|---:|---:|\n";
    for nodes in [10, 100, 1_000, 10_000, 100_000] {
        write!(table, "| {nodes} |").expect(ROOM);
        for uploads in UPLOADS {
            let Spread { rounds, most_sent } = spread(nodes, uploads);
            let megabytes = f64::from(u32::try_from(most_sent).expect("not so many")) * MEGABYTES;
            let alone = (nodes - 1).div_ceil(uploads);
            write!(table, " {alone} | {rounds} | {megabytes:.1} MB |").expect(ROOM);
            // In the best case, every holder is busy in every round. Choosing at random costs at most three more
            // rounds.
            let fewest = (0..20).find(|rounds| (1 + uploads).pow(*rounds) >= nodes).expect("few") as usize;
            assert!((fewest..=fewest + 3).contains(&rounds), "{nodes} nodes, {uploads} uploads: {rounds}");
        }
        table.push('\n');
    }
    println!("{table}");
    assert!(README.contains(&table), "the README's table is not\n{table}");
}

#[test]
fn five_generations_on_five_nodes_have_one_digest() {
    let Some(network) = Network::new("chain") else { return };
    let first = network.node(1);
    let digest = first.run(&first.load());
    let mut chain = vec![first];
    for number in 2..=5 {
        let node = network.node(number);
        let image = node.pull(&chain[number - 2]);
        assert_eq!(node.run(&image), digest, "generation {number}");
        chain.push(node);
    }
    eventually("each node has sent the layer to the next one", || {
        let sent: Vec<_> = chain.iter().map(Node::sent).collect();
        (sent == [1, 1, 1, 1, 0]).then_some(())
    });
}

#[test]
fn eight_nodes_have_the_image_after_three_rounds() {
    let Some(network) = Network::new("fan") else { return };
    let mut random = Random(8);
    let first = network.node(1);
    let digest = first.run(&first.load());
    let mut holders = vec![first];
    for round in 1..=3 {
        // In each round, there are as many new nodes as holders. Each new node pulls from a different holder.
        let newcomers: Vec<_> = (1..=holders.len()).map(|number| network.node(holders.len() + number)).collect();
        let mut asked: Vec<_> = holders.iter().collect();
        std::thread::scope(|scope| {
            for newcomer in &newcomers {
                let holder = asked.swap_remove(random.below(asked.len()));
                let digest = &digest;
                scope.spawn(move || assert_eq!(newcomer.run(&newcomer.pull(holder)), *digest));
            }
        });
        holders.extend(newcomers);
        assert_eq!(holders.len(), 1 << round);
    }
    eventually("each node was sent the layer once", || {
        (holders.iter().map(Node::sent).sum::<usize>() == 7).then_some(())
    });
}
