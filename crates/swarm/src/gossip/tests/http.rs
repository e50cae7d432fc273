//! When a relay or control is asked over HTTP.

use super::*;

const A: PeerKey = PeerKey(1);

fn asked(outputs: &[GossipOutput]) -> Vec<HttpQuestion> {
    let asked = outputs.iter().filter_map(|output| match output {
        GossipOutput::AskHttp(question) => Some(question.clone()),
        _ => None,
    });
    asked.collect()
}

fn records(answer: Vec<Signed>) -> GossipInput {
    GossipInput::Answered(HttpAnswer::Records(answer))
}

/// Runs until it asks something, and says when and what.
fn next_question(gossip: &mut Gossip, until: u64) -> Option<(u64, HttpQuestion)> {
    loop {
        let GossipOutput::WakeAt(Some(at)) = gossip.poll_output() else {
            return None;
        };
        let now = at.as_nanos().div_ceil(1_000_000);
        if now > until {
            return None;
        }
        if let Some(question) = asked(&feed(gossip, now, GossipInput::Tick)).pop() {
            return Some((now, question));
        }
    }
}

fn for_records(have: Head, wait: bool) -> HttpQuestion {
    HttpQuestion::Records { have, wait }
}

#[test]
fn silence_of_the_neighbours_is_noticed() {
    // T23: the neighbours stopped at one record.
    let mut control = Control::new(64);
    let mut gossip = agent(64);
    feed(&mut gossip, 0, GossipInput::Help(true));
    feed(&mut gossip, 0, up(A));
    for record in control.seal([]).into_iter().chain(control.seal([0])) {
        feed(&mut gossip, 1000, says(A, ManifestMessage::Record(record)));
    }
    let have = control.sealer.head();
    let mut times = Vec::new();
    while let Some((now, question)) = next_question(&mut gossip, 140_000) {
        assert_eq!(question, for_records(have, false));
        times.push(now);
        // They are not behind: control has nothing new to say.
        feed(&mut gossip, now + 10, records(Vec::new()));
    }
    assert_eq!(times, [6000, 16_000, 36_000, 76_000, 136_000]);
    let newer = control.seal([1]);
    let (now, _) = next_question(&mut gossip, 200_000).unwrap();
    feed(&mut gossip, now, records(newer));
    assert_eq!(gossip.manifest().head(), control.sealer.head());
    // They are behind: from now on it follows over HTTP, ..
    let have = control.sealer.head();
    let (then, question) = next_question(&mut gossip, now + 1000).unwrap();
    assert_eq!((then, question), (now + 100, for_records(have, true)));
    feed(&mut gossip, then + 7000, records(control.seal([2])));
    assert!(next_question(&mut gossip, then + 7200).is_some());
    // .. until a neighbour brings something sooner.
    for record in control.seal([3]) {
        feed(
            &mut gossip,
            then + 8000,
            says(A, ManifestMessage::Record(record)),
        );
    }
    feed(&mut gossip, then + 8100, records(Vec::new()));
    assert_eq!(next_question(&mut gossip, then + 12_900), None);
    assert!(next_question(&mut gossip, then + 13_000).is_some());
}

#[test]
fn who_has_no_neighbour_follows_over_http() {
    let mut control = Control::new(64);
    let mut gossip = agent(64);
    assert_eq!(next_question(&mut gossip, 60_000), None, "nobody to ask");
    let outputs = feed(&mut gossip, 60_000, GossipInput::Help(true));
    assert_eq!(asked(&outputs), [for_records(Head::default(), true)]);
    let mut now = 60_000;
    for piece in 0..5 {
        let mut answer = control.seal([]);
        answer.extend(control.seal([piece]));
        feed(&mut gossip, now + 20, records(answer));
        assert!(gossip.manifest().facts().is_proven(piece));
        let have = control.sealer.head();
        assert_eq!(
            next_question(&mut gossip, now + 1000),
            Some((now + 120, for_records(have, true))),
            "what is signed meanwhile comes together"
        );
        now += 120;
    }
    // Nothing new within the wait: asked again, and not in a tight loop when the wait was none.
    feed(&mut gossip, now + 25_000, records(Vec::new()));
    let (then, _) = next_question(&mut gossip, now + 26_000).unwrap();
    assert_eq!(then, now + 25_100);
    feed(&mut gossip, then + 1, records(Vec::new()));
    let (again, _) = next_question(&mut gossip, then + 60_000).unwrap();
    assert_eq!(again, then + 5000);
    feed(&mut gossip, again, records(Vec::new()));
    // Unless control says that there is more, or names another relay.
    feed(&mut gossip, again + 40, GossipInput::MoreMayBeKnown);
    let (again, _) = next_question(&mut gossip, again + 4000).unwrap();
    assert_eq!(again, then + 5140);
    // With a neighbour it is heard instead.
    feed(&mut gossip, again, up(A));
    feed(&mut gossip, again + 10, records(Vec::new()));
    assert_eq!(next_question(&mut gossip, again + 4000), None);
    feed(&mut gossip, again + 4000, GossipInput::Help(false));
    assert_eq!(next_question(&mut gossip, again + 99_000), None);
}

#[test]
fn failures_back_off() {
    let mut gossip = agent(64);
    feed(&mut gossip, 0, GossipInput::Help(true));
    let mut waits = Vec::new();
    let mut last = 300;
    for _ in 0..8 {
        let (now, _) = next_question(&mut gossip, last + 100_000).unwrap();
        waits.push(now - last);
        feed(&mut gossip, now, GossipInput::Answered(HttpAnswer::Failed));
        last = now;
    }
    assert_eq!(waits, [0, 1000, 2000, 4000, 8000, 16_000, 32_000, 60_000]);
}

#[test]
fn a_question_that_was_lost_does_not_end_all() {
    let mut gossip = agent(64);
    feed(&mut gossip, 0, GossipInput::Help(true));
    assert!(next_question(&mut gossip, 1000).is_some());
    let (again, _) = next_question(&mut gossip, 200_000).unwrap();
    assert_eq!(again, 121_300);
}

#[test]
fn hashes_that_no_neighbour_brings_are_asked_for() {
    // All that a late joiner gets is a snapshot.
    let mut control = Control::new(1000);
    control.seal(0..1000);
    control.sealer = Sealer::new(control.manifest.sid(), control_key(), 0, 2);
    let snapshot = control.seal([]);
    let group = |first: u32| (first..(first + 512).min(1000)).map(|piece| fact(piece).hash);
    for lonely in [true, false] {
        let mut gossip = agent(1000);
        feed(&mut gossip, 0, GossipInput::Help(true));
        if !lonely {
            feed(&mut gossip, 0, up(A));
        }
        for record in &snapshot {
            feed(&mut gossip, 0, GossipInput::Record(record.clone()));
        }
        let begins = if lonely { 300 } else { 5000 };
        let (mut now, question) = next_question(&mut gossip, 6000).unwrap();
        assert_eq!(now, begins);
        let mut open = Some(question);
        let mut firsts = Vec::new();
        while gossip.manifest().facts().proven_pieces() < 1000 {
            let question = open.take().or_else(|| {
                let (at, question) = next_question(&mut gossip, now + 10_000)?;
                now = at;
                Some(question)
            });
            let answer = match question.unwrap() {
                HttpQuestion::Hashes { pieces } => {
                    firsts.push(pieces.start);
                    let first = pieces.start / 512 * 512;
                    let hashes = group(first).collect();
                    HttpAnswer::Hashes { first, hashes }
                }
                HttpQuestion::Records { .. } => HttpAnswer::Records(Vec::new()),
            };
            now += 10;
            let outputs = feed(&mut gossip, now, GossipInput::Answered(answer));
            open = asked(&outputs).pop();
        }
        assert_eq!(firsts[0], 0, "{firsts:?}");
        assert!(firsts.contains(&512), "{firsts:?}");
    }
}

#[test]
fn a_liar_is_not_asked_again() {
    let mut control = Control::new(1000);
    let mut gossip = agent(1000);
    feed(&mut gossip, 0, GossipInput::Help(true));
    let (now, _) = next_question(&mut gossip, 1000).unwrap();
    let mut forged = control.seal([7])[0].bytes().to_vec();
    *forged.last_mut().unwrap() ^= 1;
    let forged = Signed::decode(forged.into()).unwrap();
    let outputs = feed(&mut gossip, now, records(vec![forged]));
    assert!(outputs.contains(&GossipOutput::HttpFault), "{outputs:?}");
    assert_eq!(gossip.manifest().head(), Head::default());

    control.seal(0..512);
    control.sealer = Sealer::new(control.manifest.sid(), control_key(), 0, 2);
    // The pause after the forged record holds up no question for hashes.
    let mut open = Vec::new();
    for record in control.seal([]) {
        open.extend(asked(&feed(&mut gossip, now, GossipInput::Record(record))));
    }
    assert_eq!(open, [HttpQuestion::Hashes { pieces: 0..512 }]);
    let hashes = vec![Sha256([9; 32]); 512];
    let answer = HttpAnswer::Hashes { first: 0, hashes };
    let outputs = feed(&mut gossip, now, GossipInput::Answered(answer));
    assert!(outputs.contains(&GossipOutput::HttpFault), "{outputs:?}");
    assert!(!gossip.manifest().facts().is_proven(0));
}

#[test]
fn hashes_that_nobody_has_yet_hold_up_no_records() {
    let mut control = Control::new(1000);
    let mut gossip = agent(1000);
    feed(&mut gossip, 0, GossipInput::Help(true));
    // Of a group that still grows: a snapshot seals some pieces without their own hashes.
    control.seal(0..4);
    control.sealer = Sealer::new(control.manifest.sid(), control_key(), 0, 2);
    let mut open = Vec::new();
    for record in control.seal([]) {
        open.extend(asked(&feed(&mut gossip, 0, GossipInput::Record(record))));
    }
    let (mut now, mut kinds) = (0, Vec::new());
    while now < 3000 {
        let question = open.pop().or_else(|| {
            let (at, question) = next_question(&mut gossip, now + 10_000)?;
            now = at;
            Some(question)
        });
        let answer = match question.unwrap() {
            HttpQuestion::Hashes { .. } => {
                kinds.push("hashes");
                HttpAnswer::Failed
            }
            HttpQuestion::Records { .. } => {
                kinds.push("records");
                let piece = u32::try_from(kinds.len()).unwrap() + 10;
                HttpAnswer::Records(control.seal([piece]))
            }
        };
        now += 10;
        let outputs = feed(&mut gossip, now, GossipInput::Answered(answer));
        open.extend(asked(&outputs));
    }
    let asked_for = |kind| kinds.iter().filter(|of| **of == kind).count();
    assert!(asked_for("hashes") >= 2, "{kinds:?}");
    assert!(asked_for("records") >= 10, "{kinds:?}");
}
