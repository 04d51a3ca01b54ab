//! The files in which `docker-registry` keeps images. It looks at them with each request, so what is written here is there
//! at once, and can be what no client could push.

use crate::oci::Blob;
use std::path::Path;

fn write(path: &Path, bytes: &[u8]) {
    std::fs::create_dir_all(path.parent().expect("a directory")).expect("the registry's directory");
    // Renamed into place: a registry that is asked meanwhile finds all or nothing.
    let new = path.with_extension("new");
    std::fs::write(&new, bytes).expect("written");
    std::fs::rename(new, path).expect("renamed");
}

pub(super) fn blob(data: &Path, repository: &str, blob: &Blob) {
    let root = data.join("docker/registry/v2");
    let (hex, digest) = (blob.hex(), blob.digest.as_bytes());
    write(&root.join("blobs/sha256").join(&hex[..2]).join(hex).join("data"), &blob.bytes);
    write(&root.join("repositories").join(repository).join("_layers/sha256").join(hex).join("link"), digest);
}

pub(super) fn tag(data: &Path, (repository, tag): (&str, &str), manifest: &Blob) {
    blob(data, repository, manifest);
    let manifests = data.join("docker/registry/v2/repositories").join(repository).join("_manifests");
    let (hex, digest) = (manifest.hex(), manifest.digest.as_bytes());
    write(&manifests.join("revisions/sha256").join(hex).join("link"), digest);
    write(&manifests.join("tags").join(tag).join("index/sha256").join(hex).join("link"), digest);
    write(&manifests.join("tags").join(tag).join("current/link"), digest);
}
