//! Prototype.
use std::time::Duration;

use floodway_proto::Time;
use floodway_proto::wire::Message;

use crate::io::PeerKey;
use crate::swarm::Swarm;

#[derive(Clone, Copy, Debug)]
pub(crate) struct Spare {
    since: Time,
    looked_at: Time,
    was_idle: bool,
    idle: Duration,
    pub(crate) told: u8,
}

impl Spare {
    pub(crate) fn new(now: Time) -> Self {
        Self { since: now, looked_at: now, was_idle: false, idle: Duration::ZERO, told: 1 }
    }
}

pub(crate) fn v(n: &str, d: u64) -> u64 {
    std::env::var(n).ok().and_then(|v| v.parse().ok()).unwrap_or(d)
}

impl Swarm {
    pub(crate) fn watch_uploads(&mut self) {
        let now = self.now;
        if self.spare.was_idle {
            self.spare.idle += now.since(self.spare.looked_at);
        }
        self.spare.looked_at = now;
        self.spare.was_idle = self.sending == 0 && self.uploads.is_empty();
    }

    pub(crate) fn tell_spare(&mut self) {
        self.watch_uploads();
        let passed = self.now.since(self.spare.since);
        if passed < Duration::from_millis(v("SW", 1000)) {
            return;
        }
        if v("SD", 0) == 2 { eprintln!("{:.1} {:?} sp {} busy {} of {} seeds {} have {} asked {:?} up {} queue {:?}", self.now.since(Time::ZERO).as_secs_f64(), self.config.name, self.spare_peers, self.busy_peers, self.peers.len(), self.seeds, self.have.count(), self.peers.values().map(|p| p.asked.len()).collect::<Vec<_>>(), self.rates.up.rate(self.now).0 * 8 / 1_000_000, self.peers.values().map(|p| p.queue.len()).collect::<Vec<_>>()); }
        let share = self.spare.idle.as_secs_f64() / passed.as_secs_f64();
        self.spare.since = self.now;
        self.spare.idle = Duration::ZERO;
        let others = self.peers.values().filter(|p| p.own && !p.is_seed());
        let (count, sum) = others.fold((0u64, 0u64), |(c, s), p| (c + 1, s + u64::from(p.have.count())));
        let behind = u64::from(self.have.count()) * count * 4 < sum * v("SB", 3);
        let state = if self.is_complete() { 1 } else if behind && share > 0.3 { 1 } else if share > v("SH", 50) as f64 / 100.0 { 2 } else if share < v("SL", 10) as f64 / 100.0 { 0 } else { 1 };
        let spare = state;
        if state == self.spare.told { return; }
        self.spare.told = state;
        if v("SD", 0) == 1 { eprintln!("{:?} {:?} spare {spare} {share}", self.now, self.config.name); }
        let keys: Vec<PeerKey> = self.peers.iter().filter(|(_, p)| p.own).map(|(&k, _)| k).collect();
        for key in keys {
            self.send(key, Message::Extended { id: 77, payload: vec![spare].into() });
        }
    }

    pub(crate) fn peer_spare(&mut self, key: PeerKey, spare: u8) {
        if let Some(peer) = self.peers.get_mut(&key) {
            self.spare_peers -= usize::from(peer.spare == 2);
            self.spare_peers += usize::from(spare == 2);
            self.busy_peers -= usize::from(peer.spare == 0);
            self.busy_peers += usize::from(spare == 0);
            peer.spare = spare;
        }
    }

    pub(crate) fn spare_is_rare(&self) -> bool {
        self.busy_peers * 8 >= (self.peers.len() - self.seeds.min(self.peers.len())) * v("SR", 6) as usize
    }

    pub(crate) fn spare_first(&mut self) -> Option<PeerKey> {
        self.spare_turn = !self.spare_turn;
        if v("ST", 1) == 0 || !self.spare_turn || self.spare_peers == 0 || !self.spare_is_rare() { return None; }
        let all = v("SA", 0) == 1;
        self.uploads.iter().copied().filter(|key| self.peers[key].spare == 2).filter(|_| all || true).min_by_key(|key| self.peers[key].have.count())
    }
}
