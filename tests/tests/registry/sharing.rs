//! Many at once: what they share is fetched once and kept once.

use crate::space::others_are_kept_out;
use crate::{finish, machine, pod, random_layer, verifying};
use e2e::dice::Dice;
use e2e::oci::{self, Image, Packing};
use e2e::registry::{self, Access, Proxy, Registry, Wire};
use e2e::{Machine, await_some, tree};
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, ChildStderr, Command, Stdio};

const IMAGES: usize = 20;
const SHARED: usize = 10;
const CALLERS: usize = 100;

/// S-B20: and after a hundred pods all that the kubelet keeps is as closed as it was.
#[test]
fn s_b20_twenty_images_with_ten_shared_layers_and_a_hundred_pods() {
    if !registry::is_available() {
        return;
    }
    let mut dice = Dice::from_env();
    let registry = Registry::start(Access::Anonymous, Wire::Plain);
    let proxy = Proxy::start(&registry);
    let mut shared = vec![oci::busybox(Packing::Gzip)];
    shared.extend((0..SHARED).map(|number| random_layer(&mut dice, &format!("shared-{number}"), 64 << 10)));
    let mut images = Vec::new();
    for number in 0..IMAGES {
        let mut layers = shared.clone();
        layers.push(random_layer(&mut dice, &format!("own-{number}"), 64 << 10));
        let image = Image::new(layers);
        registry.put(&format!("many/app-{number}:1"), &image);
        images.push(image);
    }
    let machine = machine(&["--serialize-image-pulls=false".to_owned()]);
    // Until all have asked, nothing comes.
    proxy.stop_after(0);
    let mut container = verifying(SHARED + 1);
    container["imagePullPolicy"] = json!("IfNotPresent");
    container["spec"] = json!({"restartPolicy": "Never"});
    for caller in 0..CALLERS {
        let image = format!("{}/many/app-{}:1", proxy.host(), caller % IMAGES);
        pod(&machine, &format!("caller-{caller}"), &image, &container);
    }
    await_some("all images are asked for", || {
        let asked = |number: &usize| {
            let path = format!("/many/app-{number}/manifests/");
            proxy.seen().iter().any(|seen| seen.path.contains(&path))
        };
        let missing: Vec<usize> = (0..IMAGES).filter(|number| !asked(number)).collect();
        if missing.is_empty() { Ok(()) } else { Err(format!("not yet: {missing:?}; log:\n{}", machine.log())) }
    });
    proxy.heal();
    for caller in 0..CALLERS {
        machine.await_phase(&format!("caller-{caller}"), "Succeeded");
    }

    let expected: BTreeSet<&str> = images
        .iter()
        .flat_map(|image| image.layers.iter().map(|layer| &layer.blob).chain([&image.config]))
        .map(|blob| blob.digest.as_str())
        .collect();
    let fetched = proxy.blobs();
    let more: BTreeMap<_, _> = fetched.iter().filter(|(_, times)| **times != 1).collect();
    assert!(more.is_empty(), "fetched more than once: {more:#?}");
    assert_eq!(fetched.keys().map(String::as_str).collect::<BTreeSet<_>>(), expected);
    kept_once(&machine.dir.join("root/image-store/layers"), &images);
    others_are_kept_out(&machine);
    finish(machine);
}

/// One image that is not there, and a hundred who want it: its blobs are fetched once, and nobody is told before all is
/// there. Once it is, a hundred more bring nothing.
#[test]
fn a_hundred_callers_of_one_image() {
    if !registry::is_available() {
        return;
    }
    let mut dice = Dice::from_env();
    let registry = Registry::start(Access::Anonymous, Wire::Plain);
    let proxy = Proxy::start(&registry);
    let own = (0..SHARED).map(|number| random_layer(&mut dice, &number.to_string(), 64 << 10));
    let image = Image::new([oci::busybox(Packing::Gzip)].into_iter().chain(own).collect());
    registry.put("one/app:1", &image);
    let name = format!("{}/one/app:1", proxy.host());
    let machine = machine(&[]);
    // Until all have asked, nothing comes.
    proxy.stop_after(0);
    let callers: Vec<Caller> = (0..CALLERS).map(|_| Caller::start(&machine, &name)).collect();
    let callers: Vec<Caller> = callers.into_iter().map(Caller::joined).collect();
    assert!(!machine.cli(&["image", "list"]).contains("one/app"));
    proxy.heal();
    let told = format!("{name} {}\n", image.id());
    for caller in callers {
        assert_eq!(caller.finish(), told);
    }
    let expected = image.layers.iter().map(|layer| &layer.blob).chain([&image.config]);
    assert_eq!(proxy.blobs(), expected.map(|blob| (blob.digest.clone(), 1)).collect());
    kept_once(&machine.dir.join("root/image-store/layers"), &[image]);

    proxy.forget();
    let callers: Vec<Caller> = (0..CALLERS).map(|_| Caller::start(&machine, &name)).collect();
    for caller in callers {
        assert_eq!(caller.finish(), told);
    }
    assert_eq!(proxy.blobs(), BTreeMap::new());
    finish(machine);
}

/// `kubelet image pull`, under way.
struct Caller {
    child: Child,
    progress: BufReader<ChildStderr>,
}

impl Caller {
    fn start(machine: &Machine, image: &str) -> Caller {
        let mut command = Command::new(e2e::machine::kubelet_binary());
        command.args(["image", "pull", &format!("--run-dir={}", machine.run_dir.display()), image]);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("runs");
        let progress = BufReader::new(child.stderr.take().expect("a pipe"));
        Caller { child, progress }
    }

    /// Once the kubelet has told it of the pull that it takes part in.
    fn joined(mut self) -> Caller {
        let mut line = String::new();
        self.progress.read_line(&mut line).expect("a line");
        assert!(line.starts_with("pulling "), "{line}");
        self
    }

    /// What it says in the end, of an image that it was given.
    fn finish(mut self) -> String {
        // To its end, so that it can say all.
        let mut progress = String::new();
        self.progress.read_to_string(&mut progress).expect("text");
        let output = self.child.wait_with_output().expect("waited");
        assert!(output.status.success(), "{progress}");
        String::from_utf8(output.stdout).expect("UTF-8")
    }
}

/// Each content lies in the store once, and nothing else does: disk use is that of the unique bytes.
fn kept_once(layers: &Path, images: &[Image]) {
    let tree = tree::read(layers);
    let mut files: BTreeMap<&str, Vec<&Path>> = BTreeMap::new();
    for (path, node) in &tree {
        if let tree::Kind::File { size_bytes: 1.., sha256 } = &node.kind
            && node.first_name == *path
        {
            files.entry(sha256).or_default().push(path);
        }
    }
    let twice: Vec<_> = files.values().filter(|paths| paths.len() > 1).collect();
    assert!(twice.is_empty(), "kept more than once: {twice:#?}");
    let unique: BTreeSet<&str> =
        images.iter().flat_map(|image| &image.layers).map(|layer| layer.diff_id.as_str()).collect();
    let dirs = tree.iter().filter(|(path, _)| path.components().count() == 1).count();
    assert_eq!(dirs, unique.len(), "one directory a layer");
}
