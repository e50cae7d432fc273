//! What a user names to be fetched.

use std::path::Path;
use std::str::FromStr;

use floodway_origin::SourceUrl;
use floodway_proto::Sid;
use floodway_proto::metainfo::Metainfo;

use super::GetError;

/// Torrent files larger than this are not read.
const LONGEST_TORRENT: u64 = 64 << 20;

/// What is to be fetched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GetSource {
    /// An origin object: `http`, `https` or `file`.
    Url(SourceUrl),
    /// A torrent file.
    Torrent(Box<Metainfo>),
    /// A content of a control: `floodway:SID`.
    Sid(Sid),
}

impl FromStr for GetSource {
    type Err = GetError;

    /// Reads a URL, `floodway:SID`, or the path of a torrent file, which is read and checked.
    fn from_str(text: &str) -> Result<Self, GetError> {
        if let Some(sid) = text.strip_prefix("floodway:") {
            let sid = sid
                .parse()
                .map_err(|error| GetError::Usage(format!("{text}: {error}")))?;
            return Ok(Self::Sid(sid));
        }
        if text.starts_with("magnet:") {
            return Err(GetError::Usage(
                "magnet: links are not supported yet; give the torrent file".into(),
            ));
        }
        if has_scheme(text) {
            let url = text
                .parse()
                .map_err(|error| GetError::Usage(format!("{text}: {error}")))?;
            return Ok(Self::Url(url));
        }
        read_torrent(Path::new(text)).map(|torrent| Self::Torrent(Box::new(torrent)))
    }
}

fn has_scheme(text: &str) -> bool {
    text.split_once("://").is_some_and(|(scheme, _)| {
        !scheme.is_empty()
            && scheme
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte))
    })
}

/// Reads and checks a torrent file.
///
/// # Errors
/// [`GetError::Usage`] when it cannot be read, [`GetError::Torrent`] when it is none.
pub(crate) fn read_torrent(path: &Path) -> Result<Metainfo, GetError> {
    let unreadable = |error: std::io::Error| {
        let hint = if error.kind() == std::io::ErrorKind::NotFound {
            "; give a URL (https://…), floodway:SID or an existing torrent file"
        } else {
            ""
        };
        GetError::Usage(format!(
            "the torrent file `{}` cannot be read: {error}{hint}",
            path.display()
        ))
    };
    let length = std::fs::metadata(path).map_err(unreadable)?.len();
    if length > LONGEST_TORRENT {
        return Err(GetError::Usage(format!(
            "`{}` has {length} bytes: that is no torrent file",
            path.display()
        )));
    }
    let bytes = std::fs::read(path).map_err(unreadable)?;
    Ok(Metainfo::decode(&bytes)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_are_told_apart() {
        assert!(matches!("https://h/f".parse(), Ok(GetSource::Url(_))));
        assert!(matches!("file:///f".parse(), Ok(GetSource::Url(_))));
        let sid = Sid([1; 32]);
        assert_eq!(
            format!("floodway:{sid}").parse::<GetSource>().unwrap(),
            GetSource::Sid(sid)
        );
        for (text, says) in [
            ("floodway:12", "64 hexadecimal digits"),
            ("magnet:?xt=urn:btih:00", "not supported yet"),
            ("s3://bucket/key", "not supported yet"),
            ("ftp://h/f", "cannot be read"),
            ("no-such.torrent", "cannot be read"),
            ("http://", "not a URL"),
        ] {
            let error = text.parse::<GetSource>().unwrap_err();
            assert_eq!(error.exit_code(), 2, "{text}");
            assert!(error.to_string().contains(says), "{text}: {error}");
        }
    }

    #[test]
    fn a_torrent_file_is_read_and_checked() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.torrent");
        std::fs::write(&path, b"no torrent").unwrap();
        let error = path.to_str().unwrap().parse::<GetSource>().unwrap_err();
        assert!(
            matches!(error, GetError::Torrent(_)) && error.exit_code() == 2,
            "{error}"
        );
    }
}
