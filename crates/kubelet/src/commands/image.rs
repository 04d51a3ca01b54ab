//! `kubelet image`: import, list and remove.

use super::{Columns, printable};
use crate::cli::ImageCommand;
use crate::client::{Client, collect, percent_encode};
use anyhow::{Context, Result};
use hyper::Method;

pub(crate) async fn run(command: ImageCommand) -> Result<u8> {
    match command {
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
    }
    Ok(0)
}

fn render(images: &[server::ImageSummary]) -> String {
    let mut rows = vec![["IMAGE", "ID", "SIZE", "PINNED"].map(String::from).to_vec()];
    for image in images {
        let names = if image.references.is_empty() { vec!["<none>".to_owned()] } else { image.references.clone() };
        let id: String = image.id.trim_start_matches("sha256:").chars().take(12).collect();
        for name in names {
            let pinned = if image.pinned { "yes" } else { "no" };
            rows.push(vec![printable(&name), id.clone(), human_size(image.size_bytes), pinned.into()]);
        }
    }
    Columns::default().table(&rows)
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
    fn sizes_are_readable() {
        for (bytes, text) in [(12, "12 B"), (1_500, "1.5 kB"), (2_340_000, "2.3 MB"), (5_000_000_000, "5.0 GB")] {
            assert_eq!(human_size(bytes), text);
        }
    }
}
