//! `kubelet image`: pull, import, list, remove and prune.

mod progress;
mod pull;

use super::{Columns, printable};
use crate::cli::ImageCommand;
use crate::client::{Client, collect, percent_encode};
use anyhow::{Context, Result};
use hyper::Method;

/// Exit code where an image that nobody uses could not be removed.
const NOT_ALL: u8 = 1;

pub(crate) async fn run(command: ImageCommand) -> Result<u8> {
    match command {
        ImageCommand::Pull { target, quiet, reference } => {
            pull::run(&Client::new(&target.run_dir), &reference, quiet).await?;
        }
        ImageCommand::Import { target, files } => {
            let client = Client::new(&target.run_dir);
            for file in files {
                // The kubelet's working directory is not ours.
                let path = std::fs::canonicalize(&file).with_context(|| format!("{}", file.display()))?;
                let body = serde_json::json!({"path": path, "pinned": false});
                let answer = client.send(Method::POST, "/images/import", Some(body)).await?;
                let imported: Vec<server::ImportedImage> = serde_json::from_slice(&collect(answer).await?)?;
                for image in imported {
                    println!("{} {}", printable(&image.reference), image.id);
                }
            }
        }
        ImageCommand::List { target } => {
            let images: Vec<server::ImageSummary> = Client::new(&target.run_dir).get_json("/images").await?;
            print!("{}", render(&images));
        }
        ImageCommand::Remove { target, images } => {
            let client = Client::new(&target.run_dir);
            for image in images {
                client.send(Method::DELETE, &format!("/images?reference={}", percent_encode(&image)), None).await?;
                println!("removed {image}");
            }
        }
        ImageCommand::Prune { target } => {
            let answer = Client::new(&target.run_dir).send(Method::POST, "/images/prune", None).await?;
            let pruned: server::Pruned = serde_json::from_slice(&collect(answer).await?)?;
            print!("{}", told(&pruned));
            for failure in &pruned.failed {
                let (name, error) = (named(&failure.names, &failure.id), printable(&failure.error));
                eprintln!("kubelet: cannot remove {name}: {error}");
            }
            return Ok(if pruned.failed.is_empty() { 0 } else { NOT_ALL });
        }
    }
    Ok(0)
}

fn render(images: &[server::ImageSummary]) -> String {
    let yes_no = |fact: bool| if fact { "yes" } else { "no" }.to_owned();
    let mut rows = vec![["IMAGE", "ID", "SIZE", "PINNED", "IN USE"].map(String::from).to_vec()];
    for image in images {
        // An image that was asked for by its digest has no other name.
        let names = if image.references.is_empty() { &image.digests } else { &image.references };
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        for name in if names.is_empty() { vec!["<none>"] } else { names } {
            let size = human_size(image.size_bytes);
            rows.push(vec![printable(name), short(&image.id), size, yes_no(image.pinned), yes_no(image.in_use)]);
        }
    }
    Columns::default().table(&rows)
}

/// What a removal of unused images came to.
fn told(pruned: &server::Pruned) -> String {
    if pruned.removed.is_empty() && pruned.failed.is_empty() {
        return "no unused images\n".to_owned();
    }
    let mut out = String::new();
    for image in &pruned.removed {
        out.push_str(&format!("removed {}\n", named(&image.names, &image.id)));
    }
    out.push_str(&format!("freed {} of disk\n", human_size(pruned.freed_bytes)));
    out
}

/// An image by the names that people know it by; by its id if it has lost all.
fn named(names: &[String], id: &str) -> String {
    let tags: Vec<String> = names.iter().filter(|name| !name.contains('@')).map(|name| printable(name)).collect();
    match (tags.is_empty(), names.first()) {
        (false, _) => format!("{} ({})", tags.join(", "), short(id)),
        (true, Some(digest)) => format!("{} ({})", printable(digest), short(id)),
        (true, None) => short(id),
    }
}

/// As much of an id or a digest as is enough for people.
fn short(digest: &str) -> String {
    printable(digest).trim_start_matches("sha256:").chars().take(12).collect()
}

fn human_size(bytes: u64) -> String {
    match bytes {
        0..1_000 => format!("{bytes} B"),
        1_000..1_000_000 => format!("{:.1} kB", bytes as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} MB", bytes as f64 / 1e6),
        _ => format!("{:.1} GB", bytes as f64 / 1e9),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_has_a_row_for_each_of_its_names() {
        let image = |references: &[&str], digests: &[&str]| server::ImageSummary {
            id: "sha256:0123456789abcdef".into(),
            references: references.iter().map(ToString::to_string).collect(),
            digests: digests.iter().map(ToString::to_string).collect(),
            size_bytes: 2_000_000,
            pinned: false,
            in_use: true,
        };
        let images = [image(&["r/a:1", "r/a:2"], &["r/a@sha256:0"]), image(&[], &["r/b@sha256:0"]), image(&[], &[])];
        let out = render(&images);
        let names: Vec<&str> = out.lines().filter_map(|line| line.split("   ").next()).map(str::trim).collect();
        assert_eq!(names, ["IMAGE", "r/a:1", "r/a:2", "r/b@sha256:0", "<none>"]);
        assert!(out.lines().skip(1).all(|line| line.ends_with("0123456789ab   2.0 MB   no       yes")), "{out}");
    }

    #[test]
    fn a_removal_says_what_is_gone() {
        assert_eq!(told(&server::Pruned::default()), "no unused images\n");
        let image = |names: &[&str]| server::PrunedImage {
            id: "sha256:0123456789abcdef".into(),
            names: names.iter().map(ToString::to_string).collect(),
            size_bytes: 2_000_000,
        };
        let removed = vec![
            image(&["r.example/a:1", "r.example/a:2", "r.example/a@sha256:0"]),
            image(&["r.example/b@sha256:1"]),
            image(&[]),
        ];
        let pruned = server::Pruned { removed, failed: Vec::new(), freed_bytes: 1_500_000 };
        let expected = "removed r.example/a:1, r.example/a:2 (0123456789ab)\n\
                        removed r.example/b@sha256:1 (0123456789ab)\n\
                        removed 0123456789ab\n\
                        freed 1.5 MB of disk\n";
        assert_eq!(told(&pruned), expected);
    }

    #[test]
    fn sizes_are_readable() {
        for (bytes, text) in [(12, "12 B"), (1_500, "1.5 kB"), (2_340_000, "2.3 MB"), (5_000_000_000, "5.0 GB")] {
            assert_eq!(human_size(bytes), text);
        }
    }
}
