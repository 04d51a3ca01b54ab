//! Images as the adapter tells of them.

use cri::{Code, Error, Runtime, v1};

use crate::daemon::{Daemon, run};
use crate::world::{IMAGE, World};

fn spec(image: &str) -> Option<v1::ImageSpec> {
    Some(v1::ImageSpec { image: image.into(), ..Default::default() })
}

async fn image(world: &World, name: &str) -> Option<v1::Image> {
    let request = v1::ImageStatusRequest { image: spec(name), ..Default::default() };
    world.docker.image_status(request).await.unwrap().image
}

async fn remove(world: &World, name: &str) -> Result<(), Error> {
    world.docker.remove_image(v1::RemoveImageRequest { image: spec(name) }).await.map(drop)
}

#[tokio::test]
async fn images_are_listed_found_and_removed_with_all_their_names() {
    let Some(daemon) = Daemon::own() else { return };
    let world = World::on(daemon);
    run(world.daemon.client().args(["tag", "busybox", "registry.example/app:1"]));
    let found = image(&world, IMAGE).await.unwrap();
    let mut names = found.repo_tags.clone();
    names.sort();
    assert_eq!(names, [IMAGE, "registry.example/app:1"]);
    assert!(found.size > 0 && found.id.starts_with("sha256:") && !found.pinned);
    for name in ["busybox", &found.id, "registry.example/app:1"] {
        assert_eq!(image(&world, name).await.unwrap().id, found.id);
    }
    assert_eq!(image(&world, "registry.example/app:2").await, None);
    let sandbox = world.run().await.unwrap();
    let all = world.docker.list_images(v1::ListImagesRequest::default()).await.unwrap().images;
    assert_eq!(all.len(), 2);
    let pause = all.into_iter().find(|image| image.pinned).unwrap();
    assert!(pause.repo_tags[0].starts_with("kubelet.local/pause:"), "{pause:?}");
    assert_eq!(remove(&world, &pause.id).await.unwrap_err().code, Code::FailedPrecondition);

    let container = world.create(&sandbox, world.container("app", "true")).await.unwrap();
    assert_eq!(remove(&world, IMAGE).await.unwrap_err().code, Code::FailedPrecondition, "it is in use");
    assert_eq!(image(&world, IMAGE).await.unwrap().repo_tags.len(), 2, "and keeps its names");
    world.remove(&container).await.unwrap();
    for _ in 0..2 {
        remove(&world, IMAGE).await.unwrap();
    }
    assert_eq!(image(&world, &found.id).await, None);
    let error = world.create(&sandbox, world.container("app", "true")).await.unwrap_err();
    assert_eq!(error.code, Code::NotFound);
    world.remove_sandbox(&sandbox).await.unwrap();
}

#[tokio::test]
async fn a_pull_that_fails_says_why_and_nothing_leaves_the_api() {
    let Some(world) = World::new() else { return };
    let request = |image: &str| v1::PullImageRequest { image: spec(image), ..Default::default() };
    // Nobody listens there.
    let error = world.docker.pull_image(request("127.0.0.1:1/app:1")).await.unwrap_err();
    assert!(error.message.starts_with("pull image 127.0.0.1:1/app:1: "), "{error}");
    for bad in ["", "../containers/x", "a b"] {
        let error = world.docker.pull_image(request(bad)).await.unwrap_err();
        assert_eq!(error.code, Code::InvalidArgument, "{bad:?}");
    }
}
