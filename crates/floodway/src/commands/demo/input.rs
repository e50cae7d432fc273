//! What the demo distributes, and the folder it works in.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use floodway_proto::{SafeName, Sha256};
use sha2::Digest;

use crate::exit::{Exit, Failure};

/// The length of the file that is made when none is given.
const MADE_LENGTH: u64 = 256 << 20;
/// Bytes read or written at once.
const PART_LENGTH: usize = 1 << 20;

/// A folder under the current one; removed when dropped.
pub(crate) struct Folder(PathBuf);

impl Folder {
    pub(crate) fn create() -> Result<Self, Failure> {
        let made = std::env::current_dir().and_then(|here| {
            let path = here.join(format!("floodway-demo-{}", std::process::id()));
            fs::create_dir(&path)?;
            Ok(Self(path))
        });
        made.map_err(|error| {
            Failure::failed(format_args!(
                "no work folder can be made in the current folder: {error}"
            ))
            .hint("run the demo in a folder that you may write to")
        })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            crate::say::note(format_args!(
                "warning: {} could not be removed: {error}",
                self.0.display()
            ));
        }
    }
}

/// The file to distribute, as the origin serves it.
pub(crate) struct Input {
    /// The folder that the origin serves.
    pub(crate) folder: PathBuf,
    pub(crate) name: String,
    pub(crate) length: u64,
    pub(crate) sha256: Sha256,
}

impl Input {
    /// Takes `file`, or makes one of random bytes.
    pub(crate) async fn prepare(work: &Path, file: Option<PathBuf>) -> Result<Self, Failure> {
        let folder = work.join("origin-files");
        let work_failed =
            |error| Failure::failed(format_args!("the work folder cannot be used: {error}"));
        fs::create_dir(&folder).map_err(work_failed)?;
        let Some(file) = file else {
            let path = folder.join("demo.bin");
            let made = tokio::task::spawn_blocking({
                let path = path.clone();
                move || make(&path)
            });
            made.await.map_err(Failure::failed)?.map_err(work_failed)?;
            let sha256 = sha256(path).await?;
            return Ok(Self {
                folder,
                name: "demo.bin".into(),
                length: MADE_LENGTH,
                sha256,
            });
        };
        let name = file
            .file_name()
            .and_then(|name| name.to_str())
            .unwrap_or_default();
        let name = SafeName::new(name)
            .map_err(Failure::usage)?
            .as_str()
            .to_owned();
        let sha256 = sha256(file.clone()).await?;
        let link = fs::canonicalize(&file)
            .and_then(|file| std::os::unix::fs::symlink(&file, folder.join(&name)).map(|()| file))
            .and_then(fs::metadata);
        let length = link.map_err(work_failed)?.len();
        Ok(Self {
            folder,
            name,
            length,
            sha256,
        })
    }

    /// The name as a URL's path segment.
    pub(crate) fn encoded_name(&self) -> String {
        url::form_urlencoded::byte_serialize(self.name.as_bytes())
            .collect::<String>()
            .replace('+', "%20")
    }
}

fn make(path: &Path) -> io::Result<()> {
    let mut file = File::create(path)?;
    let mut random = fastrand::Rng::new();
    let mut part = vec![0; PART_LENGTH];
    for _ in 0..MADE_LENGTH / PART_LENGTH as u64 {
        random.fill(&mut part);
        file.write_all(&part)?;
    }
    Ok(())
}

/// The digest of a file, hashed off the runtime.
///
/// # Errors
/// When the file cannot be read; exit 4 when there is none.
pub(crate) async fn sha256(path: PathBuf) -> Result<Sha256, Failure> {
    let hash = move || {
        let mut hasher = sha2::Sha256::new();
        let mut part = vec![0; PART_LENGTH];
        let hashed = File::open(&path).and_then(|mut file| {
            loop {
                match file.read(&mut part)? {
                    0 => return Ok(Sha256(hasher.finalize().into())),
                    count => hasher.update(&part[..count]),
                }
            }
        });
        hashed.map_err(|error| {
            let exit = match error.kind() {
                io::ErrorKind::NotFound => Exit::NotFound,
                _ => Exit::Failed,
            };
            Failure::new(
                exit,
                format_args!("{} cannot be read: {error}", path.display()),
            )
        })
    };
    tokio::task::spawn_blocking(hash)
        .await
        .map_err(Failure::failed)?
}
