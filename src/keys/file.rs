//! Shell: keys and allow-lists on disk.
//!
//! A file is replaced whole: written beside its place, synced, renamed, and its directory synced.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use super::{
    ALLOW_LIST_BYTES_MAX, AllowList, Allowed, InvalidAllowList, InvalidKey, KeyPair, PublicKey,
};

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

/// Says these things of these keys in an allow-list, in place of what was said of them before. The
/// rest of the file stays as it is, comments included; a missing file is begun.
///
/// # Errors
///
/// [`KeyFileError`]: the list cannot be read or written; it is as it was.
pub fn put_in_allow_list(path: &Path, said: &[(PublicKey, Allowed)]) -> Result<(), KeyFileError> {
    let io = |source| KeyFileError::io(path, source);
    let directory = directory(path);
    fs::create_dir_all(directory).map_err(io)?;
    // Whoever else changes the list waits, or one change would be lost.
    let directory = File::open(directory).map_err(io)?;
    directory.lock().map_err(io)?;
    let mut text = match File::open(path) {
        Ok(mut file) => read_text(&mut file, path, ALLOW_LIST_BYTES_MAX as u64)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => ALLOW_LIST_HEAD.to_owned(),
        Err(error) => return Err(io(error)),
    };
    let invalid = |source| KeyFileError::AllowList { path: path.to_owned(), source };
    text.parse::<AllowList>().map_err(invalid)?;
    for (key, allowed) in said {
        text = with_line(&text, key, &allowed.line(key));
    }
    replace(path, text.as_bytes(), true)
}

const ALLOW_LIST_HEAD: &str = "\
# NAME ROLE KEY [UNTIL], the role being peer, admin, client or revoked. A node that runs follows
# within a second.
";

/// The text with this line about the key, where one was about it before or else at the end.
fn with_line(text: &str, key: &PublicKey, new: &str) -> String {
    let is_about = |line: &str| {
        let said = line.split('#').next().unwrap_or_default();
        said.split_whitespace().nth(2).and_then(|word| word.parse().ok()) == Some(*key)
    };
    let mut lines: Vec<&str> = text.lines().collect();
    match lines.iter_mut().find(|line| is_about(line)) {
        Some(line) => *line = new,
        None => lines.push(new),
    }
    lines.join("\n") + "\n"
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
        let directory = directory(path);
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

fn directory(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        Some(_) | None => Path::new("."),
    }
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
