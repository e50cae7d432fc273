//! Random secrets: tokens, keys, names that nobody may guess; and the files that hold them.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use floodway_proto::{NodeId, Sha256, digest};

/// Bytes from the operating system's random generator.
pub(crate) fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).expect("the operating system gives random bytes");
    bytes
}

/// `N` random bytes in hex.
pub(crate) fn random_hex<const N: usize>() -> String {
    hex::encode(random::<N>())
}

/// A short name that is not used twice: a letter for its kind and 8 random bytes.
pub(crate) fn random_id(kind: &str) -> String {
    format!("{kind}{}", random_hex::<8>())
}

/// What control keeps of a token.
pub(crate) fn hash(text: &str) -> Sha256 {
    digest::sha256(text.as_bytes())
}

/// A join token, `fwj.ID.SECRET`.
pub(crate) struct JoinSecret {
    id: String,
    text: String,
}

impl JoinSecret {
    pub(crate) fn new() -> Self {
        let id = random_id("j");
        let text = format!("fwj.{id}.{}", random_hex::<32>());
        Self { id, text }
    }

    /// Reads the text of a join token.
    pub(crate) fn read(text: &str) -> Option<Self> {
        let (id, secret) = text.strip_prefix("fwj.")?.split_once('.')?;
        let plain =
            |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric());
        (plain(id) && plain(secret)).then(|| Self {
            id: id.into(),
            text: text.into(),
        })
    }

    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    pub(crate) fn hash(&self) -> Sha256 {
        hash(&self.text)
    }
}

/// A node token, `fwn.NODE.SECRET`.
pub(crate) struct NodeSecret {
    node: NodeId,
    text: String,
}

impl NodeSecret {
    pub(crate) fn new(node: NodeId) -> Self {
        let text = format!("fwn.{node}.{}", random_hex::<32>());
        Self { node, text }
    }

    /// Reads the text of a node token.
    pub(crate) fn read(text: &str) -> Option<Self> {
        let (node, _) = text.strip_prefix("fwn.")?.split_once('.')?;
        Some(Self {
            node: node.parse().ok()?,
            text: text.into(),
        })
    }

    pub(crate) fn node(&self) -> NodeId {
        self.node
    }

    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    pub(crate) fn hash(&self) -> Sha256 {
        hash(&self.text)
    }
}

/// Why a file with a secret could not be used.
#[derive(Debug, thiserror::Error)]
pub enum SecretFileError {
    /// Reading or writing failed.
    #[error("{}: {source}; control needs to read and write this file", file.display())]
    Io {
        /// The file.
        file: PathBuf,
        /// What happened.
        source: io::Error,
    },
    /// There is no secret in it.
    #[error(
        "{} holds no usable secret (expected {expected}); remove it and control makes a new one", file.display()
    )]
    Unusable {
        /// The file.
        file: PathBuf,
        /// What should be there.
        expected: &'static str,
    },
}

/// Reads a secret's file; at the first start `make`s the secret and the file, which only its owner can read.
pub(crate) fn file(path: &Path, make: impl FnOnce() -> String) -> Result<String, SecretFileError> {
    let failed = |source| SecretFileError::Io {
        file: path.into(),
        source,
    };
    match fs::read_to_string(path) {
        Ok(text) => Ok(text.trim().to_owned()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let text = make();
            write_new(path, &text).map_err(failed)?;
            Ok(text)
        }
        Err(error) => Err(failed(error)),
    }
}

/// Writes beside and renames, so that a crash leaves no half of a secret.
fn write_new(path: &Path, text: &str) -> io::Result<()> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(".new");
    let beside = PathBuf::from(beside);
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&beside)?;
    writeln!(file, "{text}")?;
    file.sync_all()?;
    fs::rename(&beside, path)?;
    let folder = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty());
    fs::File::open(folder.unwrap_or_else(|| Path::new(".")))?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn tokens_are_read_as_they_were_written_and_nothing_else() {
        let join = JoinSecret::new();
        let read = JoinSecret::read(join.text()).unwrap();
        assert_eq!((read.id(), read.hash()), (join.id(), join.hash()));
        let node = NodeSecret::new(NodeId([3; 16]));
        assert_eq!(
            NodeSecret::read(node.text()).unwrap().node(),
            NodeId([3; 16])
        );
        for text in ["", "fwj.", "fwj.a", "fwj..", "fwj.a.b c", "fwn.x.y", "fwn"] {
            assert!(
                JoinSecret::read(text).is_none() && NodeSecret::read(text).is_none(),
                "{text}"
            );
        }
    }

    #[test]
    fn a_secret_file_is_made_once_and_only_its_owner_reads_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("admin.token");
        let first = file(&path, random_hex::<32>).unwrap();
        assert_eq!(file(&path, || unreachable!("it is there")).unwrap(), first);
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        let missing = file(&folder.path().join("no/such/folder"), String::new).unwrap_err();
        assert!(missing.to_string().contains("no/such/folder"), "{missing}");
    }
}
