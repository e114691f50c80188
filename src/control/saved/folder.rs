//! The folder of saved files: whose it is, and how files in it are read and replaced without following links.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

use rustix::fs::OFlags;
use rustix::process::geteuid;

/// Why a folder is not used, or not as it should be.
#[derive(Debug)]
pub(super) enum Unfit {
    /// Another process uses it.
    Taken,
    /// Others may change what is in it.
    Unsafe(String),
    /// It cannot be made or locked; what is in it may still be read.
    Failed(io::Error),
}

/// Makes the folder, and makes it ours for as long as the file is open. A remark, if there is one to make.
pub(super) fn lock(folder: &Path) -> Result<(File, Option<String>), Unfit> {
    DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(Unfit::Failed)?;
    let remark = judge(folder)?;
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(false).mode(0o600);
    let file = open(&mut options, &folder.join("lock")).map_err(Unfit::Failed)?;
    match file.try_lock() {
        Ok(()) => Ok((file, remark)),
        Err(TryLockError::WouldBlock) => Err(Unfit::Taken),
        Err(TryLockError::Error(error)) => Err(Unfit::Failed(error)),
    }
}

/// Whether nobody else may put a state there. The folder may be reached by a link, as with systemd's `DynamicUser`.
fn judge(folder: &Path) -> Result<Option<String>, Unfit> {
    let about = fs::metadata(folder).map_err(Unfit::Failed)?;
    if !about.is_dir() {
        return Err(Unfit::Failed(io::ErrorKind::NotADirectory.into()));
    }
    let (owner, own) = (about.uid(), geteuid().as_raw());
    if owner != own && owner != 0 {
        return Err(Unfit::Unsafe(format!("user {owner} owns it, and not the gateway's user {own}: chown it")));
    }
    let mode = about.mode() & 0o7777;
    // Where only owners may remove what is theirs, whose a file is tells who wrote it.
    if mode & 0o002 != 0 && mode & 0o1000 == 0 {
        return Err(Unfit::Unsafe(format!("anyone may replace what is in it (mode {mode:04o}): chmod it to 0700")));
    }
    Ok((mode & 0o022 != 0).then(|| format!("others may write in it (mode {mode:04o}): chmod it to 0700")))
}

/// Reads a file whole.
///
/// # Errors
/// What the system says, and what is not a plain file of ours.
pub(super) fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut file = open(OpenOptions::new().read(true), path)?;
    let about = file.metadata()?;
    if about.uid() != geteuid().as_raw() && about.uid() != 0 || about.mode() & 0o002 != 0 {
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, "another user owns it or may write it"));
    }
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Replaces a file by a whole new one, and makes that last.
pub(super) fn write(folder: &Path, name: &str, text: &str) -> io::Result<()> {
    let beside = folder.join(format!(".{name}.new"));
    let mut options = OpenOptions::new();
    // Never through what lies there already.
    options.write(true).create_new(true).mode(0o600);
    let mut file = match open(&mut options, &beside) {
        // One that an earlier process left, or a trap: it goes, and nothing behind it.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            fs::remove_file(&beside)?;
            open(&mut options, &beside)?
        }
        opened => opened?,
    };
    let written = file.write_all(text.as_bytes()).and_then(|()| file.sync_all());
    if let Err(error) = written {
        // Half of it is of no use, and takes room on a disk that is full.
        let _ = fs::remove_file(&beside);
        return Err(error);
    }
    fs::rename(&beside, folder.join(format!("{name}.json")))?;
    File::open(folder)?.sync_all()
}

/// Opens a plain file, and never waits for the other end of a pipe.
fn open(options: &mut OpenOptions, path: &Path) -> io::Result<File> {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let flags = i32::try_from(flags.bits()).map_err(io::Error::other)?;
    let file = options.custom_flags(flags).open(path)?;
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a plain file")),
    }
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    #[test]
    fn links_are_not_followed() {
        let folder = tempfile::tempdir().expect("a folder");
        let victim = folder.path().join("victim");
        fs::write(&victim, "precious").expect("to write");
        let state = folder.path().join("state");
        fs::create_dir(&state).expect("a folder");
        symlink(&victim, state.join(".consul.new")).expect("a link");
        write(&state, "consul", "saved").expect("to write");
        assert_eq!(fs::read_to_string(&victim).expect("a file"), "precious");
        let saved = fs::symlink_metadata(state.join("consul.json")).expect("a file");
        assert!(saved.is_file() && saved.mode() & 0o777 == 0o600);
        assert_eq!(read(&state.join("consul.json")).expect("a file"), b"saved");

        fs::remove_file(state.join("consul.json")).expect("to remove");
        symlink(&victim, state.join("consul.json")).expect("a link");
        read(&state.join("consul.json")).expect_err("a link");
        fs::write(state.join("open.json"), "x").expect("to write");
        fs::set_permissions(state.join("open.json"), Permissions::from_mode(0o646)).expect("to open it");
        read(&state.join("open.json")).expect_err("anyone's");
        symlink(&victim, state.join("lock")).expect("a link");
        assert!(matches!(lock(&state), Err(Unfit::Failed(_))));
    }

    #[test]
    fn a_folder_that_others_may_write_in_is_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        let of = |mode: u32| {
            fs::set_permissions(folder.path(), Permissions::from_mode(mode)).expect("to set");
            lock(folder.path())
        };
        assert!(matches!(of(0o700), Ok((_, None))));
        assert!(matches!(of(0o755), Ok((_, None))));
        assert!(matches!(of(0o770), Ok((_, Some(_)))), "a remark");
        assert!(matches!(of(0o777), Err(Unfit::Unsafe(_))));
        assert!(matches!(of(0o1777), Ok((_, Some(_)))), "as /tmp is, and file systems in memory are");
        assert!(matches!(lock(&folder.path().join("new/one")), Ok((_, None))));
        let link = folder.path().join("link");
        fs::create_dir(folder.path().join("own")).expect("a folder");
        symlink(folder.path().join("own"), &link).expect("a link");
        assert!(matches!(lock(&link), Ok((_, None))));
    }
}
