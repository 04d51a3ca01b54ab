//! The resolver file of a pod. Docker writes one of its own making, which takes the machine's settings where the pod
//! has none; what the pod asked for is written over it.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use cri::v1;
use rustix::fs::OFlags;

/// resolv.conf(5): what resolvers read of it.
const MAX_NAMESERVERS: usize = 3;
const MAX_SEARCHES: usize = 32;
const MAX_SEARCH_BYTES: usize = 2048;

/// Refuses what would begin a new line, or hold a blank, in the file.
pub(crate) fn check(dns: &v1::DnsConfig) -> Result<(), String> {
    for (kind, values) in [("server", &dns.servers), ("search domain", &dns.searches), ("option", &dns.options)] {
        let bad = |value: &&String| value.is_empty() || value.chars().any(|c| c.is_whitespace() || c.is_control());
        if let Some(value) = values.iter().find(bad) {
            return Err(format!("dns {kind} {value:?}: expected a word without blanks or control characters"));
        }
    }
    Ok(())
}

fn render(dns: &v1::DnsConfig) -> String {
    let mut searches: Vec<&str> = dns.searches.iter().take(MAX_SEARCHES).map(String::as_str).collect();
    while searches.iter().map(|search| search.len() + 1).sum::<usize>() > MAX_SEARCH_BYTES {
        searches.pop();
    }
    let mut text = String::new();
    if !searches.is_empty() {
        text += &format!("search {}\n", searches.join(" "));
    }
    for server in dns.servers.iter().take(MAX_NAMESERVERS) {
        text += &format!("nameserver {server}\n");
    }
    if !dns.options.is_empty() {
        text += &format!("options {}\n", dns.options.join(" "));
    }
    text
}

/// Makes the file say what the pod asked for. In place: containers that run have the file itself mounted.
///
/// # Errors
/// The file system's, with the path.
pub(crate) fn write(path: &Path, dns: &v1::DnsConfig) -> io::Result<()> {
    let text = render(dns);
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

    #[test]
    fn s_f01_a_name_cannot_begin_a_line() {
        let dns = v1::DnsConfig { searches: vec!["a\nnameserver 6.6.6.6".into()], ..Default::default() };
        assert!(check(&dns).unwrap_err().contains("search domain"));
    }
}
