//! Container logs: files in the CRI's format or in Docker's, and their rotated predecessors, as the text that was written.
//!
//! A record is `2016-10-06T00:17:09.669794202Z stdout F message`; `P` instead of `F` says that the line goes on in the
//! next record. Lines are passed on in pieces, so their length costs no memory. Where both streams of a container
//! write long lines at once, pieces follow each other as they do in the file.

mod docker;
mod files;
mod record;
mod stream;
mod tail;
mod watch;

use std::io;
use std::path::PathBuf;

use futures_util::future::BoxFuture;
use jiff::{SignedDuration, Timestamp};

pub use stream::{LogStream, open};
pub use watch::Watches;

use crate::HostError;

/// How much of a log is wanted, and how.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LogOptions {
    /// Wait for more until the container has exited.
    pub follow: bool,
    /// The attempt before the latest.
    pub previous: bool,
    /// Begin each line with the time at which it was written.
    pub timestamps: bool,
    /// Nothing that was written earlier.
    pub since: Option<Timestamp>,
    /// The last lines only; of these, `since` takes its share away.
    pub tail_lines: Option<u64>,
    /// Stop after this many bytes of answer.
    pub limit_bytes: Option<u64>,
}

/// Where a log is.
pub struct LogSource {
    /// The directory of all pods' logs, which is trusted.
    pub root: PathBuf,
    /// `<namespace>_<pod>_<uid>/<container>/<attempt>.log` beneath it, which is not: pods may write there.
    pub path: PathBuf,
    /// Ready once this attempt has exited and the runtime writes no more to its log.
    pub ended: BoxFuture<'static, ()>,
}

/// Why a log cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    #[error("the log {path} is not there: its container has written nothing, or it was collected")]
    Missing { path: PathBuf },
    #[error("refused to read the log {path}: it is not a plain file reached without links")]
    NotPlain { path: PathBuf },
    #[error("read the log {path}: {source}")]
    Read { path: PathBuf, source: io::Error },
}

impl From<LogError> for HostError {
    fn from(error: LogError) -> Self {
        match error {
            LogError::Missing { .. } => Self::not_found(error.to_string()),
            LogError::NotPlain { .. } | LogError::Read { .. } => Self::internal(error.to_string()),
        }
    }
}

impl From<LogError> for io::Error {
    fn from(error: LogError) -> Self {
        Self::other(error)
    }
}

impl LogOptions {
    /// Reads the parameters of `/containerLogs`; the error names the parameter and what is allowed.
    pub fn from_query(query: &[(String, String)], now: Timestamp) -> Result<Self, String> {
        let mut options = Self::default();
        let mut since_given = Vec::new();
        for (key, value) in query {
            match &**key {
                "follow" => options.follow = crate::streams::flag(key, value)?,
                "previous" => options.previous = crate::streams::flag(key, value)?,
                "timestamps" => options.timestamps = crate::streams::flag(key, value)?,
                "tailLines" => options.tail_lines = Some(number(key, value, 0)?),
                // The older spelling, still sent by old clients.
                "tail" if value == "all" => options.tail_lines = None,
                "tail" => options.tail_lines = Some(number(key, value, 0)?),
                "limitBytes" => options.limit_bytes = Some(number(key, value, 1)?),
                "sinceSeconds" => {
                    let seconds = i64::try_from(number(key, value, 1)?).unwrap_or(i64::MAX);
                    let since = now.checked_sub(SignedDuration::from_secs(seconds)).unwrap_or(Timestamp::MIN);
                    options.since = Some(since);
                    since_given.push(key);
                }
                "sinceTime" => {
                    let wrong = |_| format!("{key} is {value:?}: expected a time such as 2006-01-02T15:04:05Z");
                    options.since = Some(value.parse().map_err(wrong)?);
                    since_given.push(key);
                }
                _ => {
                    return Err(format!(
                        "unknown parameter {key:?}: expected follow, previous, timestamps, tailLines, limitBytes, \
                         sinceSeconds or sinceTime"
                    ));
                }
            }
        }
        if since_given.len() > 1 {
            return Err("at most one of sinceSeconds and sinceTime may be given, and once".into());
        }
        Ok(options)
    }
}

fn number(key: &str, value: &str, least: u64) -> Result<u64, String> {
    match value.parse() {
        Ok(number) if number >= least => Ok(number),
        _ => Err(format!("{key} is {value:?}: expected a whole number, {least} or more")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters() {
        let now: Timestamp = "2026-01-01T00:00:10Z".parse().unwrap();
        let read = |query: &str| {
            let pairs: Vec<_> = query.split('&').filter_map(|pair| pair.split_once('=')).collect();
            let pairs: Vec<_> = pairs.into_iter().map(|(k, v)| (k.to_owned(), v.to_owned())).collect();
            LogOptions::from_query(&pairs, now)
        };
        let some = LogOptions {
            follow: true,
            timestamps: true,
            since: Some("2026-01-01T00:00:00Z".parse().unwrap()),
            tail_lines: Some(0),
            limit_bytes: Some(1),
            previous: false,
        };
        assert_eq!(read("follow=true&timestamps=1&sinceSeconds=10&tailLines=0&limitBytes=1"), Ok(some));
        assert_eq!(read(""), Ok(LogOptions::default()));
        assert_eq!(read("tail=all"), Ok(LogOptions::default()));
        assert!(read("sinceSeconds=9223372036854775807").is_ok());
        for (query, part) in [
            ("follow=maybe", "follow is \"maybe\""),
            ("tailLines=-1", "0 or more"),
            ("limitBytes=0", "1 or more"),
            ("sinceSeconds=0", "1 or more"),
            ("sinceTime=yesterday", "2006-01-02T15:04:05Z"),
            ("sinceSeconds=1&sinceTime=2026-01-01T00:00:00Z", "at most one"),
            ("stream=Stdout", "unknown parameter \"stream\""),
        ] {
            let message = read(query).unwrap_err();
            assert!(message.contains(part), "{query}: {message}");
        }
    }
}
