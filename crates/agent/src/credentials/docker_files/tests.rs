use std::fs;

use super::*;
use crate::testing::TempDir;

const IMAGE: &str = "r.example/team/app:1";

fn passwords(files: &mut DockerFiles) -> Vec<String> {
    let configs = files.look();
    configs.iter().flat_map(|config| config.for_image(IMAGE)).map(|credential| credential.password.clone()).collect()
}

fn told(files: &DockerFiles) -> Vec<String> {
    files.files.iter().flat_map(|(_, known)| known.told.clone()).collect()
}

fn auths(password: &str) -> String {
    format!(r#"{{"auths": {{"r.example": {{"username": "u", "password": "{password}"}}}}}}"#)
}

#[test]
fn files_are_asked_in_their_order_and_read_anew_when_they_change() {
    let dir = TempDir::new();
    let [first, second, legacy] = ["config.json", "home.json", ".dockercfg"].map(|name| dir.path().join(name));
    let mut files = DockerFiles::new(vec![first.clone(), second.clone(), legacy.clone(), first.clone()]);
    assert!(passwords(&mut files).is_empty() && told(&files).is_empty(), "none of them need exist");
    fs::write(&second, auths("2")).unwrap();
    assert_eq!(passwords(&mut files), ["2"]);
    fs::write(&first, auths("1")).unwrap();
    fs::write(&legacy, r#"{"r.example/team": {"username": "u", "password": "3"}, "auths": {}}"#).unwrap();
    assert_eq!(passwords(&mut files), ["1", "2", "3"]);
    fs::write(&first, auths("one")).unwrap();
    fs::remove_file(&second).unwrap();
    assert_eq!(passwords(&mut files), ["one", "3"]);
    assert!(told(&files).is_empty(), "{:?}", told(&files));
}

#[test]
fn s_b23_a_bad_file_costs_itself_only_and_is_told_without_its_content() {
    let dir = TempDir::new();
    let [bad, good] = ["bad.json", "good.json"].map(|name| dir.path().join(name));
    let mut files = DockerFiles::new(vec![bad.clone(), good.clone()]);
    fs::write(&good, auths("good")).unwrap();
    let large = format!("{}{}", auths("canary-7f"), " ".repeat(docker_config::MAX_BYTES));
    let table = [
        (r#"{"auths": {"r.example": {"password": "canary-7f"#, "(document): is not JSON: line 1, column "),
        (r#"{"auths": {"r.example": {"auth": "canary-7f"}}}"#, "auths[r.example].auth: is not the base64 form"),
        (r#"{"auths": {"r.example": {}}, "credsStore": "canary-7f"}"#, "credsStore: credential helpers are not asked"),
        ("", "(document): is not JSON"),
        (large.as_str(), "at most 1048576 are read"),
    ];
    for (text, expected) in table {
        fs::write(&bad, text).unwrap();
        assert_eq!(passwords(&mut files), ["good"], "{expected}");
        let told = told(&files);
        assert!(told.len() == 1 && told[0].starts_with(&bad.display().to_string()), "{told:?}");
        assert!(told[0].contains(expected) && !told[0].contains("canary"), "{expected:?} in {told:?}");
    }
    fs::remove_file(&bad).unwrap();
    fs::create_dir(&bad).unwrap();
    assert_eq!(passwords(&mut files), ["good"]);
    assert_eq!(told(&files), [format!("{}: is a directory, expected a regular file", bad.display())]);
    fs::remove_dir(&bad).unwrap();
    fs::write(&bad, auths("healed")).unwrap();
    assert_eq!((passwords(&mut files), told(&files)), (vec!["healed".to_owned(), "good".to_owned()], vec![]));
}

#[test]
fn an_entry_that_is_wrong_costs_itself_only() {
    let dir = TempDir::new();
    let path = dir.path().join("config.json");
    fs::write(&path, r#"{"auths": {"a b": {}, "r.example": {"username": "u", "password": "p"}}}"#).unwrap();
    let mut files = DockerFiles::new(vec![path]);
    assert_eq!((passwords(&mut files).len(), told(&files).len()), (1, 1));
}
