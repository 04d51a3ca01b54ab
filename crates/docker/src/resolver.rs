//! The resolver file of a pod. Docker writes one of its own making, which takes the machine's settings where the pod
//! has none; what the pod asked for is written over it.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use cri::v1;
use rustix::fs::OFlags;

/// Makes the file say what the pod asked for. In place: containers that run have the file itself mounted.
///
/// # Errors
/// What cannot stand in the file; the file system's, with the path.
pub(crate) fn write(path: &Path, dns: &v1::DnsConfig) -> io::Result<()> {
    let text = cri::resolver::text(dns).map_err(io::Error::other)?;
    let mut options = OpenOptions::new();
    options.write(true).custom_flags(OFlags::NOFOLLOW.bits().cast_signed());
    let explain = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
    if std::fs::read(path).is_ok_and(|old| old == text.as_bytes()) {
        return Ok(());
    }
    let mut file = options.open(path).map_err(explain)?;
    file.set_len(0).and_then(|()| file.write_all(text.as_bytes())).map_err(explain)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn the_file_says_what_was_asked_for_and_nothing_of_what_was_there() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("resolv.conf");
        std::fs::write(&path, "nameserver 8.8.8.8\nsearch of.the.machine\noptions timeout:9\n# much more of it\n")
            .unwrap();
        let dns = v1::DnsConfig { servers: words("10.0.0.1"), searches: words("a.b c"), options: words("ndots:5") };
        write(&path, &dns).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "search a.b c\nnameserver 10.0.0.1\noptions ndots:5\n");
        write(&path, &v1::DnsConfig::default()).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "");
        assert!(write(&dir.path().join("absent"), &dns).is_err());
    }
}
