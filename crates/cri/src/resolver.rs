//! The resolver file of a pod.

use crate::v1;

/// resolv.conf(5): what resolvers read of it.
const MAX_NAMESERVERS: usize = 3;
const MAX_SEARCHES: usize = 32;
const MAX_SEARCH_BYTES: usize = 2048;

/// What the file says.
///
/// # Errors
/// A name that would begin a new line, or hold a blank, in the file.
pub fn text(dns: &v1::DnsConfig) -> Result<String, String> {
    let parts = [("server", &dns.servers), ("search domain", &dns.searches), ("option", &dns.options)];
    for (kind, values) in parts {
        let bad = |value: &&String| value.is_empty() || value.chars().any(|c| c.is_whitespace() || c.is_control());
        if let Some(value) = values.iter().find(bad) {
            return Err(format!("dns {kind} {value:?}: expected a word without blanks or control characters"));
        }
    }
    let mut text = String::new();
    let mut searches: Vec<&str> = dns.searches.iter().take(MAX_SEARCHES).map(String::as_str).collect();
    while searches.iter().map(|search| search.len() + 1).sum::<usize>() > MAX_SEARCH_BYTES {
        searches.pop();
    }
    if !searches.is_empty() {
        text += &format!("search {}\n", searches.join(" "));
    }
    for server in dns.servers.iter().take(MAX_NAMESERVERS) {
        text += &format!("nameserver {server}\n");
    }
    if !dns.options.is_empty() {
        text += &format!("options {}\n", dns.options.join(" "));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(values: &[&str]) -> Vec<String> {
        values.iter().map(|value| (*value).to_owned()).collect()
    }

    #[test]
    fn the_file_has_the_pods_servers_searches_and_options() {
        let dns = v1::DnsConfig {
            servers: words(&["10.0.0.10", "10.0.0.11"]),
            searches: words(&["a.example", "example"]),
            options: words(&["ndots:5", "edns0"]),
        };
        let expected = "search a.example example\nnameserver 10.0.0.10\nnameserver 10.0.0.11\noptions ndots:5 edns0\n";
        assert_eq!(text(&dns).unwrap(), expected);
        assert_eq!(text(&v1::DnsConfig::default()).unwrap(), "");
    }

    #[test]
    fn s_i06_a_dns_name_cannot_add_lines() {
        for bad in ["", "a b", "1.1.1.1\nnameserver 6.6.6.6", "x\ty", "x\r", "x\0"] {
            for place in 0..3 {
                let mut dns = v1::DnsConfig::default();
                [&mut dns.servers, &mut dns.searches, &mut dns.options][place].push(bad.to_owned());
                let error = text(&dns).unwrap_err();
                assert!(error.contains("without blanks"), "{error}");
            }
        }
    }

    #[test]
    fn s_i06_more_than_resolvers_read_is_left_out() {
        let many = |count: usize| (0..count).map(|i| format!("name{i}.{}", "x".repeat(60))).collect::<Vec<_>>();
        let dns = v1::DnsConfig { servers: words(&["1", "2", "3", "4"]), searches: many(40), options: vec![] };
        let found = text(&dns).unwrap();
        assert_eq!(found.matches("nameserver").count(), 3);
        let search = found.lines().find(|line| line.starts_with("search")).unwrap();
        assert!(search.len() <= MAX_SEARCH_BYTES + 7, "{}", search.len());
        assert!(search.split(' ').count() <= MAX_SEARCHES + 1);
    }
}
