//! Shell: keys and allow-lists on disk.
//!
//! A file is replaced whole: written beside its place, synced, renamed, and its directory synced.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use super::{ALLOW_LIST_BYTES_MAX, AllowList, InvalidAllowList, InvalidKey, KeyPair, PublicKey};

/// More than any key file has.
const KEY_FILE_BYTES_MAX: u64 = 4 << 10;
/// Permissions that let others than the owner in.
const OTHERS: u32 = 0o077;

/// Reads a key pair.
///
/// # Errors
///
/// [`KeyFileError`]: the file cannot be read, is open to others than its owner, or holds no pair.
pub fn read_key_pair(path: &Path) -> Result<KeyPair, KeyFileError> {
    let error = |reason| KeyFileError::Key { path: path.to_owned(), reason };
    let mut file = File::open(path).map_err(|source| KeyFileError::io(path, source))?;
    let mode = file.metadata().map_err(|source| KeyFileError::io(path, source))?.mode();
    if mode & OTHERS != 0 {
        return Err(KeyFileError::Open { path: path.to_owned(), mode: mode & 0o777 });
    }
    let text = Zeroizing::new(read_text(&mut file, path, KEY_FILE_BYTES_MAX)?);
    parse_pair(&text).map_err(|reason| error(reason.to_owned()))
}

fn parse_pair(text: &str) -> Result<KeyPair, &'static str> {
    let (mut public, mut secret) = (None, None);
    for line in text.lines().map(str::trim) {
        match line.split_once(' ') {
            _ if line.is_empty() || line.starts_with('#') => {}
            Some(("public", key)) if public.is_none() => {
                public = Some(key.parse::<PublicKey>().map_err(|_| "`public` is no key")?);
            }
            Some(("secret", key)) if secret.is_none() => {
                secret = Some(super::from_hex(key).map_err(|_| "`secret` is no key")?);
            }
            _ => return Err("a line is neither `public KEY` nor `secret KEY`, or there twice"),
        }
    }
    let (public, secret) = public.zip(secret).ok_or("it needs `public KEY` and `secret KEY`")?;
    let pair = KeyPair::from_secret(&*secret).map_err(|_| "`secret` is nobody's key")?;
    match pair.public() == public {
        true => Ok(pair),
        false => Err("`public` is not the key that belongs to `secret`: are they swapped?"),
    }
}

/// Writes a key pair to a new file, for its owner's eyes only.
///
/// # Errors
///
/// [`KeyFileError`]: the file exists already, which is left as it is, or cannot be written.
pub fn write_key_pair(path: &Path, pair: &KeyPair) -> Result<(), KeyFileError> {
    let mut text = Zeroizing::new(format!(
        "# Whoever has the secret key is taken for its owner: keep this file to yourself.\n\
         public {}\nsecret ",
        pair.public()
    ));
    for byte in Zeroizing::new(pair.secret().to_bytes()).iter() {
        text.push_str(&format!("{byte:02x}"));
    }
    text.push('\n');
    replace(path, text.as_bytes(), false)
}

/// Reads an allow-list.
///
/// # Errors
///
/// [`KeyFileError`]: the file cannot be read, or a line of it cannot be understood.
pub fn read_allow_list(path: &Path) -> Result<AllowList, KeyFileError> {
    let mut file = File::open(path).map_err(|source| KeyFileError::io(path, source))?;
    let text = read_text(&mut file, path, ALLOW_LIST_BYTES_MAX as u64)?;
    text.parse().map_err(|source| KeyFileError::AllowList { path: path.to_owned(), source })
}

/// Writes an allow-list, in place of the one that is there.
///
/// # Errors
///
/// [`KeyFileError`]: it cannot be written; what was there is as it was.
pub fn write_allow_list(path: &Path, list: &AllowList) -> Result<(), KeyFileError> {
    let text = format!(
        "# NAME ROLE KEY [UNTIL], the role being peer, admin, client or revoked. A running node\n\
         # takes up changes within a second.\n{list}"
    );
    replace(path, text.as_bytes(), true)
}

fn read_text(file: &mut File, path: &Path, bytes_max: u64) -> Result<String, KeyFileError> {
    let mut text = String::new();
    let read = file.take(bytes_max + 1).read_to_string(&mut text);
    match read.map_err(|source| KeyFileError::io(path, source))? as u64 > bytes_max {
        true => Err(KeyFileError::TooLarge { path: path.to_owned(), bytes_max }),
        false => Ok(text),
    }
}

fn replace(path: &Path, bytes: &[u8], overwrite: bool) -> Result<(), KeyFileError> {
    let write = || {
        let directory = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            Some(_) | None => Path::new("."),
        };
        fs::create_dir_all(directory)?;
        // Only its owner may read it, from its first byte on.
        let mut file = tempfile::NamedTempFile::new_in(directory)?;
        file.write_all(bytes)?;
        file.as_file().sync_all()?;
        match overwrite {
            true => file.persist(path)?,
            false => file.persist_noclobber(path)?,
        };
        File::open(directory)?.sync_all()
    };
    write().map_err(|source| KeyFileError::io(path, source))
}

/// What is wrong with a file of keys.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyFileError {
    /// A line of an allow-list cannot be understood.
    #[error("{path}: {source}", path = path.display())]
    AllowList {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: InvalidAllowList,
    },
    /// The system refused.
    #[error("{path}: {source}", path = path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// In its words.
        source: io::Error,
    },
    /// It holds no key pair.
    #[error("{path}: {reason}", path = path.display())]
    Key {
        /// The file.
        path: PathBuf,
        /// For people; never a part of a key.
        reason: String,
    },
    /// No new pair could be made.
    #[error("no new key: {0}")]
    New(#[from] InvalidKey),
    /// Others than its owner may read or write the secret.
    #[error("{path} is open to others (mode {mode:03o}): chmod 600 it", path = path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// It is larger than any such file.
    #[error("{path} is larger than {bytes_max} bytes", path = path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// The limit.
        bytes_max: u64,
    },
}

impl KeyFileError {
    fn io(path: &Path, source: io::Error) -> Self {
        Self::Io { path: path.to_owned(), source }
    }

    /// Whether the file is not there.
    pub fn is_missing(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }
}
