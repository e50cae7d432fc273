use floodway_proto::Sid;

use super::*;

const A: NodeId = NodeId([1; 16]);
const B: NodeId = NodeId([2; 16]);
const C: NodeId = NodeId([3; 16]);

/// Relays that fetch so many pieces a round, played until all pieces are known.
struct Play {
    known: Bitfield,
    held: Vec<LeaseRow>,
    dealt: Vec<LeaseRow>,
    /// Pieces that each relay fetched, duplicates included.
    fetched: Vec<(NodeId, u32)>,
    chunk_max: u32,
    ranges: bool,
    young_from: u64,
}

impl Play {
    fn new(count: u32, chunk_max: u32) -> Self {
        Self {
            known: Bitfield::new(count),
            held: Vec::new(),
            dealt: Vec::new(),
            fetched: Vec::new(),
            chunk_max,
            ranges: true,
            young_from: u64::MAX,
        }
    }

    fn deal(&mut self, node: NodeId, relays: u32, recent: u32) -> Vec<(u32, u32)> {
        let mut dealt = Vec::new();
        loop {
            let board = Board {
                known: &self.known,
                held: &self.held,
                dealt: &self.dealt,
                relays,
                chunk_max: self.chunk_max,
                ranges: self.ranges,
                young_from: self.young_from,
            };
            let (first, count) = match board.deal(node, recent) {
                None => return dealt,
                Some(Deal::Grant { first, count }) => (first, count),
                Some(Deal::Steal {
                    lease,
                    first,
                    count,
                }) => {
                    self.held.retain(|held| held.id != lease);
                    (first, count)
                }
            };
            assert!(count > 0 && first + count <= self.known.len());
            let row = LeaseRow {
                id: self.dealt.len() as u64 + 1,
                sid: Sid([0; 32]),
                node,
                boot: 1,
                first,
                count,
            };
            self.held.push(row);
            self.dealt.push(row);
            dealt.push((first, count));
        }
    }

    /// The relay fetches up to `speed` pieces of its leases in order. Gives how many it fetched.
    fn fetch(&mut self, node: NodeId, speed: u32) -> u32 {
        let mut left = speed;
        for lease in self.held.iter().filter(|lease| lease.node == node) {
            for piece in lease.first..lease.first + lease.count {
                if left > 0 && !self.known.get(piece) {
                    self.known.set(piece);
                    self.fetched.push((node, piece));
                    left -= 1;
                }
            }
        }
        let known = &self.known;
        self.held
            .retain(|lease| (lease.first..lease.first + lease.count).any(|p| !known.get(p)));
        speed - left
    }

    /// Rounds until all is known.
    fn rounds(&mut self, speeds: &[(NodeId, u32)]) -> u32 {
        let mut recent = vec![0; speeds.len()];
        for round in 1..10_000 {
            for (index, &(node, speed)) in speeds.iter().enumerate() {
                self.deal(node, u32::try_from(speeds.len()).unwrap(), recent[index]);
                recent[index] = self.fetch(node, speed);
            }
            if self.known.is_full() {
                return round;
            }
        }
        panic!("never finished");
    }
}

#[test]
fn relays_share_evenly_and_no_piece_is_fetched_twice() {
    for relays in [1, 2, 3] {
        let speeds: Vec<_> = [A, B, C][..relays].iter().map(|node| (*node, 4)).collect();
        let mut play = Play::new(1024, 64);
        let rounds = play.rounds(&speeds);
        let ideal = 1024_u32.div_ceil(4 * u32::try_from(relays).unwrap());
        assert!(
            rounds <= ideal * 11 / 10 + 2,
            "{relays} relays: {rounds} rounds, ideal {ideal}"
        );
        assert_eq!(play.fetched.len(), 1024);
    }
}

#[test]
fn a_slow_relay_is_helped() {
    let mut play = Play::new(2000, 32);
    let rounds = play.rounds(&[(A, 20), (B, 1)]);
    assert!(rounds <= 2000 / 21 + 40, "{rounds} rounds");
    assert_eq!(play.fetched.len(), 2000);
}

#[test]
fn a_quick_relay_gets_more_than_two_chunks() {
    let mut play = Play::new(32_768, 16);
    let rounds = play.rounds(&[(A, 500)]);
    assert!(
        rounds <= 80,
        "{rounds} rounds; at two chunks a round it would be 1024"
    );
}

#[test]
fn the_pieces_of_a_vanished_relay_go_to_another_and_first_back_to_itself() {
    let mut play = Play::new(100, 10);
    assert_eq!(play.deal(A, 2, 0), [(0, 10), (10, 10)]);
    assert_eq!(play.deal(B, 2, 0), [(60, 10), (70, 10)]);
    play.held.retain(|lease| lease.node != A);
    let back = play.deal(A, 2, 0);
    assert!(back.iter().all(|(first, _)| *first < 20), "{back:?}");
    play.held.retain(|lease| lease.node != A);
    while !play.known.is_full() {
        play.deal(B, 1, 0);
        assert!(play.fetch(B, 10) > 0);
    }
    assert!(play.fetched.iter().all(|(node, _)| *node == B));
}

#[test]
fn without_ranges_one_relay_gets_everything() {
    let mut play = Play::new(100, 10);
    play.ranges = false;
    assert_eq!(play.deal(A, 2, 0), [(0, 100)]);
    assert_eq!(play.deal(B, 2, 0), []);
    play.fetch(A, 30);
    play.held.clear();
    assert_eq!(
        play.deal(B, 1, 0),
        [(0, 100)],
        "a new GET starts from the beginning"
    );
}

#[test]
fn an_idle_relay_takes_what_a_busy_one_has_not_begun_for_long() {
    let mut play = Play::new(20, 10);
    assert_eq!(play.deal(A, 1, 0), [(0, 10), (10, 10)]);
    play.young_from = 2;
    assert_eq!(
        play.deal(B, 2, 0),
        [],
        "its holder may be fetching it without having said so"
    );
    play.young_from = 3;
    assert_eq!(play.deal(B, 2, 0), [(10, 10)]);
    assert_eq!(play.held.iter().filter(|lease| lease.node == A).count(), 1);
    assert_eq!(
        play.deal(C, 3, 0),
        [],
        "a lease that is being worked on is never taken"
    );
}
