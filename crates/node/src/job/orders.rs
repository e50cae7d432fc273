//! What control says about one job now, and what follows from it: decisions without I/O.

use floodway_api::manifest::Phase;
use floodway_api::sync::{ContentInfo, OfflineOrigin, Policy};
use floodway_proto::Sid;

/// What control says about one job now.
#[derive(Clone, Debug, Default)]
pub(crate) struct Orders {
    /// The content, once known.
    pub(crate) sid: Option<Sid>,
    /// What control knows of it.
    pub(crate) info: Option<ContentInfo>,
    /// The origin may be read.
    pub(crate) ticket: Option<Ticket>,
    /// Control will not let us have it.
    pub(crate) refusal: Option<Refusal>,
    /// The key by which control signs, as this node first saw it.
    pub(crate) control_key: Option<[u8; 32]>,
    /// Why the relay task failed, when it did.
    pub(crate) relay_failed: Option<String>,
    /// Standing orders.
    pub(crate) policy: Policy,
    /// Control has not answered for a while.
    pub(crate) control_down: bool,
    /// The task is over: stop, and delete what is unfinished.
    pub(crate) cancelled: bool,
}

/// Permission to read the origin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ticket {
    /// The validator that every reply must carry, if control knows it.
    pub(crate) etag: Option<String>,
}

/// A refusal for good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    /// A stable word.
    pub(crate) code: String,
    /// For people.
    pub(crate) message: String,
}

/// What a job is like, apart from its orders.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Situation {
    /// The content's torrent is on this disk.
    pub(crate) torrent_kept: bool,
    /// The content's genesis is on this disk.
    pub(crate) genesis_kept: bool,
    /// There is an origin URL that this node could read.
    pub(crate) has_url: bool,
    /// The user forbids the origin.
    pub(crate) no_origin: bool,
    /// A user waits: better an error than waiting for ever.
    pub(crate) foreground: bool,
}

/// How to begin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Start {
    /// Nothing can be done yet.
    Wait(Waiting),
    /// Fetch the content by its torrent.
    Torrent(Sid),
    /// Fetch the content while relays fetch it, by what control signs of it.
    Growing(Sid),
    /// There is no torrent: fetch the object from its origin, for this reason.
    Plain(String),
    /// It must not be fetched.
    Refused(String),
    /// There is no such thing.
    NotFound(String),
}

/// What a job waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Waiting {
    /// Control's first answer.
    Control,
    /// A relay's work.
    Relay,
    /// Control's permission to read the origin.
    Ticket,
}

/// Decides how to begin.
pub(crate) fn start(orders: &Orders, situation: Situation) -> Start {
    if let Some(refusal) = &orders.refusal {
        return match refusal.code.as_str() {
            "not_found" => Start::NotFound(refusal.message.clone()),
            _ => Start::Refused(refusal.message.clone()),
        };
    }
    let is_final = orders.info.as_ref().is_some_and(|info| info.is_final);
    if let Some(sid) = orders
        .sid
        .filter(|_| situation.torrent_kept || (is_final && !orders.control_down))
    {
        return Start::Torrent(sid);
    }
    if let Some(sid) = orders.sid.filter(|_| is_growing(orders, situation)) {
        return Start::Growing(sid);
    }
    let readable = situation.has_url && !situation.no_origin;
    if orders.ticket.is_some() && readable {
        return Start::Plain(why_plain(orders));
    }
    if orders.control_down {
        return offline(orders.policy.offline_origin, situation);
    }
    if let Some(failed) = orders.relay_failed.as_ref().filter(|_| !readable) {
        return Start::Refused(format!(
            "no relay could fetch it ({failed}), and {}",
            forbidden(situation)
        ));
    }
    match &orders.info {
        Some(info) if !info.relay_live && !info.is_final && situation.no_origin && situation.foreground => {
            Start::Refused("no relay is live that could fetch it, and --no-origin forbids the origin; start a relay, or leave the option away".into())
        }
        Some(info) if info.relay_live || info.is_final => Start::Wait(Waiting::Relay),
        Some(_) => Start::Wait(Waiting::Ticket),
        None if orders.relay_failed.is_some() => Start::Wait(Waiting::Ticket),
        None => Start::Wait(Waiting::Control),
    }
}

/// Relays fetch the content and others can have their part of it meanwhile.
fn is_growing(orders: &Orders, situation: Situation) -> bool {
    if orders.control_down {
        return situation.genesis_kept;
    }
    let Some(info) = orders.info.as_ref().filter(|info| info.relay_live) else {
        return false;
    };
    info.manifest.as_ref().is_some_and(|manifest| {
        let is_told = manifest.genesis.is_some() || manifest.genesis_apart;
        let is_known = is_told || situation.genesis_kept;
        is_known && matches!(manifest.phase, Phase::Growing | Phase::Complete)
    })
}

fn why_plain(orders: &Orders) -> String {
    match &orders.relay_failed {
        Some(failed) => format!("origin, on control's ticket: the relay task failed ({failed})"),
        None => "origin, on control's ticket: no relay is live".into(),
    }
}

fn forbidden(situation: Situation) -> &'static str {
    if situation.no_origin {
        "--no-origin forbids the origin"
    } else {
        "its origin cannot be read from here"
    }
}

/// What to do when control is away and no torrent is here.
fn offline(policy: OfflineOrigin, situation: Situation) -> Start {
    let readable = situation.has_url && !situation.no_origin;
    match policy {
        OfflineOrigin::Allow if readable => {
            Start::Plain("origin: control cannot be reached, and policy permits it (offline_origin = allow)".into())
        }
        _ if !situation.foreground => Start::Wait(Waiting::Control),
        OfflineOrigin::Allow => {
            Start::Refused(format!("control cannot be reached, and {}", forbidden(situation)))
        }
        // No node has a share of an origin yet, so the floor is nothing.
        OfflineOrigin::Floor | OfflineOrigin::Deny => Start::Refused(
            "control cannot be reached, and policy forbids the origin meanwhile (offline_origin); try again later".into(),
        ),
    }
}

/// Whether to ask control for a ticket. `stuck`: running, and nothing has come for a while.
pub(crate) fn asks_ticket(
    orders: &Orders,
    situation: Situation,
    running: bool,
    stuck: bool,
) -> bool {
    if !situation.has_url || situation.no_origin || orders.ticket.is_some() || orders.control_down {
        return false;
    }
    let relay_live = orders.info.as_ref().is_some_and(|info| info.relay_live);
    // Nothing known of the content: only control knows whether a relay is live, and refuses if so.
    let nobody = !relay_live || orders.relay_failed.is_some();
    nobody && (stuck || !running)
}

/// Whether a running job may add the origin to its sources, and why.
pub(crate) fn may_add_origin(
    orders: &Orders,
    situation: Situation,
    stuck: bool,
) -> Option<&'static str> {
    if !situation.has_url || situation.no_origin {
        return None;
    }
    if orders.ticket.is_some() {
        return Some("origin, on control's ticket: no relay is live, and peers do not deliver");
    }
    (orders.control_down && stuck && orders.policy.offline_origin == OfflineOrigin::Allow).then_some(
        "origin: control cannot be reached, peers and relays do not deliver, and policy permits it (offline_origin = allow)",
    )
}

#[cfg(test)]
mod tests {
    use floodway_api::HexBytes;
    use floodway_api::manifest::ManifestInfo;
    use floodway_proto::record::Head;

    use super::*;

    const SID: Sid = Sid([1; 32]);
    const DAEMON: Situation = Situation {
        torrent_kept: false,
        genesis_kept: false,
        has_url: true,
        no_origin: false,
        foreground: false,
    };
    const GET: Situation = Situation {
        foreground: true,
        ..DAEMON
    };

    fn info(is_final: bool, relay_live: bool) -> ContentInfo {
        ContentInfo {
            sid: SID,
            is_final,
            peers: Vec::new(),
            relays: Vec::new(),
            relay_live,
            manifest: None,
            site: None,
        }
    }

    fn orders(is_final: bool, relay_live: bool) -> Orders {
        Orders {
            sid: Some(SID),
            info: Some(info(is_final, relay_live)),
            ..Orders::default()
        }
    }

    fn down(offline_origin: OfflineOrigin) -> Orders {
        Orders {
            control_down: true,
            policy: Policy { offline_origin },
            ..Orders::default()
        }
    }

    #[test]
    fn a_live_relay_is_waited_for_and_its_torrent_taken() {
        assert_eq!(
            start(&Orders::default(), DAEMON),
            Start::Wait(Waiting::Control)
        );
        assert_eq!(
            start(&orders(false, true), DAEMON),
            Start::Wait(Waiting::Relay)
        );
        assert!(!asks_ticket(&orders(false, true), DAEMON, false, false));
        for live in [true, false] {
            assert_eq!(start(&orders(true, live), DAEMON), Start::Torrent(SID));
        }
    }

    #[test]
    fn a_growing_content_is_fetched_while_a_relay_fetches_it() {
        let growing = |phase, genesis, relay_live| {
            let mut orders = orders(false, relay_live);
            let manifest = ManifestInfo {
                phase,
                successor: None,
                head: Head::default(),
                sealed: 0,
                genesis,
                genesis_apart: false,
                records: Vec::new(),
            };
            orders.info.as_mut().unwrap().manifest = Some(manifest);
            orders
        };
        let genesis = Some(HexBytes(vec![1]));
        for phase in [Phase::Growing, Phase::Complete] {
            let orders = growing(phase, genesis.clone(), true);
            assert_eq!(start(&orders, DAEMON), Start::Growing(SID));
        }
        let first = growing(Phase::Growing, None, true);
        assert_eq!(start(&first, DAEMON), Start::Wait(Waiting::Relay));
        let kept = Situation {
            genesis_kept: true,
            ..DAEMON
        };
        assert_eq!(start(&first, kept), Start::Growing(SID));
        let orders = growing(Phase::Superseded, genesis.clone(), true);
        assert_eq!(start(&orders, DAEMON), Start::Wait(Waiting::Relay));
        let orders = growing(Phase::Growing, genesis, false);
        assert_eq!(start(&orders, DAEMON), Start::Wait(Waiting::Ticket));
        // Control is away: others may go on meanwhile.
        let away = Orders {
            sid: Some(SID),
            ..down(OfflineOrigin::Deny)
        };
        assert_eq!(start(&away, kept), Start::Growing(SID));
        assert_eq!(start(&away, DAEMON), Start::Wait(Waiting::Control));
    }

    #[test]
    fn the_origin_is_touched_on_a_ticket_only() {
        let mut dead = orders(false, false);
        assert_eq!(start(&dead, DAEMON), Start::Wait(Waiting::Ticket));
        assert!(asks_ticket(&dead, DAEMON, false, false));
        dead.ticket = Some(Ticket { etag: None });
        assert!(matches!(start(&dead, DAEMON), Start::Plain(_)));
        assert!(!asks_ticket(&dead, DAEMON, false, false));

        let failed = Orders {
            relay_failed: Some("404".into()),
            ..dead.clone()
        };
        assert!(matches!(start(&failed, GET), Start::Plain(why) if why.contains("404")));
        // Once there is a torrent the ticket only adds a source.
        let last = Orders {
            ticket: dead.ticket.clone(),
            ..orders(true, false)
        };
        assert_eq!(start(&last, DAEMON), Start::Torrent(SID));
        assert!(may_add_origin(&last, DAEMON, false).is_some());
        assert!(may_add_origin(&orders(true, false), DAEMON, true).is_none());
        assert!(asks_ticket(&orders(true, false), DAEMON, true, true));
        assert!(
            !asks_ticket(&orders(true, false), DAEMON, true, false),
            "peers deliver"
        );
        assert!(
            !asks_ticket(&orders(true, true), DAEMON, true, true),
            "a relay is live"
        );
    }

    #[test]
    fn control_away_means_policy() {
        assert!(matches!(
            start(&down(OfflineOrigin::Allow), GET),
            Start::Plain(_)
        ));
        assert!(matches!(
            start(&down(OfflineOrigin::Allow), DAEMON),
            Start::Plain(_)
        ));
        for policy in [OfflineOrigin::Floor, OfflineOrigin::Deny] {
            assert!(matches!(start(&down(policy), GET), Start::Refused(_)));
            assert_eq!(start(&down(policy), DAEMON), Start::Wait(Waiting::Control));
        }
        let kept = Situation {
            torrent_kept: true,
            ..DAEMON
        };
        let known = Orders {
            sid: Some(SID),
            ..down(OfflineOrigin::Allow)
        };
        assert_eq!(
            start(&known, kept),
            Start::Torrent(SID),
            "peers and relays may still be there"
        );
        assert!(may_add_origin(&known, kept, true).is_some());
        assert!(may_add_origin(&known, kept, false).is_none());
        let deny = Orders {
            sid: Some(SID),
            ..down(OfflineOrigin::Deny)
        };
        assert!(may_add_origin(&deny, kept, true).is_none());
    }

    #[test]
    fn no_origin_is_obeyed_everywhere() {
        let strict = Situation {
            no_origin: true,
            ..GET
        };
        let ticket = Some(Ticket { etag: None });
        assert!(matches!(
            start(&down(OfflineOrigin::Allow), strict),
            Start::Refused(_)
        ));
        assert!(matches!(
            start(
                &Orders {
                    ticket: ticket.clone(),
                    ..orders(false, false)
                },
                strict
            ),
            Start::Refused(_)
        ));
        assert!(!asks_ticket(&orders(false, false), strict, false, true));
        assert!(
            may_add_origin(
                &Orders {
                    ticket,
                    ..orders(true, false)
                },
                strict,
                true
            )
            .is_none()
        );
    }

    #[test]
    fn refusals_tell_unknown_from_forbidden() {
        let refused = |code: &str| {
            let refusal = Refusal {
                code: code.into(),
                message: "m".into(),
            };
            start(
                &Orders {
                    refusal: Some(refusal),
                    ..Orders::default()
                },
                GET,
            )
        };
        assert_eq!(refused("not_found"), Start::NotFound("m".into()));
        assert_eq!(refused("not_allowed"), Start::Refused("m".into()));
    }
}
