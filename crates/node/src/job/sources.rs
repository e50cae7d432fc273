//! Who can be asked for a content: names for peers, web seeds, relays.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use bytes::Bytes;
use floodway_api::sync::ContentInfo;
use floodway_origin::{Access, Bearer, Expectation, SourceUrl, Validator};
use floodway_proto::metainfo::Metainfo;
use floodway_proto::{InfoHash, SafeName, Sid, Site};
use floodway_swarm::SourceClass;

use super::orders::Orders;
use crate::control_client::ControlClient;
use crate::{Helper, HttpSource, PeerAt};

/// The names in handshakes: without peers none.
pub(super) fn names(info_hash: InfoHash, sid: Option<Sid>, no_p2p: bool) -> Vec<InfoHash> {
    if no_p2p {
        return Vec::new();
    }
    sid.map(|sid| sid.truncated())
        .into_iter()
        .chain([info_hash])
        .collect()
}

/// The torrent's info dict, for peers that know only its name. Private torrents of others are not passed on (BEP 27); of
/// our own control publishes magnet links although they are private: who knows the name may have the bytes.
pub(crate) fn info_for_peers(torrent: &Metainfo, sid: Option<Sid>) -> Option<(InfoHash, Bytes)> {
    let may = sid.is_some() || !torrent.info.private;
    may.then(|| (torrent.info_hash, torrent.raw_info.clone()))
}

/// A web seed (BEP 19): a URL that ends in a slash wants the name behind it. What cannot be read is left out.
pub(super) fn web_seed(url: &str, name: &SafeName, length: u64) -> Option<HttpSource> {
    let url = if url.ends_with('/') {
        let name = percent_encoding::utf8_percent_encode(
            name.as_str(),
            percent_encoding::NON_ALPHANUMERIC,
        );
        format!("{url}{name}")
    } else {
        url.to_owned()
    };
    let url: SourceUrl = url.parse().ok()?;
    // A torrent of somebody else must not make us read our own files.
    if url.file_path().is_some() {
        return None;
    }
    let expect = Expectation {
        length: Some(length),
        validator: Validator::None,
    };
    Some(HttpSource {
        url,
        class: SourceClass::Origin,
        bearer: None,
        expect,
        access: Access::Ranges,
        check: None,
        files: None,
    })
}

/// Capabilities in use, by the relay's URL. Control may make a new one with every sync; a request under way need not
/// break for that.
#[derive(Debug, Default)]
pub(crate) struct Capabilities(HashMap<String, (Instant, String)>);

/// A capability is used this long before a newer one takes its place.
const CAPABILITY_AGE: Duration = Duration::from_mins(5);

impl Capabilities {
    pub(crate) fn pick(&mut self, url: &str, offered: &str, now: Instant) -> String {
        match self.0.get(url) {
            Some((since, used)) if now.duration_since(*since) < CAPABILITY_AGE => used.clone(),
            _ => {
                self.0.insert(url.to_owned(), (now, offered.to_owned()));
                offered.to_owned()
            }
        }
    }

    /// The relay refused it: the next one that control offers is used.
    pub(crate) fn forget(&mut self, url: &str) {
        self.0.remove(url);
    }
}

/// The relays that control names, as sources. Of a content that still grows only those that let requests wait for what they
/// have not got yet.
pub(crate) fn relays(
    info: Option<&ContentInfo>,
    length: Option<u64>,
    is_final: bool,
    capabilities: &mut Capabilities,
) -> Vec<HttpSource> {
    let sources = info
        .into_iter()
        .flat_map(|info| info.relays.iter().map(move |relay| (info.sid, relay)));
    sources
        .filter(|(_, relay)| is_final || relay.streaming)
        .filter_map(|(sid, relay)| {
            Some(HttpSource {
                url: relay
                    .url
                    .parse()
                    .ok()
                    .filter(|url: &SourceUrl| url.file_path().is_none())?,
                class: SourceClass::Relay,
                bearer: Some(Bearer::new(capabilities.pick(
                    &relay.url,
                    &relay.capability,
                    Instant::now(),
                ))),
                expect: Expectation {
                    length,
                    validator: Validator::Strong(format!("\"{sid}\"")),
                },
                access: Access::Ranges,
                check: None,
                files: None,
            })
        })
        .collect()
}

/// Who serves the signed side of a growing content over HTTP: the relays that fetch it, then control.
pub(super) fn helpers(
    info: Option<&ContentInfo>,
    control: &ControlClient,
    capabilities: &mut Capabilities,
) -> Vec<Helper> {
    let Some(info) = info else {
        return Vec::new();
    };
    let now = Instant::now();
    let relays = info.relays.iter().filter(|relay| relay.streaming);
    let relays = relays.filter_map(|relay| {
        let base: SourceUrl = relay.url.strip_suffix("data")?.parse().ok()?;
        let token = capabilities.pick(&relay.url, &relay.capability, now);
        let bearer = Some(Bearer::new(token));
        base.file_path().is_none().then_some(Helper {
            base,
            bearer,
            is_control: false,
        })
    });
    let mut helpers: Vec<Helper> = relays.collect();
    // A relay in control's own process is named by control's address.
    let control = control.helper(info.sid);
    helpers.extend(control.filter(|control| helpers.iter().all(|one| one.base != control.base)));
    helpers
}

pub(super) fn peers(orders: &Orders) -> impl Iterator<Item = PeerAt> {
    let info = orders.info.iter();
    info.flat_map(|info| info.peers.iter().map(PeerAt::from))
}

/// Where control says that this node stands.
pub(super) fn site(orders: &Orders) -> Option<Site> {
    orders.info.as_ref().and_then(|info| info.site)
}

#[cfg(test)]
mod tests {
    use floodway_api::sync::RelaySource;
    use floodway_proto::NodeId;

    use super::*;

    #[test]
    fn a_web_seed_that_is_a_folder_wants_the_name() {
        let name = SafeName::new("a b.iso").unwrap();
        assert_eq!(
            web_seed("http://h/d/", &name, 1).unwrap().url.as_str(),
            "http://h/d/a%20b%2Eiso"
        );
        assert_eq!(
            web_seed("http://h/d", &name, 1).unwrap().url.as_str(),
            "http://h/d"
        );
        for bad in ["file:///etc/passwd", "ftp://h/x", "nonsense"] {
            assert!(web_seed(bad, &name, 1).is_none(), "{bad}");
        }
    }

    #[test]
    fn relays_are_pinned_to_the_content() {
        let relay = |url: &str| RelaySource {
            node: NodeId([0; 16]),
            url: url.into(),
            capability: "c".into(),
            streaming: false,
        };
        let info = ContentInfo {
            sid: Sid([1; 32]),
            is_final: true,
            peers: Vec::new(),
            relays: vec![
                relay("http://r/api/v1/s/x/data"),
                relay("file:///etc/passwd"),
                relay("?"),
            ],
            relay_live: true,
            manifest: None,
            site: None,
        };
        let mut capabilities = Capabilities::default();
        let sources = relays(Some(&info), Some(7), true, &mut capabilities);
        assert_eq!(sources.len(), 1);
        assert_eq!(
            sources[0].expect.validator,
            Validator::Strong(format!("\"{}\"", info.sid))
        );
        assert_eq!(sources[0].expect.length, Some(7));
        assert!(relays(None, Some(7), true, &mut capabilities).is_empty());
        let mut streaming = info.clone();
        streaming.relays[0].streaming = true;
        let growing =
            |info, capabilities: &mut _| relays(Some(info), Some(7), false, capabilities).len();
        assert_eq!(growing(&info, &mut capabilities), 0);
        assert_eq!(growing(&streaming, &mut capabilities), 1);
        let control = ControlClient::new("http://c:7600", Some("t")).unwrap();
        let helpers = helpers(Some(&streaming), &control, &mut capabilities);
        let at: Vec<&str> = helpers.iter().map(|one| one.base.as_str()).collect();
        let of_control = format!("http://c:7600/api/v1/s/{}/", info.sid);
        assert_eq!(at, ["http://r/api/v1/s/x/", &of_control]);
    }

    #[test]
    fn a_capability_is_kept_for_a_while_or_until_it_is_refused() {
        let (mut capabilities, now) = (Capabilities::default(), Instant::now());
        assert_eq!(capabilities.pick("u", "a", now), "a");
        assert_eq!(capabilities.pick("u", "b", now), "a");
        assert_eq!(capabilities.pick("u", "c", now + CAPABILITY_AGE), "c");
        capabilities.forget("u");
        assert_eq!(capabilities.pick("u", "d", now), "d");
    }

    #[test]
    fn without_peers_there_are_no_names() {
        let hash = InfoHash([2; 20]);
        assert_eq!(names(hash, None, false), [hash]);
        assert_eq!(
            names(hash, Some(Sid([1; 32])), false),
            [Sid([1; 32]).truncated(), hash]
        );
        assert!(names(hash, None, true).is_empty());
    }
}
