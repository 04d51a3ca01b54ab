//! The laws of the workspace that no compiler knows: who may depend on whom, and what certain rooms may not hold.
//!
//! They are read off `cargo metadata` and the sources. The scan knows Rust's comments and literals and no more; it
//! errs towards finding too little, never towards refusing good code.

#![allow(clippy::unwrap_used, reason = "a test ends where it cannot go on")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Who may depend on whom. `kubelet`, the binary, wires everything and is not listed; nothing depends on it.
const ARROWS: &[(&str, &[&str])] = &[
    ("agent", &["lifecycle", "pod", "cri", "cgroup", "node"]),
    ("cgroup", &[]),
    ("cluster", &["pod"]),
    ("cri", &[]),
    ("docker", &["cri"]),
    ("engine", &["image", "cri", "cgroup", "shim"]),
    ("image", &[]),
    ("lifecycle", &["pod"]),
    ("node", &["cgroup"]),
    ("pod", &[]),
    ("server", &["pod", "cri", "node"]),
    ("shim", &["cgroup"]),
    ("sim", &["lifecycle", "agent", "cri", "pod"]),
];

const BINARY: &str = "kubelet";

/// Rooms without an async runtime, by themselves or through a room they use.
const SYNCHRONOUS: &[&str] = &["pod", "lifecycle", "shim"];

/// Rooms that decide: no clock, no I/O, no randomness, no threads, no order that depends on a hash.
const PURE: &[&str] = &["pod", "lifecycle"];

/// Modules that decide in rooms that act: the simulator drives them in a world of its own.
const PURE_MODULES: &[(&str, &str)] = &[("agent", "core")];

/// Rooms that may hold `unsafe` in one module named `sys`. The shim may anywhere.
const SYS_MODULE: &[&str] = &["engine", "image", "cgroup"];

/// Rooms that only developers run: no part of the program, not even through another room.
const DEVELOPMENT: &[&str] = &["sim"];

const MAX_LINES: usize = 1_000;

#[test]
fn rooms_depend_only_on_the_rooms_they_may() {
    let crates = workspace();
    let mut broken = Vec::new();
    for room in rooms() {
        let Some(dependencies) = crates.get(&room.name) else {
            broken.push(format!("crates/{}: no package of that name", room.name));
            continue;
        };
        if room.name != BINARY && !ARROWS.iter().any(|(from, _)| *from == room.name) {
            broken.push(format!("{}: not in the table of rooms", room.name));
        }
        let inner = dependencies.iter().filter(|dependency| crates.contains_key(*dependency));
        broken.extend(inner.filter_map(|to| forbidden(&room.name, to)));
    }
    none("dependency arrows outside the table", broken);
}

#[test]
fn synchronous_rooms_have_no_async_runtime() {
    let crates = workspace();
    let mut broken = Vec::new();
    for room in SYNCHRONOUS {
        for reached in reachable(&crates, room) {
            let runtimes = crates[reached].iter().filter(|name| *name == "tokio" || name.starts_with("tokio-"));
            broken.extend(runtimes.map(|name| format!("{room} has {name} through {reached}")));
        }
    }
    none("async runtimes where everything is synchronous", broken);
}

#[test]
fn what_only_developers_run_is_no_part_of_the_program() {
    let crates = workspace();
    let program = reachable(&crates, BINARY);
    assert!(program.contains("lifecycle"), "the program is {program:?}");
    let found = DEVELOPMENT.iter().filter(|room| program.contains(**room));
    none("development rooms in the program", found.map(ToString::to_string).collect());
}

#[test]
fn only_the_cluster_room_knows_the_api_servers_client() {
    let crates = workspace();
    let users = crates.iter().filter(|(name, dependencies)| *name != "cluster" && dependencies.contains("kube"));
    none("rooms with the crate kube", users.map(|(name, _)| name.clone()).collect());
}

#[test]
fn unsafe_stands_in_the_shim_and_the_sys_modules_only() {
    let mut broken = Vec::new();
    for room in rooms() {
        let mut homes = BTreeSet::new();
        for file in sources(&room.path) {
            if room.name == "shim" || !tokens(&read(&file)).iter().any(|token| token == "unsafe") {
                continue;
            }
            match sys_module(&file).filter(|_| SYS_MODULE.contains(&room.name.as_str())) {
                Some(home) => _ = homes.insert(home),
                None => broken.push(file.display().to_string()),
            }
        }
        if homes.len() > 1 {
            broken.push(format!("{}: more than one sys module: {homes:?}", room.name));
        }
    }
    none("unsafe code outside its modules", broken);
}

#[test]
fn files_stay_below_the_limit() {
    let files = every_source().filter(|file| !is_test_file(file));
    let long = files.filter_map(|file| {
        let lines = without_tests(&read(&file)).lines().count();
        (lines > MAX_LINES).then(|| format!("{}: {lines} lines", file.display()))
    });
    none("files of more than 1,000 lines without their tests", long.collect());
}

#[test]
fn modules_are_files_named_after_themselves() {
    let files = every_source().filter(|file| file.file_name().is_some_and(|name| name == "mod.rs"));
    none("mod.rs files", files.map(|file| file.display().to_string()).collect());
}

#[test]
fn nothing_is_left_to_do() {
    let broken = every_source().flat_map(|file| {
        let found = macros(&tokens(&read(&file)), &["todo", "unimplemented", "dbg"]);
        found.into_iter().map(move |name| format!("{}: {name}!", file.display()))
    });
    none("unfinished code", broken.collect());
}

#[test]
fn pure_rooms_touch_nothing_of_the_world() {
    let pure = rooms().into_iter().filter(|room| PURE.contains(&room.name.as_str()));
    let modules = PURE_MODULES.iter().flat_map(|(room, module)| {
        let path = root().join("crates").join(room).join("src");
        let files: Vec<_> = sources(&path)
            .into_iter()
            .filter(|file| file.starts_with(path.join(module)) || *file == path.join(module).with_extension("rs"))
            .collect();
        assert!(files.len() > 1, "{room} has no module {module}");
        files
    });
    let files = pure.flat_map(|room| sources(&room.path)).chain(modules).filter(|file| !is_test_file(file));
    let broken = files.flat_map(|file| {
        let found = impurities(&tokens(&without_tests(&read(&file))));
        found.into_iter().map(move |what| format!("{}: {what}", file.display()))
    });
    none("impure code in pure rooms", broken.collect());
}

// The workspace.

/// Every crate of the workspace with what it depends on, build scripts included, tests not.
fn workspace() -> BTreeMap<String, BTreeSet<String>> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--no-deps", "--offline"])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(output.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let crates: BTreeMap<_, _> = metadata["packages"].as_array().unwrap().iter().map(dependencies).collect();
    assert!(crates.contains_key(BINARY), "no {BINARY} in {:?}", crates.keys());
    crates
}

fn dependencies(package: &serde_json::Value) -> (String, BTreeSet<String>) {
    let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
    let all = package["dependencies"].as_array().unwrap().iter();
    (text(&package["name"]), all.filter(|one| one["kind"] != "dev").map(|one| text(&one["name"])).collect())
}

fn forbidden(from: &str, to: &str) -> Option<String> {
    let allowed = ARROWS.iter().find(|(name, _)| *name == from).map_or(&[][..], |(_, to)| *to);
    (from != BINARY && !allowed.contains(&to)).then(|| format!("{from} → {to}"))
}

/// `from` and every crate of the workspace it uses, directly or not.
fn reachable<'a>(crates: &'a BTreeMap<String, BTreeSet<String>>, from: &'a str) -> BTreeSet<&'a str> {
    let (mut seen, mut next) = (BTreeSet::new(), vec![from]);
    while let Some(name) = next.pop() {
        let Some(dependencies) = crates.get(name) else { continue };
        if seen.insert(name) {
            next.extend(dependencies.iter().map(String::as_str));
        }
    }
    seen
}

struct Room {
    name: String,
    path: PathBuf,
}

fn root() -> PathBuf {
    // Read when the test runs: the checkout may stand elsewhere than where the test was built.
    let here = std::env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| env!("CARGO_MANIFEST_DIR").into(), PathBuf::from);
    here.ancestors().nth(2).unwrap().to_owned()
}

fn rooms() -> Vec<Room> {
    let crates = fs::read_dir(root().join("crates")).unwrap().map(|entry| entry.unwrap());
    let mut rooms: Vec<_> = crates
        .filter(|entry| entry.path().join("Cargo.toml").is_file())
        .map(|entry| Room { name: entry.file_name().into_string().unwrap(), path: entry.path().join("src") })
        .collect();
    rooms.sort_by(|a, b| a.name.cmp(&b.name));
    assert!(rooms.len() > 5, "only {} crates found", rooms.len());
    rooms
}

fn every_source() -> impl Iterator<Item = PathBuf> {
    rooms().into_iter().flat_map(|room| sources(&room.path))
}

/// The `.rs` files beneath a directory, sorted.
fn sources(directory: &Path) -> Vec<PathBuf> {
    let mut entries: Vec<_> = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    entries.sort();
    let of = |path: PathBuf| {
        if path.is_dir() {
            return sources(&path);
        }
        if path.extension().is_some_and(|extension| extension == "rs") { vec![path] } else { Vec::new() }
    };
    entries.into_iter().flat_map(of).collect()
}

fn read(file: &Path) -> String {
    fs::read_to_string(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}

#[track_caller]
fn none(what: &str, found: Vec<String>) {
    assert!(found.is_empty(), "{what}:\n  {}", found.join("\n  "));
}

/// The module named `sys` that a file belongs to: `…/sys` for both `sys.rs` and `sys/x.rs`.
fn sys_module(file: &Path) -> Option<PathBuf> {
    file.with_extension("").ancestors().find(|path| path.file_name().is_some_and(|name| name == "sys")).map(Into::into)
}

fn is_test_file(file: &Path) -> bool {
    file.with_extension("").ancestors().take_while(|path| !path.ends_with("src")).any(|path| path.ends_with("tests"))
}

// The sources.

/// The source without its `#[cfg(test)] mod … { … }` blocks, told by the indentation rustfmt gives them.
fn without_tests(source: &str) -> String {
    let mut kept = String::new();
    let mut lines = source.lines().peekable();
    while let Some(line) = lines.next() {
        if line == "#[cfg(test)]" && lines.peek().is_some_and(|next| next.starts_with("mod ") && next.ends_with('{')) {
            lines.by_ref().find(|line| *line == "}");
            continue;
        }
        kept.push_str(line);
        kept.push('\n');
    }
    kept
}

/// Words and single punctuation marks, without comments and without what stands in quotes.
fn tokens(source: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut rest = source;
    while let Some(first) = rest.chars().next() {
        let length = match skipped(rest) {
            Some(length) => length,
            None if is_word(first) => {
                let length = rest.find(|c| !is_word(c)).unwrap_or(rest.len());
                found.push(rest[..length].to_owned());
                length
            }
            None => {
                found.extend((!first.is_whitespace()).then(|| first.to_string()));
                first.len_utf8()
            }
        };
        rest = &rest[length..];
    }
    found
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// The length of the comment or literal at the start of `text`, if there is one.
fn skipped(text: &str) -> Option<usize> {
    if text.starts_with("//") {
        return Some(text.find('\n').unwrap_or(text.len()));
    }
    if text.starts_with("/*") {
        return Some(block_comment(text));
    }
    let opening = text.trim_start_matches(['b', 'c']);
    if text.len() - opening.len() <= 1 {
        let hashes = opening.strip_prefix('r').map(|raw| raw.len() - raw.trim_start_matches('#').len());
        if let Some(hashes) = hashes.filter(|hashes| opening[1 + hashes..].starts_with('"')) {
            let closing = format!("\"{}", "#".repeat(hashes));
            let body = &opening[hashes + 2..];
            let end = body.find(&closing).map_or(body.len(), |end| end + closing.len());
            return Some(text.len() - body.len() + end);
        }
        if let Some(body) = opening.strip_prefix('"') {
            return Some(text.len() - body.len() + quoted(body, '"'));
        }
    }
    // A quote is a character only if it closes again; otherwise it begins a lifetime.
    let body = text.strip_prefix('\'')?;
    let mut chars = body.chars();
    let closes = chars.next() == Some('\\') || chars.next() == Some('\'');
    Some(if closes { 1 + quoted(body, '\'') } else { 1 + body.find(|c| !is_word(c)).unwrap_or(body.len()) })
}

/// The length up to and with the closing quote.
fn quoted(body: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in body.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            _ if c == quote => return at + 1,
            _ => {}
        }
    }
    body.len()
}

/// Block comments nest in Rust.
fn block_comment(text: &str) -> usize {
    let (mut depth, mut at) = (0_usize, 0);
    while at < text.len() {
        let rest = &text.as_bytes()[at..];
        at += match rest {
            [b'/', b'*', ..] => {
                depth += 1;
                2
            }
            [b'*', b'/', ..] => {
                depth -= 1;
                2
            }
            _ => 1,
        };
        if depth == 0 {
            break;
        }
    }
    at
}

/// Those of `names` that are called as macros.
fn macros(tokens: &[String], names: &[&str]) -> Vec<String> {
    let calls = tokens.windows(2).filter(|pair| pair[1] == "!" && names.contains(&pair[0].as_str()));
    calls.map(|pair| pair[0].clone()).collect()
}

/// What a pure room may not hold, as it was found.
fn impurities(tokens: &[String]) -> Vec<String> {
    const WORDS: &[&str] =
        &["SystemTime", "Instant", "HashMap", "HashSet", "RandomState", "async", "await", "tokio", "rustix", "libc"];
    const STD: &[&str] = &["env", "fs", "net", "os", "process", "thread"];
    let words: Vec<&str> = tokens.iter().map(String::as_str).collect();
    let mut found = Vec::new();
    for at in 0..words.len() {
        match &words[at..] {
            [word, ..] if WORDS.contains(word) => found.push((*word).to_owned()),
            [clock, ":", ":", "now", "(", ..] => found.push(format!("{clock}::now()")),
            ["std", ":", ":", path @ ..] => {
                let modules = named_modules(path).into_iter().filter(|name| STD.contains(name));
                found.extend(modules.map(|name| format!("std::{name}")));
            }
            _ => {}
        }
    }
    found
}

/// The modules that a path names after `std::`: one, or the first of each branch of a group.
fn named_modules<'a>(path: &[&'a str]) -> Vec<&'a str> {
    let mut depth = 0_i32;
    let mut names = Vec::new();
    for (at, word) in path.iter().enumerate() {
        match *word {
            "{" => depth += 1,
            "}" => depth -= 1,
            name if depth == 0 || (depth == 1 && matches!(path[at - 1], "{" | ",")) => names.push(name),
            _ => {}
        }
        if depth <= 0 {
            break;
        }
    }
    names
}

// The scan itself is tried on samples, so that a law cannot pass by being blind.

#[test]
fn the_scan_passes_over_comments_and_literals() {
    let blind = [
        "// unsafe\n",
        "/* a /* nested */ unsafe */",
        r#"let a = "unsafe \" unsafe";"#,
        "let a = r#\"unsafe \" unsafe\"#;",
        r#"let a = b"unsafe";"#,
        "#![forbid(unsafe_code)]",
    ];
    for source in blind {
        assert!(!tokens(source).iter().any(|token| token == "unsafe"), "{source}");
    }
    let seen = [
        "let a = '\"'; unsafe {}",
        r"let a = '\''; unsafe {}",
        "fn f<'a>(x: &'a u8) { unsafe {} }",
        "/* a */ unsafe {}",
        "let b = \"a\\\\\"; unsafe {}",
        "let bar = 1; unsafe {}",
        "let r = br##\"x\"# \"##; unsafe {}",
    ];
    for source in seen {
        assert!(tokens(source).iter().any(|token| token == "unsafe"), "{source}");
    }
}

#[test]
fn the_scan_sees_what_is_unfinished_or_impure() {
    assert_eq!(macros(&tokens("fn f() { todo!() }"), &["todo"]), ["todo"]);
    assert!(macros(&tokens("fn todo() {} // todo!()"), &["todo"]).is_empty());
    let table: &[(&str, &[&str])] = &[
        ("use std::time::{Duration, Instant};", &["Instant"]),
        ("use std::collections::HashMap;", &["HashMap"]),
        ("let now = Timestamp::now();", &["Timestamp::now()"]),
        ("let text = std::fs::read_to_string(path);", &["std::fs"]),
        ("use std::{collections::{BTreeMap, btree_map}, fs, thread};", &["std::fs", "std::thread"]),
        ("use std::{fmt, collections::BTreeMap};", &[]),
        ("fn handle(now: Millis) -> Millis { now }", &[]),
    ];
    for (source, expected) in table {
        assert_eq!(impurities(&tokens(source)), *expected, "{source}");
    }
}

#[test]
fn tests_are_cut_out_and_nothing_else() {
    let source = "fn a() {}\n#[cfg(test)]\nmod tests {\n    use std::fs;\n}\nfn b() {}\n";
    assert_eq!(without_tests(source), "fn a() {}\nfn b() {}\n");
    assert!(is_test_file(Path::new("crates/pod/src/env/tests.rs")));
    assert!(is_test_file(Path::new("crates/pod/src/tests/env.rs")));
    assert!(!is_test_file(Path::new("tests/crates/pod/src/env.rs")));
}

#[test]
fn arrows_outside_the_table_are_told() {
    assert_eq!(forbidden("pod", "lifecycle").as_deref(), Some("pod → lifecycle"));
    assert_eq!(forbidden("engine", "kubelet").as_deref(), Some("engine → kubelet"));
    assert_eq!(forbidden("lifecycle", "pod"), None);
    assert_eq!(forbidden("kubelet", "engine"), None);
    assert_eq!(sys_module(Path::new("crates/image/src/sys/tar.rs")), Some("crates/image/src/sys".into()));
    assert_eq!(sys_module(Path::new("crates/image/src/system.rs")), None);
}
