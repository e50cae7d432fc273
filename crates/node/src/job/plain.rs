//! A download from the origin alone: nothing verifies it but the transport, or a digest of the whole.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use floodway_origin::{Access, Probe, SourceUrl, Validator};
use floodway_proto::{Layout, SafeName, Sha256};
use floodway_store::Hashes;
use floodway_swarm::Counters;
use sha2::{Digest, Sha256 as Hasher};

use super::{Fetched, GetError, GetEvent, Job, VerifiedBy, identity_of, one_get, transfer};
use crate::origin_source::{agrees, probe, source};
use crate::{ContentSpec, Finished, Target};

/// Probes and fetches, by ranges where that is safe, else by one GET.
pub(super) async fn fetch(job: &mut Job) -> Result<Fetched, GetError> {
    let url = job
        .url
        .clone()
        .ok_or_else(|| GetError::Refused("the content's URL is not known here".into()))?;
    let path = match &job.rules.place {
        super::Place::File(path) => path.clone(),
        place @ super::Place::Folder(_) => place.path(&SafeName::from_url_path(url.as_str())?),
    };
    if let Some(expected) = job.rules.sha256
        && let Some(done) = existing(job, &path, expected).await?
    {
        return Ok(done);
    }
    let found = probe(&job.session, &url, job.rules.check.as_ref()).await?;
    let etag = job
        .orders
        .borrow()
        .ticket
        .as_ref()
        .and_then(|ticket| ticket.etag.clone());
    agrees(&url, &found, None, etag.as_deref())?;
    // A digest that the origin offers is as good as a given one, if it may be computed.
    let offered = found.digest.filter(|_| job.rules.linear_digest);
    job.rules.sha256 = job.rules.sha256.or(offered);
    let verified_by = if job.rules.sha256.is_some() {
        VerifiedBy::Digest
    } else {
        VerifiedBy::Transport
    };
    (job.listener)(GetEvent::Found {
        path: path.clone(),
        length: found.length,
    });
    if let Some(caveat) = caveat(&found).filter(|_| verified_by == VerifiedBy::Transport) {
        job.reasons.add(caveat);
    }
    if let (Access::Ranges, Some(length)) = (found.access(), found.length) {
        return by_ranges(job, &url, &found, path, length, verified_by).await;
    }
    // One GET reads it all.
    job.leave(None).await;
    one_get::fetch(job, &url, &found, path, verified_by).await
}

/// What the transport does not vouch for.
fn caveat(probe: &Probe) -> Option<&'static str> {
    match (&probe.validator, probe.length) {
        (_, None) => Some(
            "the origin says neither the length nor a version: a cut-off transfer may go unnoticed; no resume is possible",
        ),
        (Validator::Strong(_) | Validator::File { .. }, Some(_)) if probe.ranges => None,
        (Validator::Strong(_) | Validator::File { .. }, Some(_)) => {
            Some("the origin serves no ranges: one GET, no resume is possible")
        }
        (Validator::Weak { .. } | Validator::None, Some(_)) => Some(
            "the origin gives no strong validator: only the length was checked; one GET, no resume is possible",
        ),
    }
}

async fn by_ranges(
    job: &mut Job,
    url: &SourceUrl,
    probe: &Probe,
    path: PathBuf,
    length: u64,
    verified_by: VerifiedBy,
) -> Result<Fetched, GetError> {
    let layout =
        Layout::new(Some(length), Layout::default_piece_length(Some(length))).map_err(|error| {
            GetError::Usage(format!("the file at {url} cannot be fetched: {error}"))
        })?;
    let fixed = vec![source(url, probe, job.rules.check.as_ref())];
    let version = probe.validator.to_string();
    let adopts = job.adopts_version(&path, &probe.validator, length);
    let spec = ContentSpec {
        names: Vec::new(),
        info: None,
        sid: None,
        layout,
        hashes: Hashes::Unknown,
        identity: identity_of(&[
            b"origin",
            url.as_str().as_bytes(),
            version.as_bytes(),
            &length.to_be_bytes(),
        ]),
        adopts,
        target: Target::File {
            path,
            overwrite: job.rules.overwrite,
            rename_when_done: job.rules.sha256.is_none(),
        },
        prefer: job.rules.prefer,
        order: job.rules.order,
        foreground: job.rules.foreground,
        limits: job.rules.limits,
        linear_digest: job.rules.linear_digest || job.rules.sha256.is_some(),
        peers: Vec::new(),
        trackers: Vec::new(),
        sources: fixed.clone(),
        verifiable: true,
        growth: None,
    };
    let mut fetched = transfer::run(job, spec, fixed, verified_by).await?;
    // There is no swarm to serve.
    if let Some(content) = fetched.content.take() {
        content.stop(false).await;
    }
    Ok(fetched)
}

/// The file is there already, and is the right one by its digest.
async fn existing(job: &Job, path: &Path, expected: Sha256) -> Result<Option<Fetched>, GetError> {
    if job.rules.overwrite || !path.is_file() {
        return Ok(None);
    }
    let hashing = path.to_owned();
    let hashed = tokio::task::spawn_blocking(move || sha256_of(&hashing)).await;
    let failed = |source: io::Error| GetError::File {
        action: "read",
        path: path.to_owned(),
        source: Arc::new(source),
    };
    let (bytes, found) = hashed
        .map_err(|panic| failed(io::Error::other(panic)))?
        .map_err(failed)?;
    if found != expected {
        return Err(GetError::TargetExists(path.to_owned()));
    }
    let counters = Counters {
        resumed: bytes,
        ..Counters::default()
    };
    let finished = Finished {
        path: path.to_owned(),
        bytes,
        sha256: Some(found),
        stamp: None,
        counters,
        sources: Vec::new(),
    };
    Ok(Some(Fetched {
        content: None,
        finished,
        verified_by: VerifiedBy::Digest,
    }))
}

fn sha256_of(path: &Path) -> io::Result<(u64, Sha256)> {
    let mut file = File::open(path)?;
    let (mut hasher, mut bytes) = (Hasher::new(), 0);
    let mut buffer = vec![0; 1 << 20];
    loop {
        let read = file.read(&mut buffer)?;
        if read == 0 {
            return Ok((bytes, Sha256(hasher.finalize().into())));
        }
        hasher.update(&buffer[..read]);
        bytes += read as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_transport_does_not_vouch_for_is_said() {
        let probe = |validator, length, ranges| Probe {
            final_url: "http://h/f".parse().unwrap(),
            length,
            validator,
            ranges,
            last_modified: None,
            content_type: None,
            digest: None,
        };
        let strong = || Validator::Strong("\"x\"".into());
        assert_eq!(caveat(&probe(strong(), Some(1), true)), None);
        assert!(
            caveat(&probe(strong(), Some(1), false))
                .unwrap()
                .contains("no ranges")
        );
        assert!(
            caveat(&probe(strong(), None, true))
                .unwrap()
                .contains("neither")
        );
        assert!(
            caveat(&probe(Validator::None, Some(1), true))
                .unwrap()
                .contains("only the length")
        );
    }
}
