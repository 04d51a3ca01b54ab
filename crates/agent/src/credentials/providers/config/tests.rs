use std::fs;
use std::os::unix::fs::symlink;

use super::*;
use crate::testing::TempDir;

const HEAD: &str = "apiVersion: kubelet.config.k8s.io/v1\nkind: CredentialProviderConfig\nproviders:\n";

/// A directory of programs: one that can be run, one that cannot, and one that is none.
struct Bed {
    dir: TempDir,
}

impl Bed {
    fn new() -> Self {
        let dir = TempDir::new();
        let bin = dir.path().join("bin");
        fs::create_dir_all(bin.join("folder")).unwrap();
        symlink("/bin/sh", bin.join("good")).unwrap();
        symlink("/bin/sh", bin.join("other")).unwrap();
        fs::write(bin.join("plain"), "").unwrap();
        Self { dir }
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.dir.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        path
    }

    fn load(&self, path: &Path) -> Result<Vec<Provider>, String> {
        super::load(path, &self.dir.path().join("bin")).map_err(|error| error.to_string())
    }
}

/// A provider, with some of its fields otherwise; an empty one is left out.
fn provider(changed: &[(&str, &str)]) -> String {
    let usual = [
        ("name", "good"),
        ("matchImages", "['*.example.com/team', 'r.example:5000']"),
        ("defaultCacheDuration", "12h"),
        ("apiVersion", "credentialprovider.kubelet.k8s.io/v1"),
    ];
    let value = |field: &str| changed.iter().rev().find(|(name, _)| *name == field).map(|(_, value)| *value);
    let usual_fields = usual.iter().map(|(name, usual)| (*name, value(name).unwrap_or(usual)));
    let more = changed.iter().copied().filter(|(name, _)| !usual.iter().any(|(usual, _)| usual == name));
    let lines: Vec<String> = usual_fields
        .chain(more)
        .filter(|(_, value)| !value.is_empty())
        .map(|(name, value)| format!("{name}: {value}"))
        .collect();
    format!("- {}\n", lines.join("\n  "))
}

#[test]
fn a_configuration_is_read_in_all_its_versions() {
    let bed = Bed::new();
    for version in ["v1", "v1beta1", "v1alpha1"] {
        let api = format!("credentialprovider.kubelet.k8s.io/{version}");
        let one = provider(&[
            ("apiVersion", &api),
            ("args", "[get, credentials]"),
            ("env", "[{name: A, value: b}]"),
            ("defaultCacheDuration", "1h30m"),
        ]);
        let text =
            format!("{HEAD}{one}").replace("kubelet.config.k8s.io/v1", &format!("kubelet.config.k8s.io/{version}"));
        let found = bed.load(&bed.write("c.yaml", &text)).unwrap();
        let [found] = &found[..] else { panic!("one provider") };
        let plugin = &found.plugin;
        assert_eq!((plugin.program.clone(), &plugin.api_version), (bed.dir.path().join("bin/good"), &api));
        assert_eq!(plugin.args, ["get", "credentials"]);
        assert_eq!(plugin.env, [("A".to_owned(), "b".to_owned())]);
        assert_eq!(found.keep_for, Duration::from_secs(5_400));
        assert!(found.patterns[0].matches("a.example.com/team/app:1") && found.patterns.len() == 2);
    }
}

#[test]
fn a_directory_is_read_in_the_order_of_its_names() {
    let bed = Bed::new();
    let dir = bed.dir.path().join("conf");
    bed.write(
        "conf/b.json",
        &serde_json::json!({
            "apiVersion": "kubelet.config.k8s.io/v1", "kind": "CredentialProviderConfig",
            "providers": [{
                "name": "other", "matchImages": ["b.example"], "defaultCacheDuration": "0s",
                "apiVersion": "credentialprovider.kubelet.k8s.io/v1", "args": null,
            }],
        })
        .to_string(),
    );
    bed.write("conf/a.yml", &format!("{HEAD}{}", provider(&[])));
    bed.write("conf/notes.txt", "no configuration");
    let names = |found: Vec<Provider>| -> Vec<String> {
        let name = |provider: &Provider| provider.plugin.program.file_name().unwrap().to_str().unwrap().to_owned();
        found.iter().map(name).collect()
    };
    assert_eq!(names(bed.load(&dir).unwrap()), ["good", "other"]);
    let twice = bed.write("conf/c.yaml", &format!("{HEAD}{}", provider(&[])));
    let told = bed.load(&dir).err().unwrap();
    assert_eq!(
        told,
        format!(
            "{}, line 4: providers[0].name: found \"good\": another provider of this name is in {} already; each needs its own",
            twice.display(),
            dir.join("a.yml").display()
        )
    );
    let empty = bed.dir.path().join("bin/folder");
    assert!(bed.load(&empty).err().unwrap().contains("holds no file that ends in .yaml, .yml or .json"));
    assert!(bed.load(Path::new("/nowhere/at/all")).err().unwrap().starts_with("/nowhere/at/all: cannot be read"));
}

#[test]
fn what_is_wrong_is_told_with_file_line_and_field() {
    let bed = Bed::new();
    let bin = bed.dir.path().join("bin").display().to_string();
    let missing =
        format!("no program at {bin}/gone: No such file or directory (os error 2); put it there or correct the name");
    let (not_executable, no_file) = (format!("{bin}/plain is not executable"), format!("{bin}/folder is not a file"));
    let table = [
        (vec![("name", "gone")], "line 4: providers[0].name: found \"gone\"", missing.as_str()),
        (vec![("name", "plain")], "providers[0].name", &not_executable),
        (vec![("name", "folder")], "providers[0].name", &no_file),
        (vec![("name", "")], "providers[0].name", "expected the file name of a program"),
        (vec![("name", "../good")], "providers[0].name", "without '/' and blanks"),
        (vec![("name", "'..'")], "providers[0].name", "expected the file name of a program"),
        (vec![("name", "a b")], "providers[0].name", "without '/' and blanks"),
        (vec![("matchImages", "[]")], "providers[0].matchImages", "expected 1 to 1000 images"),
        (vec![("matchImages", "")], "providers[0].matchImages", "expected 1 to 1000 images"),
        (
            vec![("matchImages", "['https://x']")],
            "providers[0].matchImages[0]: found \"https://x\"",
            "without a scheme",
        ),
        (vec![("matchImages", "[a, 'x[']")], "providers[0].matchImages[1]: found \"x[\"", "expected a host"),
        (vec![("matchImages", "x")], "providers[0].matchImages", "expected a list"),
        (vec![("defaultCacheDuration", "")], "providers[0].defaultCacheDuration", "is missing: expected a duration"),
        (vec![("defaultCacheDuration", "-1s")], "defaultCacheDuration: found \"-1s\"", "that is not negative"),
        (vec![("defaultCacheDuration", "soon")], "defaultCacheDuration: found \"soon\"", "expected a duration"),
        (vec![("apiVersion", "")], "providers[0].apiVersion", "expected one of credentialprovider.kubelet.k8s.io/v1, "),
        (vec![("apiVersion", "v1")], "providers[0].apiVersion: found \"v1\"", "expected one of credentialprovider"),
        (vec![("tokenAttributes", "{}")], "providers[0].tokenAttributes", "not supported yet: leave it out"),
        (vec![("env", "[{name: 'A=B', value: canary-7f}]")], "providers[0].env[0].name: found \"A=B\"", "must be"),
        (vec![("env", "[{name: A, value: [canary-7f]}]")], "providers[0].env[0].value", "expected a string"),
        (vec![("env", "{A: canary-7f}")], "providers[0].env", "expected a list"),
        (vec![("args", "[{password: canary-7f}]")], "providers[0].args[0]", "expected a string"),
        (vec![("args", "[\"a\\0b\"]")], "providers[0].args[0]", "must not contain the NUL character"),
        (vec![("matchImage", "[a]")], "providers[0].matchImage", "unknown field; did you mean matchImages?"),
    ];
    for (changed, place, message) in table {
        let path = bed.write("c.yaml", &format!("{HEAD}{}", provider(&changed)));
        let told = bed.load(&path).err().unwrap();
        assert!(told.starts_with(&format!("{}, line ", path.display())), "{told}");
        assert!(told.contains(place) && told.contains(message), "{place} {message}\n{told}");
        assert!(!told.contains("canary"), "{told}");
    }
    for (text, message) in [
        ("", "(document): holds none: expected one document"),
        ("a: 1\n---\nb: 2\n", "expected one document"),
        ("kind: [", "invalid YAML"),
        (
            "kind: CredentialProviderConfig\napiVersion: v1\n",
            "line 2: apiVersion: found \"v1\": expected one of kubelet.config.k8s.io/v1, ",
        ),
        (
            "kind: KubeletConfiguration\n",
            "line 1: kind: found \"KubeletConfiguration\": expected CredentialProviderConfig",
        ),
        ("kind: CredentialProviderConfig\n", "providers: is missing: expected at least one provider"),
        ("providers: {env: canary-7f}\n", "providers: expected a list"),
        ("providers: [canary-7f]\n", "providers[0]: expected a mapping"),
    ] {
        let told = bed.load(&bed.write("c.yaml", text)).err().unwrap();
        assert!(told.contains(message) && !told.contains("canary"), "{message}\n{told}");
    }
    let large = bed.write("large.yaml", &" ".repeat(2 << 20));
    assert!(bed.load(&large).err().unwrap().contains("at most 1048576 are read"));
}
