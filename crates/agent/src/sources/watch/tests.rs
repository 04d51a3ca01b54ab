use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::symlink;

use super::*;
use crate::sources::last_good::LastGood;
use crate::testing::{TempDir, manifest, secret_manifest};

/// Long enough that no poll takes part where an event should.
const NEVER: Duration = Duration::from_secs(3_600);

struct Bed {
    dir: TempDir,
    reports: mpsc::Receiver<SourceReport>,
    changes: mpsc::Receiver<Change>,
    stop: CancellationToken,
}

impl Drop for Bed {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Bed {
    fn manifests(&self) -> PathBuf {
        self.dir.path().join("manifests")
    }

    fn path(&self, name: &str) -> PathBuf {
        self.manifests().join(name)
    }

    /// Waits until a report says what is expected of it; the test's own time limit ends a wait in vain.
    async fn until(&mut self, what: &str, expected: impl Fn(&SourceReport) -> bool) -> SourceReport {
        let wait = async {
            loop {
                let report = self.reports.recv().await.expect("the watch goes on");
                if expected(&report) {
                    return report;
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(20), wait).await.unwrap_or_else(|_| panic!("no report: {what}"))
    }

    async fn until_pods(&mut self, expected: &[&str]) -> SourceReport {
        self.until(&format!("pods {expected:?}"), |report| pods(report) == expected).await
    }
}

fn pods(report: &SourceReport) -> Vec<String> {
    let mut names: Vec<String> =
        report.files.iter().flat_map(|f| &f.pods).map(|pod| pod::name(pod).to_owned()).collect();
    names.sort();
    names
}

fn problem(report: &SourceReport, file: &str) -> Option<String> {
    let file = report.files.iter().find(|f| f.name.ends_with(file))?;
    file.problem.as_ref().map(|problem| problem.message.clone())
}

fn start(dir: TempDir, check_every: Duration, below: &str) -> Bed {
    let (reports, incoming) = mpsc::channel(64);
    let (changes, kept) = mpsc::channel(4096);
    let last_good = LastGood::new(&dir.path().join("root"));
    let files = FileSource::new(0, dir.path().join(below), "n".into(), last_good);
    let stop = CancellationToken::new();
    tokio::spawn(watch(vec![Watched { files, check_every }], Sinks { reports, changes }, stop.clone()));
    Bed { dir, reports: incoming, changes: kept, stop }
}

async fn bed() -> Bed {
    let dir = TempDir::new();
    fs::create_dir(dir.path().join("manifests")).unwrap();
    let mut bed = start(dir, NEVER, "manifests");
    bed.until_pods(&[]).await;
    bed
}

#[tokio::test]
async fn a_file_written_changed_and_removed_is_followed() {
    let mut bed = bed().await;
    fs::write(bed.path("a.yaml"), manifest("a", "")).unwrap();
    let first = bed.until_pods(&["a-n"]).await;
    fs::write(bed.path("a.yaml"), manifest("a", "  hostname: h\n")).unwrap();
    let uid = |report: &SourceReport| pod::uid(&report.files[0].pods[0]).to_owned();
    let second = bed.until("another UID", |report| !report.files.is_empty() && uid(report) != uid(&first)).await;
    assert_eq!(pods(&second), ["a-n"]);
    fs::remove_file(bed.path("a.yaml")).unwrap();
    bed.until_pods(&[]).await;
}

/// Every secret of the report as `name=password`.
fn passwords(report: &SourceReport) -> Vec<String> {
    let secrets = report.files.iter().flat_map(|file| &file.secrets);
    let all = secrets.flat_map(|secret| secret.config.for_image("r.example/a").map(move |found| (secret, found)));
    all.map(|(secret, found)| format!("{}={}", secret.name, found.password)).collect()
}

#[tokio::test]
async fn rule_13_a_file_of_secrets_is_followed_and_keeps_its_last_good_ones() {
    let mut bed = bed().await;
    fs::write(bed.path("s.yaml"), secret_manifest("regcred", "r.example", "1")).unwrap();
    let report = bed.until("the secret", |report| passwords(report) == ["regcred=1"]).await;
    assert_eq!((pods(&report).len(), problem(&report, "s.yaml")), (0, None));
    fs::write(bed.path("s.yaml"), secret_manifest("regcred", "r.example", "2")).unwrap();
    bed.until("its other password", |report| passwords(report) == ["regcred=2"]).await;
    fs::write(bed.path("s.yaml"), secret_manifest("regcred", "r.example", "3").replace("type:", "tipe:")).unwrap();
    let report = bed.until("what is wrong", |report| problem(report, "s.yaml").is_some()).await;
    assert_eq!(passwords(&report), ["regcred=2"]);
    let told = problem(&report, "s.yaml").unwrap();
    assert!(told.contains("s.yaml, line 3: tipe: unknown field; did you mean type?"), "{told}");
    fs::remove_file(bed.path("s.yaml")).unwrap();
    bed.until("none", |report| report.files.is_empty()).await;
}

#[tokio::test]
async fn f_b11_rename_replace_never_shows_a_gap() {
    let mut bed = bed().await;
    fs::write(bed.path("a.yaml"), manifest("a", "")).unwrap();
    bed.until_pods(&["a-n"]).await;
    fs::write(bed.path(".a.yaml.new"), manifest("a2", "")).unwrap();
    fs::rename(bed.path(".a.yaml.new"), bed.path("a.yaml")).unwrap();
    let next = bed.reports.recv().await.unwrap();
    assert_eq!(pods(&next), ["a2-n"]);
}

#[tokio::test]
async fn a_file_removed_and_created_anew_by_an_editor_keeps_its_pod() {
    let mut bed = bed().await;
    fs::write(bed.path("a.yaml"), manifest("a", "")).unwrap();
    bed.until_pods(&["a-n"]).await;
    fs::rename(bed.path("a.yaml"), bed.path(".a.yaml~")).unwrap();
    fs::write(bed.path("a.yaml"), manifest("a", "")).unwrap();
    fs::write(bed.path("b.yaml"), manifest("b", "")).unwrap();
    let next = bed.reports.recv().await.unwrap();
    assert_eq!(pods(&next), ["a-n", "b-n"]);
}

#[tokio::test]
async fn a_half_written_file_is_not_judged_until_it_is_closed() {
    let mut bed = bed().await;
    let mut file = File::create(bed.path("a.yaml")).unwrap();
    let text = manifest("a", "");
    let (head, tail) = text.split_at(40);
    file.write_all(head.as_bytes()).unwrap();
    // Another file's report shows that the half was passed over and not only not yet seen.
    fs::write(bed.path("b.yaml"), manifest("b", "")).unwrap();
    let report = bed.until_pods(&["b-n"]).await;
    assert_eq!(problem(&report, "a.yaml"), None);
    file.write_all(tail.as_bytes()).unwrap();
    drop(file);
    bed.until_pods(&["a-n", "b-n"]).await;
}

#[tokio::test]
async fn rule_13_a_file_that_turns_bad_keeps_its_pod() {
    let mut bed = bed().await;
    fs::write(bed.path("a.yaml"), manifest("a", "")).unwrap();
    bed.until_pods(&["a-n"]).await;
    for bad in ["kind: [", "", "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec: {contaners: []}\n"] {
        fs::write(bed.path("a.yaml"), bad).unwrap();
        let report = bed.until("a problem", |report| problem(report, "a.yaml").is_some()).await;
        assert_eq!(pods(&report), ["a-n"], "{bad:?}");
    }
    fs::write(bed.path("a.yaml"), manifest("a", "")).unwrap();
    let report = bed.until("good again", |report| problem(report, "a.yaml").is_none()).await;
    assert_eq!(pods(&report), ["a-n"]);
    fs::remove_file(bed.path("a.yaml")).unwrap();
    bed.until_pods(&[]).await;
}

#[tokio::test]
async fn rule_13_the_last_good_version_outlives_the_kubelet() {
    let dir = TempDir::new();
    fs::create_dir(dir.path().join("manifests")).unwrap();
    let path = dir.path().join("manifests/a.yaml");
    let last_good = LastGood::new(&dir.path().join("root"));
    let (changes, writer) = last_good.writer();
    let name = path.to_str().unwrap();
    changes.send(Change { name: name.into(), text: Some(manifest("a", "").into_bytes().into()) }).await.unwrap();
    drop(changes);
    writer.await.unwrap();
    fs::write(&path, "kind: [").unwrap();
    let mut bed = start(dir, NEVER, "manifests");
    bed.until("its pod, though it is bad", |report| problem(report, "a.yaml").is_some() && pods(report) == ["a-n"])
        .await;
}

#[tokio::test]
async fn names_kinds_and_sizes() {
    let mut bed = bed().await;
    fs::write(bed.path(".hidden.yaml"), manifest("hidden", "")).unwrap();
    fs::write(bed.path("a.yaml~"), manifest("backup", "")).unwrap();
    fs::create_dir(bed.path("sub.yaml")).unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        bed.path("fifo.yaml"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::from_raw_mode(0o600),
        0,
    )
    .unwrap();
    symlink("/dev/zero", bed.path("zero.yaml")).unwrap();
    symlink("nowhere", bed.path("dangling.yaml")).unwrap();
    File::create(bed.path("big.yaml")).unwrap().set_len((10 << 20) + 1).unwrap();
    fs::write(bed.path("z.json"), r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"z"},"spec":{"containers":[{"name":"c","image":"i:1"}]}}"#).unwrap();
    let report = bed
        .until("everything", |report| {
            ["fifo.yaml", "zero.yaml", "dangling.yaml", "big.yaml", "a.yaml~", "sub.yaml"]
                .iter()
                .all(|name| problem(report, name).is_some())
                && pods(report) == ["z-n"]
        })
        .await;
    assert!(report.files.iter().all(|file| !file.name.contains("hidden")));
    let ignored: Vec<&FileName> = report.files.iter().filter(|file| file.ignored).map(|file| &file.name).collect();
    assert_eq!(ignored.len(), 1, "{ignored:?}");
    assert!(problem(&report, "fifo.yaml").unwrap().contains("a FIFO"));
}

type FileName = std::sync::Arc<str>;

#[tokio::test]
async fn links_and_the_swap_behind_them_are_followed() {
    let mut bed = bed().await;
    for version in ["..v1", "..v2"] {
        fs::create_dir(bed.path(version)).unwrap();
        fs::write(bed.path(version).join("a.yaml"), manifest(&version[2..], "")).unwrap();
    }
    symlink("..v1", bed.path("..data")).unwrap();
    symlink("..data/a.yaml", bed.path("a.yaml")).unwrap();
    bed.until_pods(&["v1-n"]).await;
    symlink("..v2", bed.path("..new")).unwrap();
    fs::rename(bed.path("..new"), bed.path("..data")).unwrap();
    bed.until_pods(&["v2-n"]).await;
}

#[tokio::test]
async fn a_directory_that_vanishes_and_returns() {
    let mut bed = bed().await;
    fs::write(bed.path("a.yaml"), manifest("a", "")).unwrap();
    bed.until_pods(&["a-n"]).await;
    fs::rename(bed.manifests(), bed.dir.path().join("away")).unwrap();
    bed.until_pods(&[]).await;
    fs::create_dir(bed.manifests()).unwrap();
    // The new directory is watched before it is read, so the file is seen however they interleave.
    fs::write(bed.path("b.yaml"), manifest("b", "")).unwrap();
    bed.until_pods(&["b-n"]).await;
    fs::write(bed.path("c.yaml"), manifest("c", "")).unwrap();
    bed.until_pods(&["b-n", "c-n"]).await;
}

#[tokio::test]
async fn rule_13_a_directory_that_cannot_be_read_keeps_its_pods() {
    let mut bed = bed().await;
    fs::write(bed.path("a.yaml"), manifest("a", "")).unwrap();
    bed.until_pods(&["a-n"]).await;
    let away = bed.dir.path().join("away");
    symlink("manifests", bed.dir.path().join("loop")).unwrap();
    rustix::fs::renameat_with(
        rustix::fs::CWD,
        bed.dir.path().join("loop"),
        rustix::fs::CWD,
        bed.manifests(),
        rustix::fs::RenameFlags::EXCHANGE,
    )
    .unwrap();
    fs::rename(bed.dir.path().join("loop"), &away).unwrap();
    let report = bed.until("a problem", |report| problem(report, "/manifests").is_some()).await;
    assert_eq!(pods(&report), ["a-n"]);
    fs::remove_file(bed.manifests()).unwrap();
    bed.until_pods(&[]).await;
    fs::rename(&away, bed.manifests()).unwrap();
    bed.until_pods(&["a-n"]).await;
}

#[tokio::test]
async fn a_burst_of_a_thousand_files_is_read_in_few_passes() {
    let mut bed = bed().await;
    for number in 0..1_000 {
        fs::write(bed.path(&format!("p{number}.yaml")), manifest(&format!("p{number}"), "")).unwrap();
    }
    let mut passes = 0;
    loop {
        let report = bed.reports.recv().await.unwrap();
        passes += 1;
        if pods(&report).len() == 1_000 {
            break;
        }
    }
    assert!(passes <= 50, "{passes} passes");
}

#[tokio::test]
async fn one_file_named_directly_may_have_any_name() {
    let dir = TempDir::new();
    let path = dir.path().join("pod.txt");
    fs::write(&path, manifest("a", "")).unwrap();
    let mut bed = start(dir, NEVER, "pod.txt");
    bed.until_pods(&["a-n"]).await;
    fs::write(&path, manifest("b", "")).unwrap();
    bed.until_pods(&["b-n"]).await;
    fs::remove_file(&path).unwrap();
    bed.until_pods(&[]).await;
    fs::write(&path, manifest("c", "")).unwrap();
    bed.until_pods(&["c-n"]).await;
}

#[tokio::test]
async fn a_poll_repairs_what_no_event_told() {
    let dir = TempDir::new();
    for sub in ["manifests", "outside"] {
        fs::create_dir(dir.path().join(sub)).unwrap();
    }
    let target = dir.path().join("outside/target");
    fs::write(&target, manifest("a", "")).unwrap();
    symlink(&target, dir.path().join("manifests/a.yaml")).unwrap();
    let mut bed = start(dir, Duration::from_millis(5), "manifests");
    bed.until_pods(&["a-n"]).await;
    fs::write(&target, manifest("b", "")).unwrap();
    bed.until_pods(&["b-n"]).await;
}

#[tokio::test]
async fn what_was_removed_while_the_kubelet_was_away_is_forgotten() {
    let dir = TempDir::new();
    fs::create_dir(dir.path().join("manifests")).unwrap();
    let name = dir.path().join("manifests/gone.yaml").to_str().unwrap().to_owned();
    let last_good = LastGood::new(&dir.path().join("root"));
    let (changes, writer) = last_good.writer();
    changes
        .send(Change { name: name.as_str().into(), text: Some(manifest("a", "").into_bytes().into()) })
        .await
        .unwrap();
    drop(changes);
    writer.await.unwrap();
    let mut bed = start(dir, NEVER, "manifests");
    bed.until_pods(&[]).await;
    let change = bed.changes.recv().await.unwrap();
    assert_eq!((&*change.name, change.text), (name.as_str(), None));
}
