//! What relays sign themselves under leases.

use std::sync::Arc;

use super::*;

fn relay(pieces: u32) -> Gossip {
    let config = GossipConfig {
        signer: Some(Arc::new(relay_key())),
        ..GossipConfig::relay()
    };
    Gossip::new(ms(0), manifest(pieces), config, 1)
}

fn reads(piece: u32) -> GossipInput {
    let fact = fact(piece);
    GossipInput::Read { piece, fact }
}

/// The pieces in each attestation to a neighbour.
fn attested(outputs: &[GossipOutput], to: PeerKey) -> Vec<Vec<u32>> {
    let records = sent(outputs, to).into_iter().filter_map(|message| {
        let ManifestMessage::Record(signed) = message else {
            return None;
        };
        match &signed.record().body {
            Body::Attest(attest) => Some(attest.facts.iter().map(|fact| fact.index).collect()),
            _ => None,
        }
    });
    records.collect()
}

#[test]
fn a_relay_signs_its_first_pieces_at_once_and_later_what_control_leaves_for_a_second() {
    let mut control = Control::new(64);
    let mut relay = relay(64);
    feed(&mut relay, 0, up(A));
    for record in control.seal([]) {
        feed(&mut relay, 0, GossipInput::Record(record));
    }
    let lease = control.lease(1, 0, 40);
    feed(&mut relay, 0, GossipInput::Record(lease));
    for piece in 0..16 {
        let now = 100 + u64::from(piece);
        let outputs = feed(&mut relay, now, reads(piece));
        assert_eq!(attested(&outputs, A), [[piece]]);
        assert!(relay.manifest().facts().is_verifiable(piece));
    }
    // What control signs in time it does not sign.
    for piece in 16..22 {
        let outputs = feed(&mut relay, 200, reads(piece));
        assert!(attested(&outputs, A).is_empty());
    }
    for record in control.seal(16..18) {
        feed(&mut relay, 300, GossipInput::Record(record));
    }
    assert!(attested(&feed(&mut relay, 1199, GossipInput::Tick), A).is_empty());
    feed(&mut relay, 1199, reads(22));
    let outputs = feed(&mut relay, 1200, GossipInput::Tick);
    assert_eq!(attested(&outputs, A), [[18, 19, 20, 21, 22]]);
    // Outside of its leases it signs nothing, until it has one.
    feed(&mut relay, 1300, reads(50));
    assert!(attested(&feed(&mut relay, 2300, GossipInput::Tick), A).is_empty());
    let other = control.lease(2, 40, 24);
    feed(&mut relay, 2400, GossipInput::Record(other));
    let outputs = feed(&mut relay, 3300, GossipInput::Tick);
    assert_eq!(attested(&outputs, A), [[50]]);
    // Leases that were taken back count no more.
    control.status.revoked = vec![LeaseId(2)];
    for record in control.seal([]) {
        feed(&mut relay, 3400, GossipInput::Record(record));
    }
    feed(&mut relay, 3500, reads(51));
    assert!(attested(&feed(&mut relay, 9000, GossipInput::Tick), A).is_empty());
    // After a while it may sign at once again.
    let outputs = feed(&mut relay, 60_000, reads(23));
    assert_eq!(attested(&outputs, A), [[23]]);
}

/// What one of so many relays attests of 100 GB in pieces of 4 MiB at 1 Gbit/s: records, and their bytes. Control signs what it is
/// told three times a second.
fn attested_of_a_hundred_gigabytes(relays: u32) -> (u32, usize) {
    let (pieces, each_us) = (23_842, 33_554);
    let mut control = Control::new(pieces);
    let mut relay = relay(pieces);
    feed(&mut relay, 0, up(A));
    for record in control.seal([]) {
        feed(&mut relay, 0, GossipInput::Record(record));
    }
    // Each has its part of the content; this one the first.
    let part = pieces.div_ceil(relays);
    for number in (0..relays).rev() {
        let key = match number {
            0 => relay_key(),
            other => SecretKey::from_seed(&[100 + u8::try_from(other).unwrap(); 32]),
        };
        let first = number * part;
        let count = part.min(pieces - first);
        let lease = control.lease_of(&key, number.into(), first, count);
        feed(&mut relay, 0, GossipInput::Record(lease));
    }
    let (mut records, mut bytes) = (0, 0);
    let mut count = |outputs: &[GossipOutput]| {
        for message in sent(outputs, A) {
            if let ManifestMessage::Record(signed) = message
                && matches!(signed.record().body, Body::Attest(_))
            {
                records += 1;
                bytes += signed.bytes().len();
            }
        }
    };
    let at = |piece: u32| u64::from(piece) * u64::from(relays) * each_us / 1000;
    let at_once = 10_u32.div_ceil(relays);
    for first in (0..part).step_by(at_once as usize) {
        let end = (first + at_once).min(part);
        for piece in first..end {
            count(&feed(&mut relay, at(piece), reads(piece)));
        }
        for record in control.seal(first..end) {
            count(&feed(&mut relay, at(end), GossipInput::Record(record)));
        }
    }
    (records, bytes)
}

/// What follows from it is in control's test of the same 100 GB: a follower is sent this beside what control signs.
#[test]
fn a_hundred_gigabytes_cost_few_attestations_however_many_relays_read_them() {
    for relays in [1, 2, 8, 16] {
        let (records, bytes) = attested_of_a_hundred_gigabytes(relays);
        assert!(records >= 16 / relays, "{relays}: {records} records");
        let all = bytes * relays as usize;
        assert!(all <= 18_000, "{relays}: {records} records, {all} bytes");
    }
}

#[test]
fn facts_flow_while_control_is_away() {
    for seed in 0..5 {
        let mut net = Net::random(seed, 20, 300);
        net.control_seals([]);
        net.control_leases(1, 0, 300);
        for piece in 0..300u32 {
            net.run_until(ms(100 + u64::from(piece) * 40));
            net.relay_reads(piece);
            if piece == 150 {
                let late = net.join(3);
                net.run_until(ms(100 + 151 * 40));
                // They have what they know.
                net.hears_of(late, 0..140);
            }
        }
        net.run_until(ms(20_000));
        net.check_all_can_verify(300);
        assert!(net.dropped.is_empty(), "seed {seed}: {:?}", net.dropped);
        // It comes back, and confirms all.
        net.control_seals(0..300);
        net.run_until(ms(40_000));
        net.check_all_know(300);
    }
}

#[test]
fn what_is_attested_again_and_again_costs_no_memory() {
    let mut control = Control::new(64);
    let mut gossip = agent(64);
    for record in control.seal([]) {
        feed(&mut gossip, 0, GossipInput::Record(record));
    }
    feed(&mut gossip, 0, GossipInput::Record(control.lease(1, 0, 64)));
    feed(&mut gossip, 0, up(A));
    feed(&mut gossip, 0, up(B));
    // A relay gone mad, with a key and a lease, through a neighbour.
    let mut passed_on = 0;
    for seq in 1..=5000 {
        let record = control.attest(seq, 1, 3..5);
        let message = ManifestMessage::Record(record);
        let outputs = feed(&mut gossip, 1, says(A, message));
        passed_on += attested(&outputs, B).len();
        let drop = GossipOutput::Drop {
            peer: A,
            fault: Fault::Flood,
        };
        if outputs.contains(&drop) {
            assert_eq!(passed_on, 1);
            assert_eq!(gossip.manifest().proof(0..64).records.len(), 2);
            return;
        }
    }
    panic!("the flood went on");
}

#[test]
fn a_neighbour_that_breaks_the_rules_of_leases_is_dropped() {
    let mut control = Control::new(64);
    let records = control.seal([]);
    let lease = control.lease(1, 8, 8);
    let outside = control.attest(1, 1, 16..17);
    let forged = Record {
        body: control.attest(1, 1, 8..9).record().body.clone(),
        ..lease.record().clone()
    };
    let forged = forged.sign(&SecretKey::from_seed(&[9; 32])).unwrap();
    for bad in [outside, forged] {
        let mut gossip = agent(64);
        feed(&mut gossip, 0, up(A));
        for record in records.iter().chain([&lease]) {
            feed(&mut gossip, 0, GossipInput::Record(record.clone()));
        }
        let outputs = feed(&mut gossip, 1, says(A, ManifestMessage::Record(bad)));
        let is_dropped = |output: &GossipOutput| {
            matches!(
                output,
                GossipOutput::Drop {
                    peer: A,
                    fault: Fault::Record(_)
                }
            )
        };
        assert!(outputs.iter().any(is_dropped), "{outputs:?}");
        assert_eq!(gossip.manifest().facts().missing(0..64), [0..64]);
    }
    // Of a lease that no longer counts a slow neighbour may still send some: ignored.
    let mut gossip = agent(64);
    feed(&mut gossip, 0, up(A));
    control.status.lease_floor = LeaseId(2);
    for record in records.into_iter().chain([lease]).chain(control.seal([])) {
        feed(&mut gossip, 0, GossipInput::Record(record));
    }
    let late = ManifestMessage::Record(control.attest(1, 1, 8..9));
    let outputs = feed(&mut gossip, 1, says(A, late));
    assert!(outputs.is_empty(), "{outputs:?}");
    assert_eq!(gossip.manifest().facts().missing(0..64), [0..64]);
}
