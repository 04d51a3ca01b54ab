//! `kubelet check`: validates manifests as the daemon would, without running them.

use crate::cli::CheckArgs;
use anyhow::Result;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Exit code when a manifest is wrong.
const WRONG: u8 = 1;
/// The daemon reads no larger file either.
const MAX_BYTES: u64 = pod::manifest::MAX_BYTES as u64;

pub(crate) fn run(args: CheckArgs) -> Result<u8> {
    let mut code = 0;
    for path in &args.paths {
        for file in files(path)? {
            if !check(&file) {
                code = WRONG;
            }
        }
    }
    Ok(code)
}

/// The file itself, or the manifests of a directory in the order the daemon reads them.
fn files(path: &Path) -> Result<Vec<PathBuf>> {
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let mut files = Vec::new();
    for entry in std::fs::read_dir(path)? {
        let file = entry?.path();
        let name = file.file_name().unwrap_or_default();
        if pod::manifest::is_file_name(name.as_bytes()) {
            files.push(file);
        }
    }
    files.sort();
    Ok(files)
}

fn check(file: &Path) -> bool {
    let name = file.display().to_string();
    let bytes = match read(file) {
        Ok(bytes) => bytes,
        Err(reason) => {
            eprintln!("{name}: {reason}");
            return false;
        }
    };
    let manifest = pod::manifest::parse(&name, &bytes);
    for error in &manifest.errors {
        eprintln!("{error}");
    }
    if manifest.errors.is_empty() {
        let pods = manifest.pods.iter().map(|parsed| pod::full_name(&parsed.pod));
        let secrets = manifest.secrets.iter().map(|secret| format!("secret {}_{}", secret.name, secret.namespace));
        println!("{name}: ok: {}", pods.chain(secrets).collect::<Vec<_>>().join(", "));
    }
    manifest.errors.is_empty()
}

fn read(file: &Path) -> Result<Vec<u8>, String> {
    let metadata = std::fs::metadata(file).map_err(|error| format!("cannot be read: {error}"))?;
    if !metadata.is_file() {
        return Err("is not a regular file".into());
    }
    if metadata.len() > MAX_BYTES {
        return Err(format!("has {} bytes, more than the {MAX_BYTES} allowed", metadata.len()));
    }
    std::fs::read(file).map_err(|error| format!("cannot be read: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_manifest_gives_exit_code_1() {
        let dir = tempfile::tempdir().unwrap();
        let good = "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec: {containers: [{name: c, image: busybox}]}\n";
        std::fs::write(dir.path().join("a.yaml"), good).unwrap();
        std::fs::write(dir.path().join("notes.txt"), "not a manifest").unwrap();
        let secret = "apiVersion: v1\nkind: Secret\ntype: kubernetes.io/dockerconfigjson\nmetadata: {name: s}\nstringData: {.dockerconfigjson: '{\"auths\": {\"r.example\": {\"auth\": \"YTpi\"}}}'}\n";
        std::fs::write(dir.path().join("s.yaml"), secret).unwrap();
        assert_eq!(run(CheckArgs { paths: vec![dir.path().into()] }).unwrap(), 0);
        std::fs::write(dir.path().join("b.yml"), good.replace("image", "imgae")).unwrap();
        assert_eq!(run(CheckArgs { paths: vec![dir.path().into()] }).unwrap(), WRONG);
        assert_eq!(run(CheckArgs { paths: vec!["/nowhere.yaml".into()] }).unwrap(), WRONG);
    }

    #[test]
    fn a_secret_for_images_is_right_and_another_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("secret.yaml");
        let good = "apiVersion: v1\nkind: Secret\nmetadata: {name: registry}\ntype: kubernetes.io/dockerconfigjson\n\
                    stringData: {.dockerconfigjson: '{\"auths\": {\"r.example\": {\"username\": \"u\", \"password\": \"p\"}}}'}\n";
        std::fs::write(&file, good).unwrap();
        assert_eq!(run(CheckArgs { paths: vec![file.clone()] }).unwrap(), 0);
        std::fs::write(&file, good.replace("kubernetes.io/dockerconfigjson", "Opaque")).unwrap();
        assert_eq!(run(CheckArgs { paths: vec![file] }).unwrap(), WRONG);
    }

    #[test]
    fn the_examples_are_right() {
        let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples");
        assert!(files(&examples).unwrap().len() >= 3);
        assert_eq!(run(CheckArgs { paths: vec![examples] }).unwrap(), 0);
    }
}
