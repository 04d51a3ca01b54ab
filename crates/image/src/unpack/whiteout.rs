//! Deletions: what a layer takes away from those below it.

use super::tree::{Missing, Tree, failed, is_whiteout};
use super::{names, xattr};
use crate::error::LayerError;
use rustix::fs::{AtFlags, Dir, FileType, Mode};
use rustix::io::Errno;

impl Tree<'_> {
    /// Hides `name` as the layers below have it. What this layer itself has by that name stays, whichever comes first
    /// (OCI image-spec, "Whiteouts").
    pub(super) fn hide(&mut self, parent: &[u8], name: &[u8]) -> Result<(), LayerError> {
        names::check_whiteout(parent, name)?;
        let Some(place) = self.walk(parent, Missing::CopyUp)? else { return Ok(()) };
        let path = names::join(&place.path, name);
        // A mark over nothing would show: in a directory that only one layer has, overlayfs lists it as a file.
        if place.hidden || self.find_below(&path)?.is_none() {
            return Ok(());
        }
        let failed = failed(&path);
        let stat = match rustix::fs::statat(&place.fd, name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => {
                self.charge_inode()?;
                self.whiteouts += 1;
                return rustix::fs::mknodat(&place.fd, name, FileType::CharacterDevice, Mode::empty(), 0)
                    .map_err(|e| failed("mark as deleted", e));
            }
            stat => stat.map_err(|e| failed("look at", e))?,
        };
        // A file hides what is below by itself, a directory would be merged with it.
        if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
            xattr::set_opaque(&*self.open_exact(&path)?, &failed)?;
            self.sweep(path.clone())?;
        }
        Ok(())
    }

    /// Hides everything that the layers below have in a directory.
    pub(super) fn hide_all(&mut self, directory: &[u8]) -> Result<(), LayerError> {
        let Some(place) = self.walk(directory, Missing::CopyUp)? else { return Ok(()) };
        if place.hidden {
            return Ok(());
        }
        if place.path.is_empty() {
            self.used.opaque_root = true;
        } else {
            xattr::set_opaque(&place.fd, &failed(&place.path))?;
        }
        self.sweep(place.path)
    }

    /// Removes marks made before in a directory that has become opaque: nothing is merged with it any more, so
    /// overlayfs would list them as files.
    fn sweep(&mut self, directory: Vec<u8>) -> Result<(), LayerError> {
        let mut queue = vec![directory];
        while self.whiteouts > 0
            && let Some(path) = queue.pop()
        {
            let failed = failed(&path);
            let fd = self.open_exact(&path)?;
            for entry in Dir::read_from(&fd).map_err(|e| failed("list", e))? {
                let entry = entry.map_err(|e| failed("list", e))?;
                let name = entry.file_name();
                if matches!(name.to_bytes(), b"." | b"..") {
                    continue;
                }
                let stat =
                    rustix::fs::statat(&fd, name, AtFlags::SYMLINK_NOFOLLOW).map_err(|e| failed("look at", e))?;
                if is_whiteout(&stat) {
                    rustix::fs::unlinkat(&fd, name, AtFlags::empty()).map_err(|e| failed("replace", e))?;
                } else if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
                    queue.push(names::join(&path, name.to_bytes()));
                }
            }
        }
        Ok(())
    }
}
