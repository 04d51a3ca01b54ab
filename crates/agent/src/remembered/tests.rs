use std::fs;

use super::*;
use crate::testing::TempDir;

fn pod(uid: &str) -> Pod {
    serde_json::from_value(serde_json::json!({
        "metadata": { "name": "p", "namespace": "default", "uid": uid },
        "spec": { "containers": [{ "name": "c", "image": "i" }] },
    }))
    .unwrap()
}

fn memory(start_ns: i64) -> Memory {
    Memory { admitted: true, start_ns, ..Memory::default() }
}

/// The file system's usual state after [`load`] has something to find.
fn bed(uids: &[&str]) -> TempDir {
    let dir = TempDir::new();
    for uid in uids {
        let pod_dir = pods_dir(dir.path()).join(uid);
        fs::create_dir_all(&pod_dir).unwrap();
        save_pod(&pod_dir, &pod(uid)).unwrap();
        write(&pods_dir(dir.path()), uid, memory(7));
    }
    dir
}

#[tokio::test]
async fn the_latest_memory_of_each_pod_is_written_before_the_writer_ends() {
    let dir = bed(&["a", "b", "c"]);
    let stop = CancellationToken::new();
    let (memories, writer) = Memories::writer(dir.path(), stop.clone());
    for start_ns in 1..100 {
        memories.save("a".into(), memory(start_ns));
        memories.save("b".into(), memory(start_ns + 1));
    }
    memories.save("gone".into(), memory(1));
    memories.save("c".into(), memory(1));
    memories.forget("c");
    memories.written().await;
    assert_eq!(load(dir.path())["a"].memory.as_ref().unwrap().start_ns, 99);
    stop.cancel();
    writer.await.unwrap();
    memories.save("late".into(), memory(1));
    memories.written().await;
    let loaded = load(dir.path());
    let starts: Vec<i64> = loaded.values().map(|stored| stored.memory.as_ref().unwrap().start_ns).collect();
    assert_eq!(starts, [99, 100, 7], "of a, b and c");
    assert_eq!(pod::name(loaded["a"].pod.as_ref().unwrap()), "p");
}

#[test]
fn s_m02_a_damaged_record_costs_only_itself() {
    for file in [POD, MEMORY] {
        let dir = bed(&["damaged", "whole"]);
        let path = pods_dir(dir.path()).join("damaged").join(file);
        let whole = fs::read(&path).unwrap();
        let lost = || {
            let loaded = load(dir.path());
            assert!(loaded["whole"].pod.is_some() && loaded["whole"].memory.is_some());
            let stored = &loaded["damaged"];
            (stored.pod.is_none(), stored.memory.is_none())
        };
        assert_eq!(lost(), (false, false));
        let only_it = (file == POD, file == MEMORY);
        for cut in (0..whole.len()).step_by(whole.len() / 64 + 1) {
            fs::write(&path, &whole[..cut]).unwrap();
            assert_eq!(lost(), only_it, "{file} cut at {cut}");
        }
        for flip in 0..256 {
            let mut bytes = whole.clone();
            let at = flip * 31 % bytes.len();
            bytes[at] ^= 1 << (flip % 8);
            fs::write(&path, &bytes).unwrap();
            // It may read as something else, but nothing else is lost.
            let (pod, memory) = lost();
            assert!((pod, memory) == (false, false) || (pod, memory) == only_it, "{file} flip {flip}");
        }
        fs::remove_file(&path).unwrap();
        assert_eq!(lost(), only_it);
        fs::create_dir(&path).unwrap();
        assert_eq!(lost(), only_it);
    }
}

#[test]
fn a_pod_under_anothers_uid_or_of_another_version_is_not_taken() {
    let dir = bed(&["a"]);
    let pods = pods_dir(dir.path());
    fs::create_dir_all(pods.join("other")).unwrap();
    fs::copy(pods.join("a/pod.json"), pods.join("other/pod.json")).unwrap();
    assert!(load(dir.path())["other"].pod.is_none());
    let newer = fs::read_to_string(pods.join("a/state.json")).unwrap().replace("\"version\":1", "\"version\":2");
    fs::write(pods.join("a/state.json"), newer).unwrap();
    assert!(load(dir.path())["a"].memory.is_none());
    assert!(load(TempDir::new().path()).is_empty());
}
