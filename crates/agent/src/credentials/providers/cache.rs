//! What providers answered, for as long as it holds. Pure: time is an input, milliseconds since boot.

use std::collections::HashMap;
use std::sync::Arc;

use pod::docker_config::{DockerConfig, registry_of};

/// Answers of one provider.
const ENTRIES_MAX: usize = 1_000;

/// What an answer is for, as the provider says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum KeyType {
    Image,
    Registry,
    Global,
}

impl KeyType {
    pub(super) fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "Image" => Self::Image,
            "Registry" => Self::Registry,
            "Global" => Self::Global,
            _ => return None,
        })
    }

    /// The key of an image, which is without tag and digest.
    pub(super) fn key(self, image: &str) -> Key {
        match self {
            Self::Image => Key::Image(image.to_owned()),
            Self::Registry => Key::Registry(registry_of(image).to_owned()),
            Self::Global => Key::Global,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Key {
    Image(String),
    Registry(String),
    Global,
}

impl Key {
    pub(super) fn key_type(&self) -> KeyType {
        match self {
            Self::Image(_) => KeyType::Image,
            Self::Registry(_) => KeyType::Registry,
            Self::Global => KeyType::Global,
        }
    }
}

#[derive(Default)]
pub(super) struct Cache {
    entries: HashMap<Key, Entry>,
}

struct Entry {
    config: Arc<DockerConfig>,
    until_ms: u64,
}

impl Cache {
    /// The answer that holds now and is most exactly for the image.
    pub(super) fn get(&self, image: &str, now_ms: u64) -> Option<Arc<DockerConfig>> {
        let keys = [KeyType::Image, KeyType::Registry, KeyType::Global].map(|key_type| key_type.key(image));
        let found = keys.iter().filter_map(|key| self.entries.get(key)).find(|entry| entry.until_ms > now_ms);
        found.map(|entry| entry.config.clone())
    }

    pub(super) fn insert(&mut self, key: Key, config: Arc<DockerConfig>, (now_ms, until_ms): (u64, u64)) {
        if self.entries.len() >= ENTRIES_MAX && !self.entries.contains_key(&key) {
            self.entries.retain(|_, entry| entry.until_ms > now_ms);
        }
        if self.entries.len() >= ENTRIES_MAX && !self.entries.contains_key(&key) {
            let first = self.entries.iter().min_by_key(|(_, entry)| entry.until_ms).map(|(key, _)| key.clone());
            first.map(|key| self.entries.remove(&key));
        }
        self.entries.insert(key, Entry { config, until_ms });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> Arc<DockerConfig> {
        Arc::default()
    }

    #[test]
    fn an_answer_holds_for_what_it_is_for_and_as_long_as_it_says() {
        // What it is for, who asks, after how long, whether it is known.
        let table = [
            (KeyType::Image, "r.example/a", 9, true),
            (KeyType::Image, "r.example/a", 10, false),
            (KeyType::Image, "r.example/b", 0, false),
            (KeyType::Registry, "r.example/b", 9, true),
            (KeyType::Registry, "r.example:5000/a", 0, false),
            (KeyType::Global, "other.example/b", 9, true),
            (KeyType::Global, "other.example/b", 10, false),
        ];
        for (key_type, asked, now_ms, expected) in table {
            let mut cache = Cache::default();
            cache.insert(key_type.key("r.example/a"), config(), (0, 10));
            assert_eq!(cache.get(asked, now_ms).is_some(), expected, "{key_type:?} {asked} {now_ms}");
        }
    }

    #[test]
    fn the_most_exact_answer_comes_first() {
        let mut cache = Cache::default();
        let configs = [config(), config(), config()];
        for (key_type, config) in [KeyType::Global, KeyType::Registry, KeyType::Image].into_iter().zip(&configs) {
            cache.insert(key_type.key("r.example/a"), config.clone(), (0, 10));
            assert!(Arc::ptr_eq(&cache.get("r.example/a", 5).unwrap(), config), "{key_type:?}");
        }
    }

    #[test]
    fn s_m01_a_full_cache_forgets_what_ends_first() {
        let mut cache = Cache::default();
        let key = |number: u64| KeyType::Image.key(&format!("r.example/{number}"));
        let count = ENTRIES_MAX as u64;
        for number in 0..count {
            cache.insert(key(number), config(), (0, 100 + number));
        }
        cache.insert(key(count), config(), (50, 1_000));
        assert_eq!(cache.entries.len(), ENTRIES_MAX);
        assert!(cache.get("r.example/0", 50).is_none() && cache.get("r.example/1", 50).is_some());
        cache.insert(key(count + 1), config(), (500, 1_000));
        assert_eq!(cache.entries.len() as u64, count - 399, "those that have ended go together");
    }
}
